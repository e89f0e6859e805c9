"""The only owner of judging within a time: images in a fixed random order, in blocks, of which whole ones count."""

import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from robustcl.models.errors import UserError
from robustcl.models.seeding import generator
from robustcl.pretraining.images import Images

B = TypeVar("B")
R = TypeVar("R")
Check = Callable[[], None]
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}


class _TimeIsUp(BaseException):  # as Ctrl-C, an end that no `except Exception` on the way takes for an error
    pass


def blocks(images: Images, size: int) -> list[Images]:
    """The images in an order that is random and always the same, in blocks of `size`; inside a block in their own."""
    order = torch.randperm(len(images), generator=generator(0, "budget")).to(images.labels.device)
    return [images.take(rows.sort().values) for rows in order.split(size)]


def within(
    seconds: float, parts: Sequence[B], work: Callable[[B, Check], R], clock: Callable[[], float] = time.monotonic
) -> list[R]:
    """What `work` made of the first parts, whole ones alone, until the seconds are over; of the first part always.

    `work` calls the check that it is given whenever it could stop; past the time, the check ends it. Its part is
    dropped then: half a block holds the images that broke first, and would make the model look weaker than it is. What
    remains is that a block which takes longer is likelier to be the last, unfinished one: with a handful of blocks a
    share of what is under the interval, with many nothing.
    """
    end, made = clock() + seconds, list[R]()

    def check() -> None:
        if made and clock() >= end:
            raise _TimeIsUp("time is up")

    for part in parts:
        try:
            check()
            made.append(work(part, check))
        except _TimeIsUp:
            break
    return made


def read_budget(text: str) -> float:
    """Seconds of a text such as `90s`, `20m` or `1.5h`. Errors: `UserError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text.strip())
    if not found or not float(found[1]):
        raise UserError(f"--budget {text}: not a time, expected a number with s, m or h, such as 20m")
    return float(found[1]) * _UNITS[found[2]]
