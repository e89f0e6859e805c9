"""The only owner of what records come to: the verdict of each judge per image, and the numbers of a cell."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from robustcl.bench.design import read_designs
from robustcl.models.errors import UserError
from robustcl.reports.estimate import Estimate, estimates, is_estimate
from robustcl.reports.frame import CLEAN, CORRUPTIONS, RECORDS, Judges
from robustcl.reports.statistics import interval
from robustcl.reports.trust import against, verdict, why

SET = ("set_low", "set_high")  # of an estimate: the interval for these very images
_JUDGED = ["image", "judge", "attack", "right", "margin", "passes"]
_NUMBERS = ["n", "right", "accuracy", "low", "high", *SET]


def judged(records: pd.DataFrame, judges: Judges, where: str = "records") -> dict[str, pd.Series]:
    """What every judge says about the images of one cell: judge -> bool per image, indexed by image; `clean` first.

    An image is robustly right under a judge iff its clean answer is right and every attempted row of the judge is. A
    judge without any row is left out, unless no clean answer is right, which leaves nothing to attempt.
    Corruptions are no attack: this judge's answer is the share of right ones per image, a float in [0, 1], over all of
    its corruptions and severities, and does not ask whether the clean answer is right.
    An estimate has no verdict per image, and is left out: see `estimates`.
    Errors: `UserError` where records are lost: images without one clean answer, survivors that not every attack of
    the judge was tried on. Such an image must never count as robust.
    """
    clean = records.loc[records["judge"] == CLEAN].set_index("image")["right"].astype(bool)
    if not clean.index.is_unique or not records["image"].isin(clean.index).all():
        raise UserError(f"{where}: images without exactly one clean answer, expected one 'clean' row per image")
    verdict = {CLEAN: clean}
    for judge, attacks in judges.items():
        rows = records.loc[records["judge"] == judge]
        if is_estimate(attacks) or (rows.empty and (clean.any() or judge == CORRUPTIONS)):
            continue
        if judge == CORRUPTIONS:
            verdict[judge] = _shares(rows, clean.index, attacks, where)
            continue
        right = clean & ~clean.index.isin(rows.loc[~rows["right"].astype(bool), "image"])
        tried = rows.groupby("image").size().reindex(clean.index, fill_value=0)
        short = tried.index[right & (tried < len(attacks))]
        if len(short):
            raise UserError(
                f"{where}: image {short[0]} was tried by {tried[short[0]]} of the {len(attacks)} attacks of judge "
                f"'{judge}' and never broken, expected all of {', '.join(attacks)}"
            )
        verdict[judge] = right
    return verdict


def verdicts(records: pd.DataFrame, *, shares: bool = False) -> pd.DataFrame:
    """One row per cell, judge and image with `right`, the verdict of the judge; the judge `clean` included.

    Corruptions, under which an image has a share and no verdict, are left out; with `shares` they are in, and `right`
    is a share in [0, 1] throughout.
    `records` is a `frame` or a part of one that keeps the clean rows. Errors: as `judged`.
    """
    parts = []
    for first, _, answers in _split(records):
        for judge, right in answers.items():
            if judge == CORRUPTIONS and not shares:
                continue
            right = right.astype(float) if shares else right
            part = first.loc[first.index.repeat(len(right))].reset_index(drop=True)
            parts.append(part.assign(judge=judge, image=right.index.to_numpy(), right=right.to_numpy()))
    return _joined(parts, records, ["judge", "image", "right"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and judge: n, right, accuracy, low, high (the 95 % Wilson interval), how reliable, and passes.

    Accuracies are shares in [0, 1]; passes are the forward-equivalents that the judge spent. `fingerprint` is the
    judge's; `reliability` and `why` say what the checks hold against its number. The accuracy under
    corruptions is the mean of the images' shares; its interval is that of a mean of n of them, since the same n images
    come again under every corruption and are not so many more; `right` is missing there. Of an estimate too: its low
    and high are for images like these, as everybody's, set_low and set_high for these very ones.
    Errors: as `judged` and `estimates`.
    """
    parts = []
    for first, rows, answers in _split(frame):
        spent = rows.groupby("judge", observed=True)["passes"].sum()
        numbers = {judge: _number(right) for judge, right in answers.items()}
        numbers |= {judge: _estimated(of) for judge, of in estimates_of(first, rows).items()}
        part = first.loc[first.index.repeat(len(numbers))].reset_index(drop=True)
        part["judge"] = list(numbers)
        part = part.join(pd.DataFrame(list(numbers.values()), columns=_NUMBERS))
        part["passes"] = [int(spent.get(judge, 0)) for judge in numbers]
        parts.append(part.astype({"n": "int64", "right": "Int64"}).assign(**_trust(first, part)))
    trust = ["fingerprint", "reliability", "why"]
    return _joined(parts, frame, ["judge", *_NUMBERS, *trust, "passes"])


