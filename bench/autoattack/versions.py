"""The only owner of which attacks the versions of AutoAttack are made of."""

from collections.abc import Callable, Sequence
from typing import Any

from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.judge import Attack

Run = Any
"""How the members are run: the fields of `Member` by name, all the same for every one."""


def standard(classes: int, **run: Run) -> list[Attack]:
    """AutoAttack `standard` in order. What the classes are too few for is left out: APGD-T with fewer than four."""
    targets = None if classes > 9 else classes - 1
    attacks = [
        APGD(**run),
        APGD(loss="targeted", targets=targets, **run),
        FAB(targets=min(9, classes - 1), **run),
        Square(**run),
    ]
    return _possible(attacks, classes)


def plus(classes: int, **run: Run) -> list[Attack]:
    """AutoAttack `plus` in order: 5 restarts, DLR and untargeted FAB too. In l1 it does not shrink, as released."""
    attacks = [
        APGD(restarts=5, shrinking=False, **run),
        APGD(loss="dlr", restarts=5, shrinking=False, **run),
        FAB(targeted=False, restarts=5, **run),
        Square(**run),
        APGD(loss="targeted", restarts=1, targets=min(9, classes - 1), shrinking=False, **run),
        FAB(targets=min(9, classes - 1), **run),
    ]
    return _possible(attacks, classes)


def rand(classes: int, **run: Run) -> list[Attack]:
    """AutoAttack `rand`, for models that draw: APGD on cross-entropy and DLR, each step over 20 gradients."""
    both = [APGD(loss=loss, restarts=1, samples=20, shrinking=False, **run) for loss in ("ce", "dlr")]
    return _possible(both, classes)


VERSIONS: dict[str, Callable[..., list[Attack]]] = {
    "autoattack": standard,
    "autoattack-plus": plus,
    "autoattack-rand": rand,
}


def _possible(attacks: Sequence[Attack], classes: int) -> list[Attack]:
    return [attack for attack in attacks if classes >= getattr(attack, "least_classes", 2)]
