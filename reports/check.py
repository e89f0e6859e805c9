"""The only owner of the gate's verdict: whether rows lost more than a margin, image by image against a baseline."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from robustcl.bench.findings import UNCHECKED, VERDICTS
from robustcl.models.errors import UserError
from robustcl.reports.baseline import Baseline, Row, chosen, names, rows_of
from robustcl.reports.statistics import difference, images_for

Outcome = Literal["ok", "regression", "undecided"]
CODES: dict[Outcome, int] = {"ok": 0, "regression": 1, "undecided": 3}
MARGIN, LEVEL = 0.01, 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """A row before and now. All shares in [0, 1] but `drop`, `low` and `high` in [-1, 1]: positive where it got worse.

    `low` is the one-sided lower bound of the drop, which holds for all rows of the check at once, `high` the upper one,
    which holds for each. `lost` are the images (positions in the split) that were right and are wrong now, `won` the
    others that changed. `needed` is the number of images that could tell (infinite where none could, NaN where the row
    is decided, or a sequential check ended before), `why` what keeps a row from being ok beside its numbers.
    """

    name: str
    before: Row
    now: Row
    lost: NDArray[np.int32]
    won: NDArray[np.int32]
    drop: float
    low: float
    high: float
    outcome: Outcome
    needed: float = float("nan")
    why: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Check:
    """What a check came to. `margin` and `level` as in `check`; `new` names the rows (but for the
    random encoder's, a control) that the baseline lacks."""

    rows: tuple[Compared, ...]
    new: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    margin: float = MARGIN
    level: float = LEVEL

    @property
    def outcome(self) -> Outcome:
        """A regression anywhere is one of the whole; without, a row that cannot be told leaves the whole open."""
        found = {row.outcome for row in self.rows}
        return "regression" if "regression" in found else "undecided" if "undecided" in found else "ok"

    @property
    def code(self) -> int:
        """The exit code: 0 ok, 1 regression, 3 cannot tell."""
        return CODES[self.outcome]


def check(records: pd.DataFrame, baseline: Baseline, margin: float = MARGIN, level: float = LEVEL) -> Check:
    """Compare the rows of a `frame` with a baseline, paired image by image.

    `margin` is the drop, a share in [0, 1], that is put up with; `level` the error rate of the whole check: the chance
    that it reports a regression anywhere though no row lost more than the margin, and the chance that all is ok though
    one did, are at most `level` each. For the first, every row's lower bound is taken at level / rows (Bonferroni). The
    second needs no correction: all rows have to pass, the one that lost among them (R. L. Berger, Technometrics 1982,
    intersection-union tests).
    Errors: `UserError` where the records lack rows of the baseline or are of other images or another attack.
    """
    return check_rows(rows_of(records), baseline, margin, level)


def check_rows(rows: Sequence[Row], baseline: Baseline, margin: float = MARGIN, level: float = LEVEL) -> Check:
    """As `check`, for the rows of the run."""
    ranges(margin, level)
    now = {row.key: row for row in rows}
    _complete(baseline.rows, rows)
    told = dict(zip((row.key for row in baseline.rows), names(baseline.rows), strict=True))
    pairs = [(before, now[before.key]) for before in baseline.rows]
    for before, after in pairs:
        _same(told[before.key], before, after)
    rates: dict[str, Any] = {"margin": margin, "level": level}
    held = [compare(told[before.key], before, after, rows=len(pairs), **rates) for before, after in pairs]
    new = names(chosen([row for key, row in now.items() if key not in told]))
    notes = dict.fromkeys(note for row in held for note in _notes(row))
    return Check(rows=tuple(held), new=tuple(new), notes=tuple(notes), **rates)


def compare(name: str, before: Row, now: Row, *, margin: float, level: float, rows: int = 1) -> Compared:
    """One row of a check of so many `rows`, on the same images; see `check`.

    Where the rows are estimates, what they say is broken of the images that nobody saw counts as flips, and the bounds
    are wider by what the two draws leave open (see `_bounds`).
    """
    lost, won = before.right & ~now.right, now.right & ~before.right
    unseen = [row.estimate.unseen if row.estimate else 0 for row in (now, before)]
    flips, n = (int(lost.sum()) + unseen[0], int(won.sum()) + unseen[1]), before.n
    drop = (flips[0] - flips[1]) / max(n, 1)
    sides = _bounds(before, now, flips, 1 - level / rows), _bounds(before, now, flips, 1 - level)
    low, high = sides[0][0], sides[1][1]
    outcome: Outcome = "regression" if low > margin else "ok" if high <= margin else "undecided"
    why, needed = "", float("nan")
    if outcome == "undecided":
        needed = _needed(*flips, n, margin, level if drop < margin else level / rows)
    if outcome == "undecided" and (before.estimate or now.estimate):
        why = "estimates leave it open; autoattack, or a larger share of its passes, could tell"
    if outcome == "ok" and now.reliability == "unreliable":
        outcome, why = "undecided", "the number now is unreliable"
    return Compared(
        name=name,
        before=before,
        now=now,
        lost=before.image[lost],
        won=before.image[won],
        drop=drop,
        low=low,
        high=high,
        outcome=outcome,
        needed=needed,
        why=why,
    )


def _bounds(before: Row, now: Row, flips: tuple[float, float], level: float) -> tuple[float, float]:
    """The lower and the upper bound of the drop, each one-sided at `level`.

    Those over images, and where the rows are estimates, squared and added to them, the limits of both draws: the same
    numbers decide who is drawn on both sides, so that their errors are never opposed, and this is never too narrow.
    """
    low, high = (float(end) for end in difference(*flips, before.n, level))
    drop, down, up = (flips[0] - flips[1]) / max(before.n, 1), [0.0], [0.0]
    for row, sign in ((before, 1), (now, -1)):
        if row.estimate:
            ends = [sign * (end - row.accuracy) for end in row.estimate.limits(2 * level - 1)]
            down.append(min(ends))
            up.append(max(ends))
    if len(down) == 1:
        return low, high
    return max(-1.0, drop - float(np.hypot.reduce([drop - low, *down]))), min(
        1.0, drop + float(np.hypot.reduce([high - drop, *up]))
    )


def _needed(lost: float, won: float, n: int, margin: float, level: float) -> float:
    """The number of images that could tell in 80 of 100 cases, should both flips be as frequent as on these n.

    The formula of the sample size is too small where few images flip; from there on, until the bound decides on the
    outcome that is one in five. Infinite where the drop is the margin.
    """
    p, q, beyond = lost / max(n, 1), won / max(n, 1), (lost - won) / max(n, 1) - margin
    least = np.ceil(np.log(level) / np.log1p(-margin)) if margin and beyond < 0 else 0.0  # without a flip
    found = max(n + 1.0, least, images_for(abs(beyond), p + q, 2 * level))
    while np.isfinite(found):
        unlucky = float(ndtri(0.8)) * np.sqrt(found * (p + q - (p - q) ** 2))
        worse = found * p + (unlucky if beyond < 0 else -unlucky)
        low, high = difference(max(worse, 0), found * q, found, 1 - level)
        if (high <= margin) if beyond < 0 else (low > margin):
            break
        found *= 1.02
    return found


def ranges(margin: float, level: float) -> None:
    """Errors: `UserError` for a margin or a level that is none."""
    if not 0 <= margin < 1:
        raise UserError(
            f"margin: {100 * margin:g} points, expected 0 or more and less than 100; in Python it is a share, such as "
            "0.03 for 3 points"
        )
    if not 0 < level < 0.5:
        raise UserError(f"level: {level:g}, expected more than 0 and less than 0.5, such as 0.05")


def _complete(before: Sequence[Row], now: Sequence[Row]) -> None:
    """Refuse a run that lacks rows of the baseline, with what differs where only the threat, data or seeds do."""
    known = {row.key for row in now}
    lost = [row for row in before if row.key not in known]
    if not before:
        raise UserError("check: the baseline holds no row, expected at least one")
    if not lost:
        return
    for row in lost:
        for other in now:
            if (row.encoder, row.scheme, row.judge) != (other.encoder, other.scheme, other.judge):
                continue
            sides = [(one.data, one.threat, one.seed_text) for one in (row, other)]
            was, found = (", ".join(filter(None, mine)) for mine in _differing(*sides))
            told = f"the baseline's is of {was} and the run's of {found}, expected the same"
            raise UserError(f"check: {names([row])[0]}: {told}")
    missing = names(lost)
    more = f" and {len(missing) - 5} more rows" if len(missing) > 6 else ""
    shown = ", ".join(missing[:5] if more else missing)
    raise UserError(f"check: the run lacks {shown}{more} of the baseline, expected all of its rows, finished")


def _differing(one: Sequence[str], other: Sequence[str]) -> tuple[list[str], list[str]]:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _same(name: str, before: Row, now: Row) -> None:
    """Refuse what is not comparable image by image."""
    if not np.array_equal(before.image, now.image):
        missing, more = len(np.setdiff1d(before.image, now.image)), len(np.setdiff1d(now.image, before.image))
        raise UserError(
            f"check: {name}: judged on other images, {missing} of the baseline's {before.n} are missing and {more} are "
            "new, expected the same ones"
        )
    if not np.array_equal(before.label, now.label):
        count = int((before.label != now.label).sum())
        raise UserError(f"check: {name}: {count} labels differ from the baseline's, expected the same data")
    if before.content and now.content and before.content != now.content:
        raise UserError(f"check: {name}: the pixels of the images differ from the baseline's, expected the same data")
    if before.fingerprint != now.fingerprint:
        was, found = before.fingerprint or "without a fingerprint", now.fingerprint or "without a fingerprint"
        raise UserError(f"check: {name}: the baseline's attack is {was} and the run's {found}, expected one attack")


def _notes(row: Compared) -> list[str]:
    """What else has changed, in words."""
    was, now = row.before.reliability, row.now.reliability
    grades = [*VERDICTS, UNCHECKED]
    made = []
    if was in grades and now in grades and grades.index(now) > grades.index(was):
        made.append(f"{row.name}: reliability was {was} and is {now}{f' ({row.now.why})' if row.now.why else ''}")
    if row.before.protocol != row.now.protocol:
        old, new = (re.split(r", (?![^(]*\))", one.protocol) for one in (row.before, row.now))  # not within brackets
        sides = [", ".join(part for part in one if part not in other) for one, other in ((old, new), (new, old))]
        told = [f"'{side}'" if side else "without" for side in sides]
        made.append(f"{row.before.encoder} {row.before.scheme}: the protocol was {told[0]} and is {told[1]}")
    return made
