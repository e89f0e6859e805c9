"""The only owner of what the judges say of cells, image by image: the verdicts, held without the records."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from robustcl.bench.design import read_designs
from robustcl.models.errors import UserError
from robustcl.reports.estimate import Estimate, estimates, is_estimate
from robustcl.reports.frame import CLEAN, CORRUPTIONS, RECORDS, Cells, Judges

_JUDGED = ["image", "label", "judge", "attack", "right", "margin", "passes"]


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
        return self.take(np.flatnonzero(kept).tolist())

    def take(self, numbers: Iterable[int]) -> "Answers":
        """The cells of these numbers."""
        numbers = list(numbers)
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
        cells, parts, judges = records.described, iter(records), list(records.names["judge"])
    else:
        cells, parts = _split(records)
        known = records["judge"]
        judges = list(known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else known.unique())
    shared: dict[bytes, pd.Index] = {}  # cells that judge the same images share the list of them
    found = [_hear(cells.iloc[[number]], rows, shared) for number, rows in enumerate(parts)]
    return Answers(cells=cells, heard=found, judges=judges)


def estimates_of(first: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Estimate]:
    """The estimates of one cell: of its description (one row of a `frame`) and its records. Errors: as `estimates`."""
    held = json.loads(str(first["designs"].iloc[0])) if "designs" in first else {}
    where = f"records of {_place(first)}"
    return estimates(rows, json.loads(str(first["judges"].iloc[0])), read_designs(held, where), where)


def cell_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that say which cell a row is of."""
    return [str(name) for name in frame.columns if name not in RECORDS.names]


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


def _place(first: pd.DataFrame) -> str:
    """Which cell it is, for people."""
    return " ".join(str(first[name].iloc[0]) for name in ("encoder", "scheme", "norm", "eps") if name in first)
