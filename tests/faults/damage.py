"""The only owner of damage to files: seeded flips of single bits and cuts, and what a reader makes of each."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from robustcl.models.errors import UserError
from tests.bench.tiny import one_line


class Tally(NamedTuple):
    """How many damages a reader named, and how many changed nothing that it reads."""

    named: int
    harmless: int


MORE = int(os.environ.get("ROBUSTCL_DAMAGE", "1"))  # times as many as in the gate


def damages(content: bytes, flips: int = 300, cuts: int = 15, seed: int = 0) -> Iterator[bytes]:
    """The content with one bit flipped, in every byte of a small file, and cut off at several lengths."""
    draw = random.Random(seed)
    flips, cuts = flips * MORE, cuts * MORE
    places = range(len(content)) if len(content) <= flips else sorted(draw.sample(range(len(content)), flips))
    for place in places:
        flipped = content[place] ^ 1 << draw.randrange(8)
        yield content[:place] + bytes([flipped]) + content[place + 1 :]
    for _ in range(cuts):
        yield content[: draw.randrange(len(content))]
    yield b""


def survive(path: Path, read: Callable[[], Any], names: str | None = None, **how: int) -> Tally:
    """Damage a file time and again: `read` either names it in one line or gives what it gave before.

    `names` is what the line has to name where that is not the file. The file comes back as it was.
    """
    whole, expected = path.read_bytes(), read()
    named = harmless = 0
    try:
        for content in damages(whole, **how):
            path.write_bytes(content)
            try:
                found = read()
            except UserError as error:
                line, named = one_line(error), named + 1
            else:
                line, harmless = names or path.name, harmless + 1
                assert found == expected, f"another answer, {len(content)} bytes"
            assert (names or path.name) in line
    finally:
        path.write_bytes(whole)
    return Tally(named, harmless)
