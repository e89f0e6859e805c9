"""The only owner of what a fuzz target is: one file below `targets`, whose reader takes bytes and may refuse them."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from robustcl.models.errors import UserError

PACKAGE = "tests.fuzz.targets"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader under fuzz.

    `read` takes the bytes of a file: it may raise `UserError` and nothing else. `seeds` makes small valid files, by
    name. `mutate` changes a file and keeps its structure, where that takes it further than changed bytes would.
    `share` of a campaign's executions are this target's: about as many as it gets through in the others' time.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], Mapping[str, bytes]]
    mutate: Callable[[bytes, Random], bytes]
    share: float

    def accept(self, data: bytes) -> None:
        """Read an input. Errors: whatever is no clean line; then the input is a finding."""
        try:
            self.read(data)
        except UserError as error:
            text = str(error)
            assert text.isprintable(), f"not one clean line: {text!r}"
            assert len(text) < LONGEST, f"{len(text)} characters: {text[:200]!r}"


LONGEST = 3000  # characters of an error that people are to read


def names() -> list[str]:
    """The targets, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__))


def find(name: str) -> Target:
    """The target of this name."""
    found = importlib.import_module(f"{PACKAGE}.{name}").TARGET
    assert isinstance(found, Target)
    return found
