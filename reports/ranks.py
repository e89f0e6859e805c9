"""The only owner of ranks: which rows of a column are resolved above which, and what cannot be ranked at all."""

from typing import Any

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.estimate import SCREEN
from robustcl.reports.pairs import compare
from robustcl.reports.verdicts import verdicts

RANDOM = "random"
BEST, SECOND, TIED = "best", "second", "tied"
TABLE = ["suite", "data", "norm", "eps"]
COLUMN = [*TABLE, "scheme", "judge"]


def ranks(records: pd.DataFrame) -> pd.DataFrame:
    """The rank of every row (encoder) in every column of the tables of a `frame`: a column is a scheme and a judge.

    Columns: suite, data, norm, eps, scheme, judge, row, `rank` and `last`, the best and the worst rank that the test
    leaves open (1 + the number of rows resolved as better, and the number of rows less those resolved as worse; see
    `pairs`: paired on the same images, Holm over all pairs of the column), and `tied` (the two differ: some row is
    resolved neither above nor below). The random encoder is not ranked, nor is a column of one row, nor one that
    `ranked` tells why.
    """
    return ranked(records)[0]


def ranked(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `ranks`, and the columns that have none although they have several rows: data, ..., judge and `why`."""
    answers = verdicts(records[records["headline"]], shares=True)
    answers = answers[answers["encoder"] != RANDOM]
    made, refused = [], []
    for key, part in answers.groupby(COLUMN, observed=True, sort=False):
        column = dict(zip(COLUMN, map(str, key), strict=True))
        if part["encoder"].nunique() < 2:
            continue
        try:
            made.append(_rank(part, column["judge"]).assign(**column))
        except UserError as error:
            refused.append(column | {"why": str(error)})
    refused += _estimates(records[records["headline"]])
    names = [*COLUMN, "row", "rank", "last", "tied"]
    found = pd.concat(made, ignore_index=True)[names] if made else pd.DataFrame(columns=names)
    types: dict[str, Any] = {**dict.fromkeys([*COLUMN, "row"], str), "rank": "int64", "last": "int64", "tied": bool}
    return found.astype(types), pd.DataFrame(refused, columns=[*COLUMN, "why"])


def _estimates(shown: pd.DataFrame) -> list[dict[str, str]]:
    """The columns of several rows that are estimates: draws are not compared image by image."""
    found = shown[shown["attack"].astype(str).str.startswith(SCREEN) & (shown["encoder"] != RANDOM)]
    counts = found.groupby(COLUMN, observed=True, sort=False)["encoder"].nunique()
    why = "an estimate has no verdict per image"
    return [dict(zip(COLUMN, map(str, key), strict=True)) | {"why": why} for key in counts.index[counts > 1]]


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
    held = set(part["encoder"].astype(str))
    rows = [str(name) for name in part["encoder"].cat.categories if str(name) in held]
    found = compare(part, judge)
    resolved = found[found["resolved"]]
    below, above = (resolved[side].value_counts() for side in ("worse", "better"))
    rank = [1 + int(below.get(row, 0)) for row in rows]
    last = [len(rows) - int(above.get(row, 0)) for row in rows]
    return pd.DataFrame({"row": rows, "rank": rank, "last": last}).assign(tied=lambda of: of["rank"] != of["last"])
