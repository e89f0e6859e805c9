"""The only owner of estimated accuracies: what the drawn images say of all of them, with what intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robustcl.bench.design import Design, Phase
from robustcl.models.errors import UserError
from robustcl.reports.statistics import weighted_total, wilson

SCREEN = "screen-"  # the first attack of an estimate is named so


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An accuracy of which a part of the images was judged: `right` of `n` are right clean.

    `broken` says how many breaks were seen among those that were drawn with which chance, in (0, 1]; `least` is the
    smallest chance that any image had. The accuracy is unbiased over draws: every break stands for 1 / chance.
    `certain` are the images that were broken and would have been in every draw.
    """

    n: int
    right: int
    broken: Mapping[float, int]
    least: float
    certain: Sequence[int] = ()

    @property
    def lost(self) -> float:
        """How many images are broken, estimated."""
        return sum(count / chance for chance, count in self.broken.items())

    @property
    def unseen(self) -> float:
        """How many of these hang on the draw."""
        return self.lost - self.broken.get(1.0, 0)

    @property
    def accuracy(self) -> float:
        """The share of images that are robustly right, estimated; NaN without an image."""
        return (self.right - self.lost) / self.n if self.n else float("nan")

    def limits(self, level: float = 0.95) -> tuple[float, float]:
        """The interval for the accuracy that AutoAttack would have on these very images, two-sided at `level`."""
        seen, weights = np.array(list(self.broken.values()) or [0]), 1 / np.array(list(self.broken) or [1.0])
        low, high = weighted_total(seen, weights, 1 / self.least, level)
        ends = (self.right - min(high, self.right)) / max(self.n, 1), (self.right - low) / max(self.n, 1)
        return max(0.0, ends[0]), max(0.0, ends[1])

    def world(self, level: float = 0.95) -> tuple[float, float]:
        """The interval for images like these: Wilson's and that of the draw, squared and added (Newcombe, 1998)."""
        share = min(max(self.accuracy, 0.0), 1.0) if self.n else 0.5
        (low, high), (over_low, over_high) = self.limits(level), wilson(share * self.n, self.n, level)
        down, up = np.hypot(share - float(over_low), share - low), np.hypot(float(over_high) - share, high - share)
        return max(0.0, share - float(down)), min(1.0, share + float(up))


def is_estimate(attacks: Sequence[str]) -> bool:
    """Whether these attacks of a judge are those of an estimate."""
    return bool(attacks) and attacks[0].startswith(SCREEN)


def estimates(
    records: pd.DataFrame, judges: Mapping[str, Sequence[str]], designs: Mapping[str, Design], where: str = "records"
) -> dict[str, Estimate]:
    """Judge -> its estimate, of the judges of one cell that are estimates and have rows.

    Errors: `UserError` where a design is missing, or rows that it says were there: whoever was drawn and is lost must
    never count as robust.
    """
    judges = {judge: attacks for judge, attacks in judges.items() if is_estimate(attacks)}
    if not judges:
        return {}
    clean = records[records["judge"] == "clean"]
    right = pd.Index(clean.loc[clean["right"].astype(bool), "image"])
    found = {}
    for judge, attacks in judges.items():
        rows = records[records["judge"] == judge]
        if rows.empty and len(right):
            continue
        if judge not in designs:
            raise UserError(f"{where}: nothing says how '{judge}' drew its images, expected the file as it was written")
        found[judge] = _estimate(
            rows, right, len(clean), _of(attacks, designs[judge], where), f"{where}: judge '{judge}'"
        )
    return found


def to_table(estimate: Estimate) -> dict[str, Any]:
    """As what JSON can hold."""
    seen = sorted(estimate.broken.items())
    return {"n": estimate.n, "right": estimate.right, "broken": [list(pair) for pair in seen], "least": estimate.least}


def from_table(held: Mapping[str, Any]) -> Estimate:
    """What `to_table` made a table of. Errors: `ValueError`, `KeyError`, `TypeError` for another one."""
    seen = {float(chance): int(count) for chance, count in held["broken"]}
    least = float(held["least"])
    if not all(0 < chance <= 1 for chance in (*seen, least)):
        raise ValueError("chances outside (0, 1]")
    return Estimate(n=int(held["n"]), right=int(held["right"]), broken=seen, least=least)


def _of(attacks: Sequence[str], design: Design, where: str) -> Design:
    """The design, where it is one of these attacks: breaks by what it does not name would count as none."""
    told = [design.screen, *(attack for phase in design.phases for attack in phase.attacks)]
    if told != list(attacks):
        raise UserError(f"{where}: a design of {', '.join(told)}, expected one of {', '.join(attacks)}")
    return design


def _estimate(rows: pd.DataFrame, right: pd.Index, n: int, design: Design, where: str) -> Estimate:
    """The estimate of one judge from its rows."""
    screened = rows[rows["attack"] == design.screen].set_index("image")["margin"]
    if not screened.index.is_unique or set(screened.index) != set(right):
        raise UserError(f"{where}: {len(screened)} images screened, expected the {len(right)} that are right clean")
    broken: dict[int, float] = {}
    left = right
    for number, phase in enumerate(design.phases):
        lost, left = _phase(rows, phase, left, where)
        chances = design.chances(number, screened.loc[lost].to_numpy()).tolist()
        broken |= dict(zip(lost.tolist(), chances, strict=True))
    certain = [image for image, chance in broken.items() if chance == 1]
    seen = Counter(broken.values())
    return Estimate(n=n, right=len(right), broken=seen, least=design.least, certain=certain)


def _phase(rows: pd.DataFrame, phase: Phase, left: pd.Index, where: str) -> tuple[pd.Index, pd.Index]:
    """The images that a phase broke, and those it left right; `left` are those that the one before left."""
    lost, here = pd.Index([], dtype=left.dtype), left
    for number, attack in enumerate(phase.attacks):
        of = rows[rows["attack"] == attack]
        tried = pd.Index(of["image"])
        expected = phase.drawn if number == 0 else len(here)
        if len(tried) != expected or not tried.is_unique or not tried.isin(here).all():
            raise UserError(f"{where}: {len(tried)} images tried by {attack}, expected the {expected} that were drawn")
        right = of["right"].astype(bool).to_numpy()
        lost, here = lost.append(tried[~right]), tried[right]
    return lost, here
