"""The only owner of what property tests ask of bad input: an answer, or one clean line."""

from collections.abc import Callable
from typing import TypeVar

from robustcl.models.errors import LONGEST, UserError

T = TypeVar("T")


def answer(call: Callable[[], T]) -> T | None:
    """What a call answers, or None where it refuses in one clean line. Errors: whatever else it raises."""
    try:
        return call()
    except UserError as error:
        text = str(error)
        assert text.isprintable()
        assert 0 < len(text) <= LONGEST + 4
        return None
