"""The only owner of what Square proposes in each norm: where it begins, a window of signs in linf, bumps in l2 and l1.

A proposal is written into the state's points, window by window, and taken back where it is no better. The released code
moves whole images; outside its windows that moves nothing in linf and l2, up to rounding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustcl.bench.autoattack.ball import l1_change
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
        self.places = self.window + self.grid.moved(row, column)
        edges = torch.add(self.places, up.repeat(1, self.side**2), alpha=self.grid.size)
        self.fresh = state.origin.gather(1, edges)
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

    def swap(self, state: Hunt) -> Tensor:
        """Empty the second window and return what the first will hold (m, k), before the box."""
        m, c = len(state.at), self.grid.channels
        drawn = self.source.query(state.at, 5, c)
        row, column, row2, column2, turned = (drawn[:, :5] * self.values).long().split(1, 1)
        self.first = self.window + self.grid.moved(row, column)
        second = self.window + self.grid.moved(row2, column2)
        self.places = torch.cat([self.first, second], 1)
        self.old, images = state.point.gather(1, self.places), state.origin.gather(1, self.places)
        inside, other = (self.old - images).view(m, 2, -1, c).unbind(1)
        self.image, second_image = images.chunk(2, 1)
        state.point.scatter_(1, second, second_image)
        rest = (state.point.gather(1, self.first) - self.image).view(m, -1, c)
        self.spent = self.measure(other) + self.measure(rest)  # of both windows, what they share counted once
        bump = torch.addcmul(
            inside / (self._norm(inside) + _SMALL),
            self.shapes.index_select(0, turned[:, 0])[:, :, None],
            _signs(drawn[:, 5:])[:, None],
        )
        bump *= self.norm_for(state.length[:, None]) / (self._norm(bump) + _SMALL)
        return self.image + bump.view(m, -1)

    @abstractmethod
    def measure(self, change: Tensor) -> Tensor:
        """(m, k, c) changes to (m, 1, c), what adds up over pixels."""

    @abstractmethod
    def norm_for(self, length: Tensor) -> Tensor:
        """(m, 1, c) the norms that the new bumps have."""

    def _norm(self, change: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(change, self.order, dim=1, keepdim=True)
        return norm

    def _shapes(self, side: int) -> Tensor:
        return bumps(side, self.order, self.grid.device).flatten(1)


class L2Bumps(Bumps):
    """In l2 the bump uses up the radius, and nothing has to be scaled: the released code does, by 1 up to rounding."""

    order = 2

    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tiles, as long as the radius."""
        change = self.grid.flat(self.tiles(at, x))
        change *= self.eps / (torch.linalg.vector_norm(change, dim=1, keepdim=True) + _SMALL)
        origin = self.grid.flat(x)
        point = (origin + change).clamp_(0, 1)
        return origin, point, (point - origin).square().sum(1, keepdim=True)

    def measure(self, change: Tensor) -> Tensor:
        return change.square().sum(1, keepdim=True)

    def norm_for(self, length: Tensor) -> Tensor:
        return ((self.eps**2 - length).clamp_min(0) / self.grid.channels + self.spent).sqrt()

    def move(self, state: Hunt) -> None:
        fresh = self.swap(state).clamp_(0, 1)
        state.point.scatter_(1, self.first, fresh)
        held = (fresh - self.image).square().sum(1, keepdim=True)
        self.length = state.length - self.spent.sum(2) + held

    def back(self, state: Hunt, better: Tensor) -> None:
        held = state.point.gather(1, self.places)
        state.point.scatter_(1, self.places, torch.where(better, held, self.old))
        state.length = torch.where(better, self.length, state.length)


class L1Bumps(Bumps):
    """In l1 the bump is longer than the radius allows, and the whole image is projected."""

    order = 1

    def start(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tiles, projected."""
        origin = self.grid.flat(x)
        change = l1_change(origin, self.grid.flat(self.tiles(at, x)), self.eps * _INSIDE)
        return origin, origin + change, change.abs().sum(1, keepdim=True)

    def measure(self, change: Tensor) -> Tensor:
        return change.abs().sum(1, keepdim=True)

    def norm_for(self, length: Tensor) -> Tensor:
        return (self.eps - length).clamp_min(0) + self.grid.channels * self.spent

    def move(self, state: Hunt) -> None:
        self.before = state.point
        state.point = state.point.clone()
        wanted = self.swap(state)
        change = state.point.scatter_(1, self.first, wanted) - state.origin
        change = l1_change(state.origin, change, self.eps * _INSIDE)
        state.point = state.origin + change
        self.length = change.abs().sum(1, keepdim=True)

    def back(self, state: Hunt, better: Tensor) -> None:
        state.point = torch.where(better, state.point, self.before)
        state.length = torch.where(better, self.length, state.length)


def proposals(search: Search, grid: Grid) -> Proposals:
    """Those of the threat's norm."""
    kinds: dict[str, type[Proposals]] = {"linf": Signs, "l2": L2Bumps, "l1": L1Bumps}
    return kinds[search.threat.norm](search, grid)


def _signs(drawn: Tensor) -> Tensor:
    return (drawn - 0.5).sign()
