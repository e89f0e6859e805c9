"""The only owner of the reference AutoAttack: the four members of `standard`, run by the package everybody cites.

An `autoattack` installed from its repository is used when it is there, else `pyautoattack` from the index; both hold
the same attacks behind different signatures.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustcl.bench.attacks import Attack, Judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import value

Member = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
MEMBERS: tuple[Member, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_STEPS = {"apgd-ce": 100, "apgd-t": 100, "fab-t": 100, "square": 5000}


def engine_name() -> str:
    """The package that attacks, with its version: part of every fingerprint of AutoAttack."""
    name = "pyautoattack" if importlib.util.find_spec("autoattack") is None else "autoattack"
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


@value
class Reference(Attack):
    """One member of AutoAttack `standard`. The package draws per batch, so `batch` is part of the attack's identity.

    `targets` is 9 or, with fewer than ten classes, all the others: the released code fails there.
    """

    version: ClassVar[int] = 1

    member: Member
    batch: int = Field(default=256, ge=1)
    targets: int = Field(default=9, ge=1)
    engine: str = Field(default_factory=engine_name)

    @property
    def name(self) -> str:
        return self.member

    def cost(self, classes: int) -> int:
        """Passes for an image that stays right, counted; targets scale the two targeted members."""
        return {"apgd-ce": 202, "apgd-t": 202 * self.targets, "fab-t": 303 * self.targets, "square": 5001}[self.member]

    def run(self, judge: Judge) -> None:
        engine = build(judge.model, judge.threat, judge.seed, judge.x.device)
        engine.apgd_targeted.n_target_classes = min(self.targets, engine.apgd_targeted.n_target_classes)
        engine.fab.n_target_classes = min(self.targets, engine.fab.n_target_classes)
        for rows in judge.batches():
            before = judge.model.passes
            x, y = judge.x[rows], judge.y[rows]
            found = x if not judge.threat.eps else self._perturb(engine, x, y)
            judge.confirm(found, rows, _STEPS[self.member])
            judge.charge(judge.model.passes - before, rows)
            judge.finish(rows)

    def _perturb(self, engine: Any, x: Tensor, y: Tensor) -> Tensor:
        """The released attack on one batch, as its own evaluation loop calls it; no global generator moves."""
        devices = [x.device] if x.device.type == "cuda" else []
        attack: Any = {"apgd-ce": engine.apgd, "apgd-t": engine.apgd_targeted, "fab-t": engine.fab}.get(
            self.member, engine.square
        )
        attack.seed = engine.seed
        if self.member == "apgd-ce":
            attack.loss = "ce"
        if self.member == "fab-t":
            attack.targeted, attack.n_restarts = True, 1
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            found: Tensor = attack.perturb(x.clone(), y.clone())
        return found


def standard(classes: int, batch: int) -> Sequence[Reference]:
    """AutoAttack `standard` in order. Its targeted loss needs four classes: with fewer, APGD-T is left out."""
    if classes < 2:
        raise UserError(f"autoattack: {classes} class, expected at least 2")
    targets = min(9, classes - 1)
    return [Reference(member=m, batch=batch, targets=targets) for m in MEMBERS if m != "apgd-t" or classes >= 4]


def build(model: torch.nn.Module, threat: Threat, seed: int, device: torch.device) -> Any:
    """The package's `AutoAttack`, version `standard`, whichever of the two is installed."""
    asked: dict[str, Any] = {"norm": _NORMS[threat.norm], "eps": float(threat.eps), "seed": seed, "device": device}
    if importlib.util.find_spec("autoattack") is not None:
        module = importlib.import_module("autoattack")
        return module.AutoAttack(model, version="standard", verbose=False, **asked)
    return importlib.import_module("pyautoattack").AutoAttack(model, version="standard", **asked)
