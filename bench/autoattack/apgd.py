"""The only owner of Auto-PGD as our engine runs it (Croce and Hein, ICML 2020): losses, targets, restarts, steps.

It goes where the released code goes, step by step; what differs is said where it does. An image leaves at its first
success, which the steps of the others do not depend on: every state is one of an image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.autoattack.moves import L2, Climb, Linf, Mover
from robustcl.bench.autoattack.search import Claims, Search
from robustcl.bench.autoattack.sparse import L1

Loss = Callable[[Tensor], Tensor]
_SMALL = 1e-12


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: for each of `targets` (or once) and each restart `steps` steps; `samples` gradients per step."""

    loss: Literal["ce", "dlr", "targeted"]
    steps: int
    restarts: int
    targets: int
    samples: int
    shrinking: bool

    @property
    def phases(self) -> list[tuple[int, int]]:
        """(times the radius, steps) one after the other; the last one is at the radius itself."""
        if not self.shrinking:
            return [(1, self.steps)]
        first = math.ceil(0.3 * self.steps)
        return [(3, first), (2, first), (1, self.steps - 2 * first)]


def attack(search: Search, plan: Plan) -> None:
    """Climb with every image that is still right, target by target and restart by restart."""
    targeted = plan.loss == "targeted"
    for target in range(plan.targets):
        for _ in range(plan.restarts):
            at = search.left
            if not len(at):
                return
            goal = search.ranking[at, 1 + target] if targeted else search.y[at]
            _run(search, plan, at, goal)


def _run(search: Search, plan: Plan, at: Tensor, goal: Tensor) -> None:
    """One run over all phases; each begins at the best point of the one before."""
    moves = _mover(search, plan)
    point = moves.start(search.x[at], search.source, at)
    for times, steps in plan.phases:
        moves.enlarge(times, steps)
        point = moves.enter(point, search.x[at], search.source, at)
        state = Climb.begin(at, search.x[at], search.y[at], goal, point)
        _climb(search, plan, state, moves, steps, judged=times == 1)
        at, goal, point = state.at, state.goal, state.best
    search.point[at] = point


def _mover(search: Search, plan: Plan) -> Mover:
    if search.threat.norm == "l1":
        return L1(search.threat, search.source, shrinking=plan.shrinking)
    return {"linf": Linf, "l2": L2}[search.threat.norm](search.threat)


def _climb(search: Search, plan: Plan, state: Climb, moves: Mover, steps: int, *, judged: bool) -> None:
    """Move the state `steps` steps; images that break at the radius itself leave it."""
    losses = _losses(plan.loss, state)
    claims = Claims(search, state.point)

    def look(number: int) -> Tensor:
        """The losses at the new points; who is broken has left."""
        logits, each, state.gradient = search.gradient(state.at, state.point, losses, plan.samples)
        wrong = logits.argmax(1) != state.y
        stays = claims.settle(state.at, state.point, wrong, number, last=number == steps) if judged else None
        if stays is not None:
            state.keep(stays)
            each = each[stays]
        return each

    state.best_loss = look(0)
    state.best_gradient, state.checked_loss = state.gradient.clone(), state.best_loss.clone()
    moves.begin(state)
    for number in range(steps):
        if not len(state.at):
            return
        old = state.point
        state.point = moves.move(state, first=number == 0)
        state.old = old
        state.note(look(number + 1))
        moves.after(state, number)


def _losses(kind: str, state: Climb) -> Loss:
    """(m, classes) logits to (m,) losses of the images that are left in the state."""
    if kind == "ce":
        return lambda logits: F.cross_entropy(logits, state.y, reduction="none")
    if kind == "dlr":
        return lambda logits: dlr(logits, state.y)
    return lambda logits: dlr_targeted(logits, state.y, state.goal)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) the difference of logits ratio (equation 6 of the paper); three classes or more."""
    own, (values, order) = _of(logits, labels), logits.topk(3, dim=1)
    other = torch.where(order[:, 0] == labels, values[:, 1], values[:, 0])
    return -(own - other) / (values[:, 0] - values[:, 2] + _SMALL)


def dlr_targeted(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """(n,) the same towards a class (equation 7); four classes or more."""
    values = logits.topk(4, dim=1).values
    spread = values[:, 0] - 0.5 * (values[:, 2] + values[:, 3]) + _SMALL
    return -(_of(logits, labels) - _of(logits, goals)) / spread


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]
