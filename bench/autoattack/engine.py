"""The only owner of who runs the attacks of AutoAttack: our own engine, the same with the package's draws, the package.

`fast` draws per image; `replay` is the same code with the draws of the released package, batch by batch, so that both
can be compared image by image; `reference` is the package itself.
"""

import re
from abc import ABC
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from robustcl.bench.autoattack.reference import package
from robustcl.bench.judge import Attack
from robustcl.models.lean import Precision
from robustcl.models.value import value

VERSION = 1  # of `fast` and `replay`: raised when a change moves answers
NAMES = ("fast", "replay", "reference")
_BATCH = 256
_KNOWN = re.compile(r"(fast|replay) \d+|(pyautoattack|autoattack)( .+)?")


def engine_name(name: str) -> str:
    """An engine with its version, as it stands in every fingerprint: `fast 1`, `pyautoattack 0.2.0`."""
    if name == "reference":
        return package()
    return f"{name} {VERSION}" if name in NAMES else name


def _engine(name: str) -> str:
    found = engine_name(name)
    stale = found.startswith(("fast ", "replay ")) and not found.endswith(f" {VERSION}")
    if stale or not _KNOWN.fullmatch(found):
        raise ValueError(f"unknown engine '{name}', expected one of {', '.join(NAMES)}")
    return found


EngineName = Annotated[str, AfterValidator(_engine)]


@value
class Engine:
    """How AutoAttack's attacks are run where they do not say so themselves; `batch` where draws depend on it."""

    name: EngineName = "fast"
    precision: Precision = "float32"
    batch: int = Field(default=_BATCH, ge=1)

    @model_validator(mode="after")
    def _rounds(self) -> "Engine":
        if self.precision != "float32" and not self.name.startswith(("fast", "replay")):
            raise ValueError(f"precision '{self.precision}', expected float32 with the engine '{self.name}'")
        return self

    def fields(self, name: str | None = None) -> dict[str, Any]:
        """The fields of a `Member` that say so, run by `name` where that is given instead."""
        engine = engine_name(name or self.name)
        if engine.startswith("fast"):
            return {"engine": engine, "precision": self.precision}
        return {"engine": engine, "batch": self.batch} | ({"precision": self.precision} if "replay" in engine else {})


@value
class Member(Attack, ABC):
    """An attack of AutoAttack and who runs it.

    `batch` is how many images the package attacks at a time: it draws per batch, so this is part of the attack's
    identity for the engines `reference` and `replay` (default 256), and of no other. `precision` is that of the search
    (`bfloat16`, `tf32`): the verdict is given in float32 whatever it is; the reference searches in float32 alone.
    """

    engine: EngineName = "fast"
    precision: Precision = "float32"
    batch: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _drawn_per_batch(self) -> "Member":
        if self.keyed and self.batch is not None:
            raise ValueError(f"batch {self.batch} with the engine '{self.engine}', which draws per image; leave it out")
        if self.referenced and self.precision != "float32":
            raise ValueError(f"precision '{self.precision}', expected float32 with the engine '{self.engine}'")
        if not self.keyed and self.batch is None:
            object.__setattr__(self, "batch", _BATCH)
        return self

    @property
    def fixed_batch(self) -> int | None:
        """The batch that it has to be run in; None where that is a matter of memory and speed."""
        return self.batch if self.referenced else None

    @property
    def keyed(self) -> bool:
        """Whether its draws depend on the image alone."""
        return self.engine.startswith("fast")

    @property
    def referenced(self) -> bool:
        """Whether the released package runs it."""
        return not self.engine.startswith(("fast", "replay"))
