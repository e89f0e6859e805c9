"""The only owner of the steps of Auto-PGD in l1 (Croce and Hein, ICML 2021): sparse steps, ever sparser."""

from typing import cast

import torch
from torch import Tensor

from robustcl.bench.autoattack.draws import Source
from robustcl.bench.autoattack.moves import Climb, Mover, column
from robustcl.models.threat import Threat

_SPARSER = 1.5  # how much sparser a step is than the best change so far; a step that found nothing shrinks as much
_FIRST_SHARE = 0.2
_LEAST_STEP = 10  # of the radius, as a divisor
_DENSE = 0.95  # a support that shrank to less than this is still on its way


class L1(Mover):
    """In l1: equal amounts on the pixels with the largest gradients; how many follows the best change so far.

    With `shrinking` a run begins in a larger ball, at a point whose own support says how sparse the steps are.
    """

    def __init__(self, threat: Threat, source: Source, *, shrinking: bool) -> None:
        super().__init__(threat)
        self.source, self.shrinking = source, shrinking

    def start(self, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """A normal change, projected; with `shrinking`, on the first ball."""
        change = source.normal(at, tuple(x.shape[1:]))
        if not self.shrinking:
            return x + change + source.l1_back(x, change, self.radius)
        point = x + change
        return point + source.l1_back(x, point - x, 3 * self.eps)

    def enlarge(self, times: int, steps: int) -> None:
        """A checkpoint every 25th of the steps."""
        super().enlarge(times, steps)
        self.wait = self.due = max(int(0.04 * steps), 1)

    def enter(self, point: Tensor, x: Tensor, source: Source, at: Tensor) -> Tensor:
        """The point in this phase's ball and in the box."""
        if not self.shrinking:
            return point.clamp(0, 1)
        source.waste(at, tuple(x.shape[1:]))  # a start that the released code draws before it sees that it has one
        return (point + source.l1_back(x, point - x, self.radius)).clamp(0, 1)

    def begin(self, state: Climb) -> None:
        """The whole radius at once."""
        state.size = torch.full_like(state.best_loss, self.radius)
        pixels = state.x.shape[1:].numel()
        if self.shrinking:
            state.support = _support(state.point, state.x)
            state.share = state.support / pixels / _SPARSER
        else:
            state.support = torch.full_like(state.best_loss, pixels)
            state.share = torch.full_like(state.best_loss, _FIRST_SHARE)

    def move(self, state: Climb, *, first: bool) -> Tensor:
        """A sparse step, projected on ball and box."""
        size = state.gradient.flatten(1).abs()
        pixels = size.shape[1]
        place = ((1 - state.share) * pixels).clamp(0, pixels - 1).long()[:, None]
        most = pixels - cast(int, place.min().item())
        least = size.topk(most, dim=1).values.gather(1, pixels - 1 - place)
        signs = (state.gradient * column(least, state.gradient).le(state.gradient.abs())).sign()
        count = column(signs.flatten(1).abs().sum(1), signs) + 1e-10
        moved = state.point + column(state.size, signs) * signs / count
        change = moved - state.x
        # Added to what was changed already: where all is taken back a rounding stays behind, and counts as a change.
        return state.x + change + self.source.l1_back(state.x, change, self.radius)

    def after(self, state: Climb, number: int) -> None:
        """Sparser where the best change is, with the whole step again; elsewhere a smaller step."""
        self.due -= 1
        if self.due:
            return
        self.due = self.wait
        support = _support(state.best, state.x)
        sparser = support / state.support < _DENSE
        state.share = support / state.x.shape[1:].numel() / _SPARSER
        smaller = (state.size / _SPARSER).clamp(self.radius / _LEAST_STEP, self.radius)
        state.size = torch.where(sparser, self.radius, smaller)
        state.support = support
        state.back(sparser)


def _support(point: Tensor, x: Tensor) -> Tensor:
    """(n,) how many pixels are changed."""
    return (point != x).flatten(1).sum(1)
