"""The only owner of the names that rows and data sets have as files: safe everywhere, and never two alike."""

import hashlib
import re
from collections.abc import Iterable

_LONGEST = 80


def slug(name: object) -> str:
    """A name with nothing in it that a file system, a shell or an address reads in its own way; `unnamed` for none."""
    kept = re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(name)).strip("-.")
    return kept[:_LONGEST] or "unnamed"


def distinct(names: Iterable[str]) -> dict[str, str]:
    """The `slug` of every name, and behind those that would be one file, letter case aside, what tells them apart.

    What is put behind them is of the name itself, and no number that would tell of the order.
    """
    plain = {name: slug(name) for name in names}
    alike = [of.lower() for of in plain.values()]
    return {
        name: of if alike.count(of.lower()) == 1 else f"{of}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, of in plain.items()
    }
