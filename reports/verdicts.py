"""The only owner of what records come to: the verdict of each judge per image, and the numbers of a cell."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robustcl.bench.design import read_designs
from robustcl.models.errors import UserError
from robustcl.reports.estimate import Estimate, estimates, is_estimate
from robustcl.reports.frame import CLEAN, CORRUPTIONS, RECORDS, Cells, Judges
from robustcl.reports.statistics import interval
from robustcl.reports.trust import against, verdict, why

SET = ("set_low", "set_high")  # of an estimate: the interval for these very images
_JUDGED = ["image", "label", "judge", "attack", "right", "margin", "passes"]
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Heard:
    """What the judges say of one cell: `answers` as `judged`, its estimates, the passes that each judge spent.

    `labels` are those of its images, in the order of the answers.
    """

    answers: Mapping[str, pd.Series]
    estimates: Mapping[str, Estimate]
    passes: Mapping[str, int]
    labels: NDArray[np.int16]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What the judges say of every cell, image by image, without the records: a byte or so per image and judge.

    `cells` has a row for each with the columns of a `frame` that say which cell it is; `heard` is in their order,
    `judges` in the order in which they are shown.
    """

    cells: pd.DataFrame
    heard: Sequence[Heard]
    judges: Sequence[str]

    def where(self, kept: ArrayLike) -> "Answers":
        """The cells of which this is true; `kept` (n,) is in the order of `cells`."""
        return self.take(np.flatnonzero(kept))

    def take(self, numbers: Sequence[int] | NDArray[np.intp]) -> "Answers":
        """The cells of these numbers."""
        shown = self.cells.iloc[numbers].reset_index(drop=True)
        return replace(self, cells=shown, heard=[self.heard[number] for number in numbers])

    @property
    def held(self) -> list[str]:
        """The judges that say anything of these cells, estimates and corruptions apart, in their order."""
        spoke = {judge for of in self.heard for judge in of.answers if judge != CORRUPTIONS}
        return [judge for judge in self.judges if judge in spoke]

    @property
    def headline(self) -> "Answers":
        """The cells of the table, not those of the sweep."""
        return self.where(self.cells["headline"])


Records = pd.DataFrame | Cells | Answers
"""A `frame`, a run folder cell by cell, or what the judges say of either."""


def heard(records: Records) -> Answers:
    """What the judges say of every cell. Of `Cells`, no more than the records of one are held at a time.

    Errors: as `judged` and `estimates`.
    """
    if isinstance(records, Answers):
        return records
    if isinstance(records, Cells):
        cells, parts, judges = records.described, iter(records), records.names["judge"]
    else:
        cells, parts = _split(records)
        known = records["judge"]
        judges = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else known.unique()
    shared: dict[bytes, pd.Index] = {}  # cells that judge the same images share the list of them
    found = [_hear(cells.iloc[[number]], rows, shared) for number, rows in enumerate(parts)]
    return Answers(cells=cells, heard=found, judges=[str(name) for name in judges])


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
    names = pd.Categorical([judge for _, judge, _ in found], categories=answers.judges)
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
    rows["judge"] = pd.Categorical([judge for of in numbers for judge in of], categories=answers.judges)
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


def _trust(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The columns fingerprint, reliability and why for every judge of every cell."""
    told = {name: cells[name].astype(str) if name in cells else [""] * len(cells) for name in ("findings", "fingerprints")}
    found = [against(text, str(judge), int(n)) for text, judge, n in zip(told["findings"], cells["judge"], cells["n"], strict=True)]
    known = {text: json.loads(text or "{}") for text in set(told["fingerprints"])}
    prints = [str(known[text].get(judge, "")) for text, judge in zip(told["fingerprints"], cells["judge"], strict=True)]
    return {"fingerprint": prints, "reliability": [verdict(of) for of in found], "why": [why(of) for of in found]}


def _hear(first: pd.DataFrame, rows: pd.DataFrame, shared: dict[bytes, pd.Index]) -> Heard:
    """What the judges say of one cell: of its description (one row) and its records."""
    answers = judged(rows, json.loads(str(first["judges"].iloc[0])), where=f"records of {_place(first)}")
    clean, spent = answers[CLEAN], rows.groupby("judge", observed=True)["passes"].sum()
    images = shared.setdefault(clean.index.to_numpy().tobytes(), clean.index)
    labels = rows.loc[rows["judge"] == CLEAN, "label"].to_numpy(dtype=np.int16)
    return Heard(
        answers={judge: right.set_axis(images) for judge, right in answers.items()},
        estimates=estimates_of(first, rows),
        passes={str(judge): int(count) for judge, count in spent.items()},
        labels=labels,
    )


def _split(records: pd.DataFrame) -> tuple[pd.DataFrame, Iterator[pd.DataFrame]]:
    """The cells of a frame: their descriptions, a row each, and their records."""
    columns = cell_columns(records)
    number = records.groupby(columns, observed=True, sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number)) if len(number) else np.array([], dtype=int)
    starts = [0, *ends[:-1]][: len(ends)]
    held = records[_JUDGED].iloc[order]
    cells = records.iloc[order[starts]][columns].reset_index(drop=True)
    return cells, (held.iloc[start:end] for start, end in zip(starts, ends, strict=True))


def _rows(answers: Answers, numbers: Sequence[int], times: Sequence[int]) -> pd.DataFrame:
    """The description of each of these cells so many times."""
    return answers.cells.iloc[np.repeat(np.array(numbers, dtype=np.intp), times)].reset_index(drop=True)
