"""The only owner of the steps of Auto-PGD in linf and l2: start, step with momentum, checkpoints that halve it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcl.bench.autoattack.draws import Source
from robustcl.bench.autoattack.search import Rows
from robustcl.models.threat import Threat

_SMALL = 1e-12
_MOMENTUM = 0.75  # the share of the new step; what is left is the last one's


@dataclass
class Climb(Rows):
    """What Auto-PGD holds of the images it climbs with, a row each.

    `size` is the step; `rises`, `halved` and `checked_loss` are what the checkpoints of linf and l2 look at, `share`
    and `support` those of l1.
    """

    at: Tensor
    x: Tensor
    y: Tensor
    goal: Tensor
    point: Tensor
    old: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    last_loss: Tensor
    checked_loss: Tensor
    size: Tensor
    rises: Tensor
    halved: Tensor
    share: Tensor
    support: Tensor

    @classmethod
    def begin(cls, at: Tensor, x: Tensor, y: Tensor, goal: Tensor, point: Tensor) -> "Climb":
        """At `point` (m, ...), before anything is known of it."""
        none = torch.zeros(len(x), device=x.device)
        return cls(
            at=at,
            x=x,
            y=y,
            goal=goal,
            point=point,
            old=point,
            gradient=point,
            best=point.clone(),
            best_gradient=point,
            best_loss=none,
            # The released code compares the first loss with an empty row of its table.
            last_loss=none,
            checked_loss=none,
            size=none,
            rises=none,
            halved=torch.ones(len(x), dtype=torch.bool, device=x.device),
            share=none,
            support=none,
        )

    def note(self, losses: Tensor) -> None:
        """The losses (m,) at the new points: what is best, and whether they rose."""
        self.rises = self.rises + (losses > self.last_loss)
        self.last_loss = losses
        better = losses > self.best_loss
        self.best_loss = torch.where(better, losses, self.best_loss)
        rows = better.nonzero()[:, 0] if better.device.type == "cpu" else None
        if rows is None:  # without waiting for the device
            wide = column(better, self.point)
            self.best = torch.where(wide, self.point, self.best)
            self.best_gradient = torch.where(wide, self.gradient, self.best_gradient)
            return
        self.best[rows] = self.point[rows]
        self.best_gradient[rows] = self.gradient[rows]

    def back(self, which: Tensor) -> None:
        """Return to the best point where `which` (m,) says so."""
        wide = column(which, self.point)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)


class Mover(ABC):
    """How Auto-PGD moves in one norm, within one run."""

    def __init__(self, threat: Threat) -> None:
        self.radius = self.eps = float(threat.eps)
        self.steps = 0

    @abstractmethod
    def start(self, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """The point (m, ...) to begin at, in the box."""

    def enlarge(self, times: int, steps: int) -> None:
        """From now on so many times the radius, for so many steps."""
        self.radius, self.steps = times * self.eps, steps

    def enter(self, point: Tensor, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """The point (m, ...) that a phase begins at."""
        return point

    @abstractmethod
    def begin(self, state: Climb) -> None:
        """Step sizes before the first step."""

    @abstractmethod
    def move(self, state: Climb, *, first: bool) -> Tensor:
        """The next points (m, ...)."""

    @abstractmethod
    def after(self, state: Climb, number: int) -> None:
        """What happens when the losses of step `number` (from 0) are noted: at a checkpoint, new step sizes."""


class Halving(Mover):
    """What linf and l2 share: the step is halved at checkpoints where the loss no longer rises often enough."""

    def enlarge(self, times: int, steps: int) -> None:
        """The checkpoints come ever sooner."""
        super().enlarge(times, steps)
        self.wait, self.least, self.sooner = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
        self.due = self.wait

    def begin(self, state: Climb) -> None:
        """Twice the radius."""
        state.size = torch.full_like(state.best_loss, 2 * self.radius)

    def after(self, state: Climb, number: int) -> None:
        """Halve where fewer than three quarters of the steps rose, or where nothing improved since the last look."""
        self.due -= 1
        if self.due:
            return
        stuck = ~state.halved & (state.checked_loss >= state.best_loss)
        state.halved = (state.rises <= 0.75 * self.wait) | stuck
        state.checked_loss = state.best_loss
        state.rises = torch.zeros_like(state.rises)
        state.size = torch.where(state.halved, state.size / 2, state.size)
        state.back(state.halved)
        self.wait = self.due = max(self.wait - self.sooner, self.least)


class Linf(Halving):
    """In linf: along the signs of the gradient."""

    def start(self, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """A point of the ball whose largest change is the radius."""
        cube = 2 * source.uniform(at, tuple(x.shape[1:])) - 1
        most = cube.flatten(1).abs().amax(1)
        return (x + self.eps * (cube / (column(most, x) + _SMALL))).clamp_(0, 1)

    def move(self, state: Climb, *, first: bool) -> Tensor:
        """A step, then three quarters of it and a quarter of the last one, both within ball and box."""
        low, high = (state.x - self.radius).clamp_(0, 1), (state.x + self.radius).clamp_(0, 1)
        step = column(state.size, state.x)
        moved = torch.addcmul(state.point, step, state.gradient.sign()).clamp_(low, high)
        a = 1.0 if first else _MOMENTUM
        moved = state.point + (moved - state.point) * a
        if not first:
            moved += (state.point - state.old) * (1 - a)
        return moved.clamp_(low, high)


class L2(Halving):
    """In l2: along the gradient."""

    def start(self, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """A point of the sphere."""
        return (x + self.eps * _unit(source.normal(at, tuple(x.shape[1:])))).clamp_(0, 1)

    def move(self, state: Climb, *, first: bool) -> Tensor:
        """A step, then three quarters of it and a quarter of the last one, both within ball and box."""
        moved = self._within(state.point + column(state.size, state.x) * _unit(state.gradient), state.x)
        a = 1.0 if first else _MOMENTUM
        moved = state.point + (moved - state.point) * a
        if not first:
            moved += (state.point - state.old) * (1 - a)
        return self._within(moved, state.x)

    def _within(self, point: Tensor, x: Tensor) -> Tensor:
        change = point - x
        size = _length(change)
        scale = size.clamp_max(self.radius) / (size + _SMALL)
        return (x + change * scale).clamp_(0, 1)


def column(per_image: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, ...), to go with `like` (n, ...)."""
    return per_image.view(-1, *[1] * (like.dim() - 1))


def _length(change: Tensor) -> Tensor:
    """(n, 1, ...) l2 lengths."""
    return column((change**2).flatten(1).sum(1).sqrt(), change)


def _unit(change: Tensor) -> Tensor:
    return change / (_length(change) + _SMALL)