def estimated(frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, str, pd.Series, Estimate]]:
    """Every estimate of a frame: its cell (one row), the judge, what is right for certain (bool per image), the value.

    Right for certain is what is right clean and was not broken in a place where every image is drawn.
    """
    for first, rows, answers in _split(frame):
        for judge, of in estimates_of(first, rows).items():
            clean = answers[CLEAN]
            yield first, judge, clean & ~clean.index.isin(list(of.certain)), of


def estimates_of(first: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Estimate]:
    """The estimates of one cell: of its description (one row of a `frame`) and its records. Errors: as `estimates`."""
    held = json.loads(str(first["designs"].iloc[0])) if "designs" in first else {}
    where = f"records of {_place(first)}"
    return estimates(rows, json.loads(str(first["judges"].iloc[0])), read_designs(held, where), where)


def _number(right: pd.Series) -> tuple[object, ...]:
    """n, right, accuracy and its interval, and none for these very images, where nothing is estimated."""
    count = int(right.sum()) if right.dtype == bool else None
    return (len(right), count, float(right.mean()), *interval(right), float("nan"), float("nan"))


def _estimated(of: Estimate) -> tuple[object, ...]:
    return (of.n, None, of.accuracy, *of.world(), *of.limits())


def _place(first: pd.DataFrame) -> str:
    """Which cell it is, for people."""
    return " ".join(str(first[name].iloc[0]) for name in ("encoder", "scheme", "norm", "eps") if name in first)


def cell_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that say which cell a row is of."""
    return [str(name) for name in frame.columns if name not in RECORDS.names]


def _shares(rows: pd.DataFrame, images: pd.Index, attacks: Sequence[str], where: str) -> pd.Series:
    """The share of right answers per image, each of which has one row per corruption and severity."""
    answers = rows.groupby("image")["right"]
    tried = answers.size().reindex(images, fill_value=0)
    short = tried.index[tried != len(attacks)]
    if len(short):
        raise UserError(
            f"{where}: image {short[0]} was shown under {tried[short[0]]} of the {len(attacks)} corruptions and "
            "severities, expected all of them"
        )
    return answers.mean().reindex(images)


def _trust(first: pd.DataFrame, cells: pd.DataFrame) -> dict[str, list[str]]:
    """The columns fingerprint, reliability and why for every judge of one cell."""
    findings, told = (str(first[name].iloc[0]) if name in first else "" for name in ("findings", "fingerprints"))
    known = json.loads(told or "{}")
    found = [against(findings, str(judge), int(n)) for judge, n in zip(cells["judge"], cells["n"], strict=True)]
    prints = [str(known.get(judge, "")) for judge in cells["judge"]]
    return {"fingerprint": prints, "reliability": [verdict(of) for of in found], "why": [why(of) for of in found]}


def _split(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.Series]]]:
    """Every cell of a frame: its description (one row), its records, what its judges say."""
    if records.empty:
        return
    columns = cell_columns(records)
    number = records.groupby(columns, observed=True, sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    held = records[_JUDGED].iloc[order]
    ends = np.cumsum(np.bincount(number))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = held.iloc[start:end]
        first = records.iloc[order[start : start + 1]][columns]
        judges = json.loads(str(first["judges"].iloc[0]))
        yield first, rows, judged(rows, judges, where=f"records of {_place(first)}")


def _joined(parts: list[pd.DataFrame], records: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The parts below each other, judges in the order of the records; without a part an empty frame of its columns."""
    if not parts:
        return pd.DataFrame({name: [] for name in [*cell_columns(records), *columns]})
    rows = pd.concat(parts, ignore_index=True)
    known = records["judge"]
    order = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else dict.fromkeys(rows["judge"])
    rows["judge"] = pd.Categorical(rows["judge"], categories=list(order))
    return rows
