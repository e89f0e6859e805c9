"""The only owner of which texts are names: such as people can see, and such as stay in the folder that they name."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from robustcl.models.errors import UserError

_DEPTH = 100  # of tables in tables
_LONGEST = 255  # bytes of a name, on every usual file system


def is_file_name(name: object) -> bool:
    """Whether this is the name of a file or folder in a folder, and leads nowhere else."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > _LONGEST:
        return False
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and is_seen(name)


def is_seen(text: str) -> bool:
    """Whether a text has no characters in it that a terminal obeys, that turn its direction or that nobody sees."""
    return text.isprintable() or not any(unicodedata.category(one)[0] == "C" or one in "\u2028\u2029" for one in text)


def check_seen(held: Any, where: str, depth: int = 0) -> None:
    """Look through plain tables and lists. Errors: `UserError` for a text in them that is not to be seen."""
    if depth > _DEPTH:
        raise UserError(f"{where}: tables within tables {depth} deep, expected at most {_DEPTH}")
    if isinstance(held, str) and not is_seen(held):
        raise UserError(f"{where}: control characters in {held!r}, expected text that can be seen")
    if isinstance(held, Mapping):
        check_seen(list(held), where, depth)
    for part in held.values() if isinstance(held, Mapping) else held if isinstance(held, list | tuple) else ():
        check_seen(part, where, depth + 1)
