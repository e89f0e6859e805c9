"""The only owner of ranks: which rows of a column are resolved above which, and what cannot be ranked at all."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.answers import Answers, Records, heard
from robustcl.reports.pairs import compare
from robustcl.reports.verdicts import verdicts

RANDOM = "random"
BEST, SECOND, TIED = "best", "second", "tied"
TABLE = ["suite", "data", "norm", "eps"]
COLUMN = [*TABLE, "scheme", "judge"]


def ranks(records: Records) -> pd.DataFrame:
    """The rank of every row (encoder) in every column of the tables of a `frame`: a column is a scheme and a judge.

    Columns: suite, data, norm, eps, scheme, judge, row, `rank` and `last`, the best and the worst rank that the test
    leaves open (1 + the number of rows resolved as better, and the number of rows less those resolved as worse; see
    `pairs`: paired on the same images, Holm over all pairs of the column), and `tied` (the two differ: some row is
    resolved neither above nor below). The random encoder is not ranked, nor is a column of one row, nor one that
    `ranked` tells why.
    """
    return ranked(records)[0]


def ranked(records: Records) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `ranks`, and the columns that have none although they have several rows: data, ..., judge and `why`."""
    shown = heard(records).headline
    shown = shown.where(shown.cells["encoder"] != RANDOM)
    made, refused = [], []
    for key, numbers in _columns(shown, [of.answers for of in shown.heard]).items():
        column = dict(zip(COLUMN, key, strict=True))
        of = shown.take(numbers)
        if of.cells["encoder"].nunique() < 2:
            continue
        try:
            made.append(_rank(verdicts(of, shares=True, judges=[column["judge"]]), column["judge"]).assign(**column))
        except UserError as error:
            refused.append(column | {"why": str(error)})
    refused += _estimates(shown)
    names = [*COLUMN, "row", "rank", "last", "tied"]
    found = pd.concat(made, ignore_index=True)[names] if made else pd.DataFrame(columns=names)
    types: dict[str, Any] = {**dict.fromkeys([*COLUMN, "row"], str), "rank": "int64", "last": "int64", "tied": bool}
    return found.astype(types), pd.DataFrame(refused, columns=[*COLUMN, "why"])


def _columns(shown: Answers, judges: Sequence[Iterable[str]]) -> dict[tuple[str, ...], list[int]]:
    """The columns of the tables, each with the numbers of its cells; `judges` are those of every cell."""
    found: dict[tuple[str, ...], list[int]] = {}
    places = zip(*(shown.cells[name].astype(str) for name in COLUMN[:-1]), strict=True)
    for number, (place, of) in enumerate(zip(places, judges, strict=True)):
        for judge in of:
            found.setdefault((*place, judge), []).append(number)
    return found


def _estimates(shown: Answers) -> list[dict[str, str]]:
    """The columns of several rows that are estimates: draws are not compared image by image."""
    found = _columns(shown, [of.estimates for of in shown.heard])
    several = [key for key, numbers in found.items() if shown.cells["encoder"].iloc[numbers].nunique() > 1]
    why = "an estimate has no verdict per image"
    return [dict(zip(COLUMN, key, strict=True)) | {"why": why} for key in several]


def leaders(ranks: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Which numbers of one table lead their column, as far as that is resolved: (row, scheme, judge) -> its place.

    `best` is above every other row, `second` above all but the best, if there are any; without a best, those that no
    row is above are `tied`.
    """
    places: dict[tuple[str, str, str], str] = {}
    for (scheme, judge), column in ranks.groupby(["scheme", "judge"], sort=False):
        of = {row: (rank, last) for row, rank, last in zip(*(column[n] for n in ("row", "rank", "last")), strict=True)}
        best = [row for row, found in of.items() if found == (1, 1)]
        second = [row for row, found in of.items() if best and len(of) > 2 and found == (2, 2)]
        tied = [row for row, (rank, _) in of.items() if rank == 1 and not best]
        for place, rows in ((BEST, best), (SECOND, second), (TIED, tied)):
            places |= {(str(row), str(scheme), str(judge)): place for row in rows}
    return places


def _rank(part: pd.DataFrame, judge: str) -> pd.DataFrame:
    """The rows of one column, in the order in which they are shown."""
    held = {str(name) for name in part["encoder"].unique()}
    rows = [str(name) for name in part["encoder"].cat.categories if str(name) in held]
    found = compare(part, judge)
    resolved = found[found["resolved"]]
    below, above = (resolved[side].value_counts() for side in ("worse", "better"))
    rank = [1 + int(below.get(row, 0)) for row in rows]
    last = [len(rows) - int(above.get(row, 0)) for row in rows]
    return pd.DataFrame({"row": rows, "rank": rank, "last": last}).assign(tied=lambda of: of["rank"] != of["last"])
