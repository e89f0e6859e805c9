"""The only owner of the seeds of a suite: one per part of the work, or several, a suite for each combination."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from robustcl.bench.tables import POINTS
from robustcl.models.errors import UserError
from robustcl.models.value import Table, read, value


@value
class Seeds:
    """One seed per part, so that their spreads can be told apart."""

    pretrain: int = Field(default=0, ge=0)
    finetune: int = Field(default=0, ge=0)
    judge: int = Field(default=0, ge=0)


def combinations(table: Table, where: str) -> list[Seeds]:
    """The seeds of a table whose entries are one or a list each, `finetune = [0, 1, 2]`: every combination.

    Errors: `UserError` for an unknown part, and for a list that is empty or holds a seed twice.
    """
    lists = {key: given if isinstance(given, list) else [given] for key, given in table.items()}
    for key, given in lists.items():
        if not given or any(given.count(one) > 1 for one in given):
            raise UserError(f"{where}.{key}: {given} is wrong, expected at least one seed, each once")
    count = math.prod(len(given) for given in lists.values())
    if count > POINTS:
        raise UserError(f"{where}: {count} combinations, expected at most {POINTS}; split it into several suites")
    return [read(Seeds, dict(zip(lists, chosen, strict=True)), where) for chosen in itertools.product(*lists.values())]


def mark(seeds: Seeds, table: Mapping[str, Any], *roles: str) -> str:
    """`, finetune seed 2`: the seeds of these roles of which a suite's `table` lists several, for people."""
    several = [role for role in roles if isinstance(table.get(role), list) and len(table[role]) > 1]
    return "".join(f", {role} seed {getattr(seeds, role)}" for role in several)
