"""The only owner of what a judge would have said after fewer steps: a sweep over steps at no further cost."""

import json
import re

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.frame import Cells, Judges
from robustcl.reports.statistics import wilson, wilson_of_means
from robustcl.reports.verdicts import judged

_SINGLE = re.compile(r"pgd(?:-margin|-least-likely|-random)*-(\d+)")
_CELL = ["suite", "data", "norm", "eps", "scheme", "encoder", "classes"]
_POINT = ["judge", "seeds", "steps", "n", "accuracy", "low", "high"]


def accuracy_by_steps(records: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Robust accuracy after 0, 1, ... steps of a PGD judge: columns steps, n, right, accuracy, low, high (95 % Wilson).

    `records` are those of one evaluation. A run of k steps passes through the same points as a longer one, and the
    longer one notes at which it broke, so row k equals what `pgd-k` answers; row 0 is the clean accuracy.
    Errors: `UserError` for a judge of another kind: several attacks, restarts or targets have no common step, and
    with `last` only the last step was judged.
    """
    attacks = sorted(records.loc[records["judge"] == judge, "attack"].astype(str).unique())
    single = _SINGLE.fullmatch(attacks[0]) if len(attacks) == 1 else None
    if single is None:
        found = ", ".join(attacks) or "nothing"
        raise UserError(f"steps: judge '{judge}' ran {found}, expected one PGD from one start, such as pgd-20")
    alive = _alive(records, judge, int(single[1]))
    low, high = wilson(alive.sum(), len(alive))
    table = pd.DataFrame({"steps": range(alive.shape[1]), "n": len(alive), "right": alive.sum()})
    return table.assign(accuracy=table["right"] / table["n"], low=low, high=high)


def curves(cells: Cells) -> pd.DataFrame:
    """Accuracy by steps, a row each, for every cell of the table that a PGD from one start judged.

    Of several such judges the one with most steps speaks. Seeds of a cell are averaged, as `pooled` does.
    """
    parts, shown = [], cells.where(cells.described["headline"])
    for _, of in shown.described.groupby(_CELL, observed=True, sort=False):
        found = _longest(json.loads(str(of["judges"].iloc[0])))
        if found is None:
            continue
        seeds = of.drop_duplicates("stage").index
        alive = [_alive(shown.frame([number]), *found) for number in seeds]
        means = pd.concat(alive).groupby(level=0).mean()
        points = pd.DataFrame([wilson_of_means(means[k], len(alive)) for k in means], columns=["low", "high"])
        points = points.assign(judge=found[0], seeds=len(alive), n=len(means), accuracy=means.mean().to_numpy())
        first = of[_CELL].iloc[[0] * len(points)].reset_index(drop=True)
        parts.append(first.join(points.assign(steps=range(len(points))))[[*_CELL, *_POINT]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _longest(judges: Judges) -> tuple[str, int] | None:
    """The judge with most steps among those that are one PGD from one start, and its steps."""
    found = {judge: _SINGLE.fullmatch(attacks[0]) for judge, attacks in judges.items() if len(attacks) == 1}
    steps = [(judge, int(single[1])) for judge, single in found.items() if single]
    return max(steps, key=lambda one: one[1], default=None)


def _alive(records: pd.DataFrame, judge: str, steps: int) -> pd.DataFrame:
    """Whether each image (a row) is right after 0, 1, ... steps (a column each) of the judge."""
    clean = judged(records, {})["clean"]
    step = records[records["judge"] == judge].set_index("image")["step"].reindex(clean.index, fill_value=-1)
    return pd.DataFrame({k: clean & ~((step >= 0) & (step <= k)) for k in range(steps + 1)})
