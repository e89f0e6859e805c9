"""The only owner of the reference AutoAttack: its attacks as the package that everybody cites runs them.

An `autoattack` installed from its repository is used when it is there, else `pyautoattack` from the index: both hold
the same attack classes, with the same signatures, behind different front ends. The front ends are not used: they check,
log and count what the judge does itself, and fail with few classes.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from robustcl.bench.judge import Judge

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_PLACES = {
    "apgd": ("autopgd_base", "APGDAttack"),
    "apgd-t": ("autopgd_base", "APGDAttack_targeted"),
    "fab": ("fab_pt", "FABAttack_PT"),
    "square": ("square", "SquareAttack"),
}


def package() -> str:
    """The package that attacks, with its version: part of every fingerprint of the reference."""
    name = _package()
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def attack(judge: Judge, name: str, step: int, given: Mapping[str, Any]) -> None:
    """The released attack, batch by batch, as its own evaluation loop calls it; it seeds the global generator.

    `step` is where the records say that an image broke: the package does not tell, so it is the last one.
    """
    module, kind = _PLACES[name]
    made = getattr(_module(module), kind)
    shared = {"norm": _NORMS[judge.threat.norm], "eps": float(judge.threat.eps), "seed": judge.seed}
    engine = made(judge.model, device=judge.y.device, verbose=False, **shared, **given)
    engine.logger = _Silent()  # it says what zero gradients there are; that is measured elsewhere
    for rows in judge.batches():
        before = judge.model.passes
        x, y = judge.x[rows], judge.y[rows]
        with torch.no_grad():
            found = x if not judge.threat.eps else engine.perturb(x.clone(), y.clone())
        judge.confirm(found, rows, step)
        judge.charge(judge.model.passes - before, rows)
        judge.finish(rows)


def l1_projection() -> Callable[[Tensor, Tensor, float], Tensor]:
    """The package's projection on the l1 ball and the box: (images, change, radius) to what is added to the change."""
    found: Callable[[Tensor, Tensor, float], Tensor] = _module("autopgd_base").L1_projection
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"{_package()}.{name}")


def _package() -> str:
    return "pyautoattack" if importlib.util.find_spec("autoattack") is None else "autoattack"


class _Silent:
    """A logger that says nothing, in the ways of both packages."""

    def log(self, *said: object) -> None:
        """Nothing."""

    warning = log
