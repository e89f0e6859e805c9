"""The only owner of what records come to: the verdict of each judge per image, and the numbers of a cell."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustcl.reports.answers import Answers, Records, heard
from robustcl.reports.answers import cell_columns as cell_columns
from robustcl.reports.answers import judged as judged
from robustcl.reports.estimate import Estimate
from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.statistics import interval
from robustcl.reports.trust import against, verdict, why

SET = ("set_low", "set_high")  # of an estimate: the interval for these very images
_NUMBERS = ["n", "right", "accuracy", "low", "high", *SET]


def verdicts(records: Records, *, shares: bool = False, judges: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per cell, judge and image with `right`, the verdict of the judge; the judge `clean` included.

    Corruptions, under which an image has a share and no verdict, are left out; with `shares` they are in, and `right`
    is a share in [0, 1] throughout. With `judges`, only these speak.
    Of a `frame`, a part will do that keeps the clean rows. Errors: as `judged`.
    """
    answers = heard(records)
    found = [
        (number, judge, right.astype(float) if shares else right)
        for number, of in enumerate(answers.heard)
        for judge, right in of.answers.items()
        if (shares or judge != CORRUPTIONS) and (judges is None or judge in judges)
    ]
    rows = _rows(answers, [number for number, _, _ in found], [len(right) for _, _, right in found])
    names = _judges([judge for _, judge, _ in found], answers)
    rows["judge"] = names.repeat([len(right) for _, _, right in found])
    for name, parts in (("image", [r.index for _, _, r in found]), ("right", [r.to_numpy() for _, _, r in found])):
        rows[name] = np.concatenate(parts) if parts else []
    return rows


def summary(records: Records) -> pd.DataFrame:
    """One row per cell and judge: n, right, accuracy, low, high (the 95 % Wilson interval), how reliable, and passes.

    Accuracies are shares in [0, 1]; passes are the forward-equivalents that the judge spent. `fingerprint` is the
    judge's; `reliability` and `why` say what the checks hold against its number. The accuracy under
    corruptions is the mean of the images' shares; its interval is that of a mean of n of them, since the same n images
    come again under every corruption and are not so many more; `right` is missing there. Of an estimate too: its low
    and high are for images like these, as everybody's, set_low and set_high for these very ones.
    Errors: as `judged` and `estimates`.
    """
    answers = heard(records)
    numbers = [
        {judge: _number(right) for judge, right in of.answers.items()}
        | {judge: _estimated(estimate) for judge, estimate in of.estimates.items()}
        for of in answers.heard
    ]
    rows = _rows(answers, range(len(numbers)), [len(of) for of in numbers])
    rows["judge"] = _judges([judge for of in numbers for judge in of], answers)
    rows = rows.join(pd.DataFrame([found for of in numbers for found in of.values()], columns=_NUMBERS))
    spent = [of.passes.get(judge, 0) for of, found in zip(answers.heard, numbers, strict=True) for judge in found]
    rows["passes"] = np.array(spent, dtype=np.int64)
    return rows.astype({"n": "int64", "right": "Int64"}).assign(**_trust(rows))


def estimated(records: Records) -> Iterator[tuple[pd.DataFrame, str, pd.Series, Estimate]]:
    """Every estimate of a frame: its cell (one row), the judge, what is right for certain (bool per image), the value.

    Right for certain is what is right clean and was not broken in a place where every image is drawn.
    """
    answers = heard(records)
    for number, one in enumerate(answers.heard):
        for judge, of in one.estimates.items():
            clean = one.answers[CLEAN]
            yield answers.cells.iloc[[number]], judge, clean & ~clean.index.isin(list(of.certain)), of


def _number(right: pd.Series) -> tuple[object, ...]:
    """n, right, accuracy and its interval, and none for these very images, where nothing is estimated."""
    count = int(right.sum()) if right.dtype == bool else None
    return (len(right), count, float(right.mean()), *interval(right), float("nan"), float("nan"))


def _estimated(of: Estimate) -> tuple[object, ...]:
    return (of.n, None, of.accuracy, *of.world(), *of.limits())


def _trust(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The columns fingerprint, reliability and why of cells under their judges."""
    told = [cells[name].astype(str) if name in cells else [""] * len(cells) for name in ("findings", "fingerprints")]
    known = {text: json.loads(text or "{}") for text in set(told[1])}
    rows = list(zip(*told, cells["judge"], cells["n"], strict=True))
    found = [against(findings, str(judge), int(n)) for findings, _, judge, n in rows]
    prints = [str(known[text].get(judge, "")) for _, text, judge, _ in rows]
    return {"fingerprint": prints, "reliability": [verdict(of) for of in found], "why": [why(of) for of in found]}


def _rows(answers: Answers, numbers: Sequence[int], times: Sequence[int]) -> pd.DataFrame:
    """The description of each of these cells so many times."""
    return answers.cells.iloc[np.repeat(np.array(numbers, dtype=np.intp), times)].reset_index(drop=True)


def _judges(names: Sequence[str], answers: Answers) -> pd.Categorical:
    """The names of judges as a column, in the order in which they are shown."""
    order: Any = answers.judges
    return pd.Categorical(pd.Series(names, dtype=object), categories=order)
