"""The only owner of what Square proposes in l2 and l1: hills and hollows, and windows that hand over their change."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from robustcl.bench.autoattack.proposals import Hunt, Proposals

_SMALL = 1e-12
_INSIDE = 1 - 1e-6  # of the l1 radius, as released


class Bumps(Proposals, ABC):
    """In l2 and l1: of two windows, one gives all that it holds to the other, which gets a bump."""

    windows, least = 2, 3
    order: ClassVar[int]

    def resize(self) -> None:
        """And the bumps of this side."""
        super().resize()
        self.shapes = self._shapes(self.side)

    def tiles(self, at: Tensor, x: Tensor) -> Tensor:
        """(m, c, h, w) about five times five bumps or more, tile by tile; what does not fit is cut off."""
        side = self.grid.height // 5
        edge, shapes, change = (self.grid.height - 5 * side) // 2, self._shapes(side), torch.zeros_like(x)
        for top in range(edge, edge + self.grid.height // side * side, side):
            for left in range(edge, edge + self.grid.width // side * side, side):
                drawn = self.source.query(at, 1, self.grid.channels)
                bump = shapes[(2 * drawn[:, 0]).long()].view(-1, 1, side, side)
                tile = change[:, :, top : top + side, left : left + side]
                tile += (bump * _signs(drawn[:, 1:])[:, :, None, None])[:, :, : tile.shape[2], : tile.shape[3]]
        return change

    def draw(self, state: Hunt) -> None:
        """The windows: places (m, k) of the one that gets a bump, and of the one that is emptied; bump and signs."""
        drawn = self.source.query(state.at, 5, self.grid.channels)
        row, column, row2, column2, turned = (drawn[:, :5] * self.values).long().split(1, 1)
        self.first, self.second = (self.pixels + self.grid.moved(*at) for at in ((row, column), (row2, column2)))
        self.shape = self.shapes.index_select(0, turned[:, 0])[:, None]
        self.sign = _signs(drawn[:, 5:])[:, :, None]

    def bump(self, inside: Tensor, length: Tensor) -> Tensor:
        """(m, k) the drawn bumps upon the change (m, c, k / c) there is, scaled to lengths (m, c, 1)."""
        bump = torch.addcmul(inside / (self.length(inside) + _SMALL), self.shape, self.sign)
        return (bump / (self.length(bump) + _SMALL) * length).flatten(1)

    @abstractmethod
    def length(self, change: Tensor) -> Tensor:
        """(m, c, k) to (m, c, 1), in this norm."""

    def _shapes(self, side: int) -> Tensor:
        return bumps(side, self.order, self.grid.device).flatten(1)


class L2Bumps(Bumps):
    """In l2 the bump uses up the radius, and nothing has to be scaled: the released code does, by 1 up to rounding."""

    order = 2

    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tiles, as long as the radius."""
        origin, change = self.grid.flat(x), self.grid.flat(self.tiles(at, x))
        point = (origin + self.eps / (self.length(change) + _SMALL) * change).clamp_(0, 1)
        return origin, point, _energy(point - origin)

    def move(self, state: Hunt) -> None:
        """The changes of both windows go into the first; what they share counts once."""
        self.draw(state)
        self.places = torch.cat([self.first, self.second], 1)
        self.old, images = state.point.gather(1, self.places), state.origin.gather(1, self.places)
        inside, other = (self.old - images).view(len(images), 2, self.grid.channels, -1).unbind(1)
        image, emptied = images.chunk(2, 1)
        state.point.scatter_(1, self.second, emptied)
        alone = (state.point.gather(1, self.first) - image).view_as(inside)
        held = _energy(other) + _energy(alone)
        room = (self.eps**2 - state.length[:, None]).clamp_min(0) / self.grid.channels
        fresh = (image + self.bump(inside, (room + held).sqrt())).clamp_(0, 1)
        state.point.scatter_(1, self.first, fresh)
        self.new_length = state.length - held.sum(1) + _energy(fresh - image)

    def back(self, state: Hunt, better: Tensor) -> None:
        """The old windows."""
        held = state.point.gather(1, self.places)
        state.point.scatter_(1, self.places, torch.where(better, held, self.old))
        state.length = torch.where(better, self.new_length, state.length)

    def length(self, change: Tensor) -> Tensor:
        """The root of the sum of squares."""
        length: Tensor = torch.linalg.vector_norm(change, dim=-1, keepdim=True)
        return length


class L1Bumps(Bumps):
    """In l1 the bump of an image with colours is longer than the radius allows, and the image is projected.

    What rounding leaves of a change that the projection undid is a change to the released code, and it goes by its
    direction. So sums are taken here as it takes them; elsewhere that does not matter.
    """

    order = 1

    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tiles, projected."""
        origin = self.grid.flat(x)
        point = self._projected(origin, self.grid.flat(self.tiles(at, x)))
        return origin, point, self.length(point - origin)

    def move(self, state: Hunt) -> None:
        """The changes of both windows go into the first, times the channels."""
        self.draw(state)
        m, c = len(state.at), self.grid.channels
        change = state.point - state.origin
        inside = change.gather(1, self.first)
        both = torch.zeros_like(change).scatter_(1, self.first, inside)
        both.scatter_(1, self.second, change.gather(1, self.second))
        room = (self.eps - state.length[:, None]).clamp_min(0) / c
        bump = self.bump(inside.view(m, c, -1), room + self.length(both.view(m, c, -1))) * c
        change.scatter_(1, self.second, 0).scatter_(1, self.first, bump)
        self.before, state.point = state.point, self._projected(state.origin, change)
        self.new_length = self.length(state.point - state.origin)

    def back(self, state: Hunt, better: Tensor) -> None:
        """The old images."""
        state.point = torch.where(better, state.point, self.before)
        state.length = torch.where(better, self.new_length, state.length)

    def length(self, change: Tensor) -> Tensor:
        """The sum of sizes."""
        return change.abs().sum(-1, keepdim=True)

    def _projected(self, origin: Tensor, change: Tensor) -> Tensor:
        return origin + change + self.source.l1_back(origin, change, self.eps * _INSIDE)


def bumps(side: int, order: int, device: torch.device) -> Tensor:
    """(2, side, side) a hill above a hollow, and the same transposed; of length 1 in the norm of `order` (1 or 2)."""
    above, below = _hill(side // 2, side, order, device), _hill(side - side // 2, side, order, device)
    bump = _unit(torch.cat([above, -below]), order)
    return torch.stack([bump, bump.T])


def _hill(rows: int, columns: int, order: int, device: torch.device) -> Tensor:
    """Ring upon ring, the k-th as high as 1/k^2 in l2 and 1/k^4 in l1; of length 1, added up as the package does."""
    high, wide = ((torch.arange(size, device=device) - size // 2).abs() for size in (rows, columns))
    ring, hill = torch.maximum(high[:, None], wide), torch.zeros(rows, columns, device=device)
    for number in range(max(rows, columns) // 2 + 1):
        hill += (ring <= number) / (number + 1) ** (4 if order == 1 else 2)
    return _unit(hill, order)


def _unit(bump: Tensor, order: int) -> Tensor:
    return bump / (bump.abs().sum() if order == 1 else bump.square().sum().sqrt())


def _signs(drawn: Tensor) -> Tensor:
    return (drawn - 0.5).sign()


def _energy(change: Tensor) -> Tensor:
    return change.square().sum(-1, keepdim=True)
