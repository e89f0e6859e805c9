"""The only owner of the reference AutoAttack: its attacks as values, run by the package that everybody cites.

An `autoattack` installed from its repository is used when it is there, else `pyautoattack` from the index: both hold
the same attack classes, with the same signatures, behind different front ends. The front ends are not used: they check,
log and count what the judge does itself, and fail with few classes.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustcl.bench.judge import Attack, Judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Norm
from robustcl.models.value import value

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_FRAME = 2  # the clean answer that the package asks for, and the verdict
_LOSSES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "targeted": "apgd-t"}


def engine_name() -> str:
    """The package that attacks, with its version: part of every fingerprint of AutoAttack."""
    name = _package()
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


@value
class APGD(Attack):
    """Auto-PGD (Croce and Hein, ICML 2020) on the cross-entropy, the DLR loss or the targeted DLR loss.

    DLR needs three classes and targeted DLR four. `targets` are the likeliest other classes, at most all of them.
    `samples` gradients are averaged per step. `shrinking` (l1 alone, at least three steps) goes over balls of three and
    two times the radius first (Croce and Hein, ICML 2021). None is what AutoAttack `standard` takes: 1 restart,
    9 targets, no shrinking; in l1 5 restarts on the cross-entropy, 5 targets, shrinking.
    The package draws per batch, so `batch` is part of the attack's identity.
    """

    version: ClassVar[int] = 2

    loss: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = Field(default=100, ge=3)
    restarts: int | None = Field(default=None, ge=1)
    targets: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1, ge=1)
    shrinking: bool | None = None
    batch: int = Field(default=256, ge=1)
    engine: str = Field(default_factory=engine_name)

    @property
    def name(self) -> str:
        draws = f"-eot{self.samples}" if self.samples > 1 else ""
        return _name(_LOSSES[self.loss], self.steps, 100, self.restarts) + draws

    @property
    def least_classes(self) -> int:
        """How many classes the loss needs."""
        return {"ce": 2, "dlr": 3, "targeted": 4}[self.loss]

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        restarts, targets, shrinking = self.settings(classes, norm)
        evaluations = self.steps + (3 if shrinking else 1)
        ranking = int(self.loss == "targeted")
        return targets * restarts * (2 * self.samples * evaluations + ranking) + _FRAME

    def run(self, judge: Judge) -> None:
        restarts, targets, shrinking = self.settings(judge.classes, judge.threat.norm)
        given = {"n_iter": self.steps, "n_restarts": restarts, "eot_iter": self.samples, "use_largereps": shrinking}
        if self.loss == "targeted":
            engine = _build(judge, "autopgd_base.APGDAttack_targeted", n_target_classes=targets, **given)
        else:
            engine = _build(judge, "autopgd_base.APGDAttack", loss=self.loss, **given)
        engine.logger = _Silent()  # it says what zero gradients there are; that is measured elsewhere
        _run(judge, engine.perturb, self.steps)

    def settings(self, classes: int, norm: Norm) -> tuple[int, int, bool]:
        """What it runs with: restarts, targets (1 where there are none) and whether the ball shrinks."""
        restarts = self.restarts or (5 if norm == "l1" and self.loss == "ce" else 1)
        targets = min(self.targets or (5 if norm == "l1" else 9), classes - 1) if self.loss == "targeted" else 1
        return restarts, targets, norm == "l1" if self.shrinking is None else self.shrinking and norm == "l1"


@value
class FAB(Attack):
    """FAB (Croce and Hein, ICML 2020): the nearest adversarial image; towards targets, or over all classes at once.

    Untargeted, a step asks for the gradient of every class. The package draws per batch.
    """

    version: ClassVar[int] = 2

    targeted: bool = True
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    targets: int = Field(default=9, ge=1)
    batch: int = Field(default=256, ge=1)
    engine: str = Field(default_factory=engine_name)

    @property
    def name(self) -> str:
        return _name("fab-t" if self.targeted else "fab", self.steps, 100, self.restarts)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        runs = self.restarts * (min(self.targets, classes - 1) if self.targeted else 1)
        per_step, around = (3, 3) if self.targeted else (classes + 2, 2)
        return runs * (per_step * self.steps + around) + _FRAME

    def run(self, judge: Judge) -> None:
        engine = _build(
            judge,
            "fab_pt.FABAttack_PT",
            n_iter=self.steps,
            n_restarts=self.restarts,
            targeted=self.targeted,
            n_target_classes=min(self.targets, judge.classes - 1),
        )
        _run(judge, engine.perturb, self.steps)


@value
class Square(Attack):
    """Square (Andriushchenko et al., ECCV 2020): random search without gradients. The package draws per batch."""

    version: ClassVar[int] = 2

    queries: int = Field(default=5000, ge=1)
    restarts: int = Field(default=1, ge=1)
    batch: int = Field(default=256, ge=1)
    engine: str = Field(default_factory=engine_name)

    @property
    def name(self) -> str:
        return _name("square", self.queries, 5000, self.restarts)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.restarts * (self.queries + 2) + _FRAME

    def run(self, judge: Judge) -> None:
        side = min(judge.x.shape[-2:])
        if judge.threat.eps and judge.threat.norm != "linf" and side < 5:  # it would divide by zero
            raise UserError(f"{self.name}: images of side {side}, expected at least 5 in {judge.threat.norm}")
        given = {"n_queries": self.queries, "n_restarts": self.restarts, "p_init": 0.8, "resc_schedule": False}
        _run(judge, _build(judge, "square.SquareAttack", **given).perturb, self.queries)


def standard(classes: int, batch: int) -> list[Attack]:
    """AutoAttack `standard` in order. What the classes are too few for is left out: APGD-T with fewer than four."""
    targets = None if classes > 9 else classes - 1
    attacks = [
        APGD(batch=batch),
        APGD(loss="targeted", targets=targets, batch=batch),
        FAB(targets=min(9, classes - 1), batch=batch),
        Square(batch=batch),
    ]
    return _possible(attacks, classes)


def plus(classes: int, batch: int) -> list[Attack]:
    """AutoAttack `plus` in order: 5 restarts, DLR and untargeted FAB too. In l1 it does not shrink, as released."""
    attacks = [
        APGD(restarts=5, shrinking=False, batch=batch),
        APGD(loss="dlr", restarts=5, shrinking=False, batch=batch),
        FAB(targeted=False, restarts=5, batch=batch),
        Square(batch=batch),
        APGD(loss="targeted", restarts=1, targets=min(9, classes - 1), shrinking=False, batch=batch),
        FAB(targets=min(9, classes - 1), batch=batch),
    ]
    return _possible(attacks, classes)


def rand(classes: int, batch: int) -> list[Attack]:
    """AutoAttack `rand`, for models that draw: APGD on cross-entropy and DLR, each step over 20 gradients."""
    both = [APGD(loss=loss, restarts=1, samples=20, shrinking=False, batch=batch) for loss in ("ce", "dlr")]
    return _possible(list(both), classes)


VERSIONS: dict[str, Callable[[int, int], list[Attack]]] = {
    "autoattack": standard,
    "autoattack-plus": plus,
    "autoattack-rand": rand,
}


def _possible(attacks: list[Any], classes: int) -> list[Attack]:
    return [attack for attack in attacks if classes >= getattr(attack, "least_classes", 2)]


def _name(base: str, number: int, released: int, restarts: int | None) -> str:
    """The released name, and whatever is not as released in `standard`."""
    again = restarts if restarts and restarts > 1 else None
    return base if number == released and not again else f"{base}-{number}" + (f"x{again}" if again else "")


def _package() -> str:
    return "pyautoattack" if importlib.util.find_spec("autoattack") is None else "autoattack"


def _build(judge: Judge, place: str, **given: Any) -> Any:
    """An attack of the package for the judge's model, threat, seed and device."""
    module, _, kind = place.rpartition(".")
    made = getattr(importlib.import_module(f"{_package()}.{module}"), kind)
    shared = {"norm": _NORMS[judge.threat.norm], "eps": float(judge.threat.eps), "seed": judge.seed}
    return made(judge.model, device=judge.y.device, verbose=False, **shared, **given)


def _run(judge: Judge, perturb: Callable[[Tensor, Tensor], Tensor], step: int) -> None:
    """The released attack, batch by batch, as its own evaluation loop calls it; it seeds the global generator."""
    for rows in judge.batches():
        before = judge.model.passes
        x, y = judge.x[rows], judge.y[rows]
        with torch.no_grad():
            found = x if not judge.threat.eps else perturb(x.clone(), y.clone())
        judge.confirm(found, rows, step)
        judge.charge(judge.model.passes - before, rows)
        judge.finish(rows)


class _Silent:
    """A logger that says nothing, in the ways of both packages."""

    def log(self, *said: object) -> None:
        """Nothing."""

    warning = log
