"""The only owner of what a judge would have said after fewer steps: a sweep over steps at no further cost."""

import re

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.statistics import wilson
from robustcl.reports.verdicts import judged


def accuracy_by_steps(records: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Robust accuracy after 0, 1, ... steps of a PGD judge: columns steps, n, right, accuracy, low, high (95 % Wilson).

    `records` are those of one evaluation. A run of k steps passes through the same points as a longer one, and the
    longer one notes at which it broke, so row k equals what `pgd-k` answers; row 0 is the clean accuracy.
    Errors: `UserError` for a judge of another kind: several attacks, restarts or targets have no common step, and
    with `last` only the last step was judged.
    """
    rows = records[records["judge"] == judge]
    attacks = sorted(rows["attack"].astype(str).unique())
    single = re.fullmatch(r"pgd(?:-margin|-least-likely|-random)*-(\d+)", attacks[0]) if len(attacks) == 1 else None
    if single is None:
        found = ", ".join(attacks) or "nothing"
        raise UserError(f"steps: judge '{judge}' ran {found}, expected one PGD from one start, such as pgd-20")
    clean = judged(records, {})["clean"]
    step = rows.set_index("image")["step"].reindex(clean.index, fill_value=-1)
    counts = [int((clean & ~((step >= 0) & (step <= k))).sum()) for k in range(int(single[1]) + 1)]
    low, high = wilson(pd.Series(counts), pd.Series([len(clean)] * len(counts)))
    table = pd.DataFrame({"steps": range(len(counts)), "n": len(clean), "right": counts})
    return table.assign(accuracy=table["right"] / table["n"], low=low, high=high)
