"""The only owner of errors that people can act on: one line with where, what is wrong, what was expected."""

import difflib
from collections.abc import Iterable

LONGEST = 2000  # characters of a line that people are to read


class UserError(ValueError):
    """A mistake of the user's: printed as one line, without a traceback, with exit code 2.

    The line may quote whatever a file holds: control characters are written out, so that no terminal obeys them.
    """

    def __init__(self, line: object) -> None:
        super().__init__(printable(str(line)))


class NumberError(ArithmeticError):
    """Numbers that went wrong (NaN or infinity) where the user's input was fine: exit code 4."""


class LostError(RuntimeError):
    """Work that was lost with its process, such as one that ran out of memory: exit code 3, nobody can tell."""


def printable(text: str) -> str:
    """`text` on one line of at most 2,000 characters, with what is not to be seen written out: `\\x1b`."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[: 2 * LONGEST])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the name in `known` that is closest to `name`, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(where: str, kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not one of `known`."""
    names = sorted(known)
    return UserError(f"{where}: unknown {kind} '{name}', expected one of {', '.join(names)}{nearest(name, names)}")
