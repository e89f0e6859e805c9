"""The only owner of what it looks like when memory ends, and of working in smaller pieces then."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from robustcl.models.errors import UserError

R = TypeVar("R")
ENDS = (MemoryError, RuntimeError)
"""What may say so; `exhausted` knows which of these does."""
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "cannot allocate memory")


def exhausted(error: BaseException) -> bool:
    """Whether this error says that there is no more memory, on whatever device."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(word in words for word in _WORDS)


def release() -> None:
    """Give back what nobody holds any more. The error has to be gone by then: its frames hold tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def told(where: str, advice: str) -> Iterator[None]:
    """Memory that ends inside the block as one line. Errors: `UserError`, since only a user can make room."""
    try:
        yield
    except ENDS as error:
        if not exhausted(error):
            raise
        raise UserError(f"{where}: out of memory ({reason(error)}), expected {advice}") from None


def pieces(rows: Tensor, work: Callable[[Tensor], R], where: str) -> list[R]:
    """What `work` makes of these rows: of all at once or, where the memory ends, of one half and then of the other.

    Errors: `UserError` where it ends on a single row.
    """
    try:
        return [work(rows)]
    except ENDS as error:
        if not exhausted(error):
            raise
        if len(rows) == 1:
            raise UserError(alone(where, error)) from None
    release()
    return [made for half in rows.chunk(2) for made in pieces(half, work, where)]


def alone(where: str, error: BaseException) -> str:
    """The line for one image that is too much."""
    return f"{where}: out of memory on a single image ({reason(error)}), expected a device with more of it"


def reason(error: BaseException) -> str:
    """What torch or Python says, short."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]
