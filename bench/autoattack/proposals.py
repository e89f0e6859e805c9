"""The only owner of what Square proposes, whatever the norm, and in linf: a window of signs.

A proposal is written into the state's points, window by window, and taken back where it is no better. The released code
moves whole images; outside its windows that moves nothing in linf and l2, up to rounding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustcl.bench.autoattack.search import Rows, Search
from robustcl.bench.autoattack.windows import Grid


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
        self.pixels = self.window.flatten()
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
        self.places = corner + self.pixels
        self.fresh = state.origin.gather(1, edges.view(len(edges), -1))
        self.old = state.point.gather(1, self.places)
        state.point.scatter_(1, self.places, self.fresh)

    def back(self, state: Hunt, better: Tensor) -> None:
        """The old window."""
        state.point.scatter_(1, self.places, torch.where(better, self.fresh, self.old))

    def new(self) -> Tensor | None:
        """Not where the window has these signs already."""
        return (self.fresh != self.old).any(1)
