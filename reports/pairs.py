"""The only owner of which differences between encoders are resolved: paired on the same images, corrected for many."""

from itertools import combinations

import pandas as pd

from robustcl.models.errors import UserError, unknown
from robustcl.reports.frame import verdicts
from robustcl.reports.statistics import holm, mcnemar
from robustcl.reports.table import row_names


def pairs(records: pd.DataFrame, scheme: str, judge: str, level: float = 0.05) -> pd.DataFrame:
    """Every two encoders of a `frame` under one scheme and judge (`clean`, `pgd-20`, `autoattack`), the better first.

    Columns: better, worse, difference (of the accuracies, a share), only_better and only_worse (images on which one is
    right alone), p (exact McNemar), holm (corrected over all pairs) and resolved (holm at most `level`). Ordered by the
    accuracy of the better, then of the worse. The test speaks of these encoders on images like these: not of other
    seeds. Errors: `UserError` for a scheme or judge that the records do not hold, and for more than one table.
    """
    answers = verdicts(records[records["headline"]])
    for key, name in (("scheme", scheme), ("judge", judge)):
        known = [str(held) for held in answers[key].unique()]
        if name not in known:
            raise unknown("pairs", key, name, known)
    part = answers[(answers["scheme"] == scheme) & (answers["judge"] == judge)]
    part = part.assign(row=row_names(part))
    if part.duplicated(["row", "image"]).any():
        raise UserError("pairs: more than one data set or threat, expected the records of one table")
    right = part.pivot(index="image", columns="row", values="right")
    if right.isna().any(axis=None):
        raise UserError("pairs: encoders judged on different images, expected the same ones")
    right = right.astype(bool)
    order = right.mean().sort_values(ascending=False, kind="stable").index
    rows = [_pair(right, better, worse) for better, worse in combinations(order, 2)]
    found = pd.DataFrame(rows, columns=["better", "worse", "difference", "only_better", "only_worse", "p"])
    found["holm"] = holm(found["p"])
    return found.assign(resolved=found["holm"] <= level)


def _pair(right: pd.DataFrame, better: str, worse: str) -> tuple[str, str, float, int, int, float]:
    one, other = right[better], right[worse]
    difference = float(one.mean() - other.mean())
    return better, worse, difference, int((one & ~other).sum()), int((other & ~one).sum()), mcnemar(one, other)
