"""The only owner of what Square proposes in each norm: where it begins, a window of signs in linf, bumps in l2 and l1.

A proposal is written into the state's points, window by window, and taken back where it is no better. The released code
moves whole images; outside its windows that moves nothing in linf and l2, up to rounding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustcl.bench.autoattack.search import Rows, Search
from robustcl.bench.autoattack.windows import Grid, bumps

_SMALL = 1e-12
_INSIDE = 1 - 1e-6  # of the l1 radius, as released


@dataclass
class Hunt(Rows):
    """What Square holds of the images that it proposes to, a row each.

    `point` (m, d) are the best points and `margin` (m, 1) theirs, `length` (m, 1) how far they are from the images
    (squared in l2, unused in linf), `asked` (m,) how many points the model was asked about. `origin` are the images
    (m, d); in linf the lowest, then the highest values that they may take (m, 2d).
    """

    at: Tensor
    y: Tensor
    origin: Tensor
    point: Tensor
    length: Tensor
    margin: Tensor
    asked: Tensor


class Proposals(ABC):
    """What is proposed in one norm, to one cohort."""

    windows: ClassVar[int]  # that a query draws
    least: ClassVar[int]  # pixels that a side has

    def __init__(self, search: Search, grid: Grid) -> None:
        self.source, self.grid, self.eps = search.source, grid, float(search.threat.eps)
        self.side, self.signs = 0, 1

    def hunt(self, at: Tensor, x: Tensor, y: Tensor) -> Hunt:
        """The state before the first answers, for images `x` (m, c, h, w) with labels `y` (m,)."""
        origin, point, length = self.start(at, x)
        unknown = torch.full_like(length, torch.inf)
        asked = torch.ones_like(at)
        return Hunt(at=at, y=y[:, None], origin=origin, point=point, length=length, margin=unknown, asked=asked)

    def propose(self, state: Hunt, query: int) -> None:
        """Write the proposals of a query (from 0) into the points."""
        side = self.grid.side(query, self.least)
        if side != self.side:
            self.side = side
            self.resize()
        self.move(state)

    def resize(self) -> None:
        """From now on windows of another side: their places, and how many values each draw has."""
        self.window = self.grid.window(self.side)
        room = [self.grid.height - self.side, self.grid.width - self.side]
        self.values = torch.tensor(room * self.windows + [2] * self.signs, device=self.grid.device).float()

    @abstractmethod
    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, points and lengths of the state, for images `x` (m, c, h, w)."""

    @abstractmethod
    def move(self, state: Hunt) -> None:
        """What `propose` does, with windows of this side."""

    @abstractmethod
    def back(self, state: Hunt, better: Tensor) -> None:
        """Take the proposals back where they are not `better` (m, 1)."""

    def new(self) -> Tensor | None:
        """(m,) bool, which proposals change anything; None where all do."""
        return None


class Signs(Proposals):
    """In linf: a window per query, each of its channels at the lowest or the highest values.

    A draw of exactly 1/2 has no sign in the released code; here it is the highest.
    """

    windows, least = 1, 1

    def __init__(self, search: Search, grid: Grid) -> None:
        super().__init__(search, grid)
        self.signs = grid.channels

    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vertical stripes."""
        low, high = (x - self.eps).clamp_(0, 1), (x + self.eps).clamp_(0, 1)
        up = self.source.uniform(at, (self.grid.channels, 1, self.grid.width)) >= 0.5
        point = self.grid.flat(torch.where(up, high, low))
        return torch.cat([self.grid.flat(low), self.grid.flat(high)], 1), point, torch.zeros_like(point[:, :1])

    def move(self, state: Hunt) -> None:
        """The new window."""
        drawn = (self.source.query(state.at, 2 + self.signs, 0) * self.values).long()
        row, column, up = drawn.split([1, 1, self.signs], 1)
        corner = self.grid.moved(row, column)
        edges = torch.add(corner, up, alpha=self.grid.size)[:, :, None] + self.window
        self.places = corner + self.window.view(-1)
        self.fresh = state.origin.gather(1, edges.view(len(edges), -1))
        self.old = state.point.gather(1, self.places)
        state.point.scatter_(1, self.places, self.fresh)

    def back(self, state: Hunt, better: Tensor) -> None:
        """The old window."""
        state.point.scatter_(1, self.places, torch.where(better, self.fresh, self.old))

    def new(self) -> Tensor | None:
        """Not where the window has these signs already."""
        return (self.fresh != self.old).any(1)


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
        drawn, window = self.source.query(state.at, 5, self.grid.channels), self.window.view(-1)
        row, column, row2, column2, turned = (drawn[:, :5] * self.values).long().split(1, 1)
        self.first, self.second = window + self.grid.moved(row, column), window + self.grid.moved(row2, column2)
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
        point = (origin + self.eps / (_energy(change).sqrt() + _SMALL) * change).clamp_(0, 1)
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
        return _energy(change).sqrt()


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


def proposals(search: Search, grid: Grid) -> Proposals:
    """Those of the threat's norm."""
    kinds: dict[str, type[Proposals]] = {"linf": Signs, "l2": L2Bumps, "l1": L1Bumps}
    return kinds[search.threat.norm](search, grid)


def _signs(drawn: Tensor) -> Tensor:
    return (drawn - 0.5).sign()


def _energy(change: Tensor) -> Tensor:
    return change.square().sum(-1, keepdim=True)
