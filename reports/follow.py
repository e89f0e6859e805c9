"""The only owner of following a classifier against a baseline, block by block, until the gate's answer is certain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.baseline import NO_THREAT, Row, names
from robustcl.reports.check import Check, Compared, compare, ranges
from robustcl.reports.checked import WORDS
from robustcl.reports.frame import CLEAN, Judges
from robustcl.reports.sequence import so_far
from robustcl.reports.table import heading
from robustcl.reports.trust import against, verdict, why
from robustcl.reports.verdicts import judged

Judged = Callable[[int, Sequence[str]], pd.DataFrame]
"""The records of block number so-and-so under the judges of these names."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The rows of one classifier in a baseline, by judge; `clean` first where it is among them."""

    rows: Mapping[str, Row]
    told: Mapping[str, str]
    margin: float
    level: float

    def at_once(self, name: str, now: Row) -> Compared:
        """A row on all images, looked at once."""
        whole = {"margin": self.margin, "level": self.level, "rows": len(self.rows)}
        return compare(self.told[name], self.rows[name], now, **whole)  # type: ignore[arg-type]

    def so_far(self, name: str, now: Row) -> Compared:
        """A row on the first of its images, looked at again and again."""
        whole = {"margin": self.margin, "level": self.level, "rows": len(self.rows)}
        return so_far(self.told[name], self.rows[name], now, **whole)  # type: ignore[arg-type]

    @property
    def attacked(self) -> list[str]:
        """The judges that attack."""
        return [name for name in self.rows if name != CLEAN]


def watch(rows: Sequence[Row], where: str, margin: float, level: float) -> Watched:
    """The rows of one classifier under one threat. Errors: `UserError` where they are of several, or none attacks."""
    ranges(margin, level)
    for what, several in (
        ("classifiers", {f"{row.encoder} {row.scheme} {row.seed_text}".strip() for row in rows}),
        ("threats", {row.threat for row in rows} - {NO_THREAT}),
        ("data sets", {row.data for row in rows}),
    ):
        if len(several) > 1:
            raise UserError(
                f"{where}: holds {what} {', '.join(sorted(several))}, expected one of them; choose with --encoder, "
                "--scheme and --judge"
            )
    if not any(row.judge != CLEAN for row in rows):
        raise UserError(f"{where}: no row under attack, expected one at least")
    ordered = sorted(rows, key=lambda row: row.judge != CLEAN)
    told = dict(zip((row.judge for row in ordered), names(ordered), strict=True))
    return Watched(rows={row.judge: row for row in ordered}, told=told, margin=margin, level=level)


def follow(
    watched: Watched, clean: pd.DataFrame, count: int, work: Judged, held: Judges
) -> Iterator[dict[str, Compared]]:
    """What the rows have come to after the clean answers to all images, and after each of `count` blocks in turn.

    `held` names the attacks of every judge. Ends with the first regression, with the last row that is decided, or with
    the last block. Clean accuracy is looked at once, on all images, before anything is attacked; a judge that is
    decided judges no further block.
    """
    found: dict[str, Compared] = {}
    seen: dict[str, list[pd.DataFrame]] = {name: [] for name in watched.attacked}
    if CLEAN in watched.rows:
        found[CLEAN] = watched.at_once(CLEAN, _now(watched.rows[CLEAN], [clean], []))
        yield found
    for number in range(count):
        open_ = [name for name in watched.attacked if name not in found or found[name].outcome == "undecided"]
        if not open_ or any(row.outcome == "regression" for row in found.values()):
            return
        records = work(number, open_)
        for name in open_:
            seen[name].append(records[records["judge"].isin([CLEAN, name])])
            found[name] = watched.so_far(name, _now(watched.rows[name], seen[name], held[name]))
        yield found


def line(found: Mapping[str, Compared], n: int) -> str:
    """Where the rows stand, of `n` images."""
    rows = [
        f"{heading(row.now.judge)} {100 * row.drop:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}] "
        f"{WORDS[row.outcome]}"
        for row in found.values()
    ]
    return f"{_attacked(found)} of {n} images attacked; drop in points: {', '.join(rows)}"


def conclude(watched: Watched, found: Mapping[str, Compared], findings: str, n: int) -> Check:
    """What it came to: with the findings of the checks (see `trust.text_of`), and a note of what was spared of `n`."""
    rows = [_trusted(row, findings) if name != CLEAN else row for name, row in found.items()]
    used = _attacked(found)
    notes = [f"attacked {used} of {n} images ({used / n:.0%}), in a fixed random order"]
    left = [watched.told[name] for name in watched.attacked if name not in found]
    notes += [f"not attacked, as a regression is certain without: {', '.join(left)}"] if left else []
    return Check(rows=tuple(rows), notes=tuple(notes), margin=watched.margin, level=watched.level)


def _attacked(found: Mapping[str, Compared]) -> int:
    return max((row.now.n for name, row in found.items() if name != CLEAN), default=0)


def _now(before: Row, records: Sequence[pd.DataFrame], attacks: Sequence[str]) -> Row:
    """The row as it is now, on the images of these records."""
    rows = pd.concat(records)
    right = judged(rows, {before.judge: attacks} if attacks else {})[before.judge].sort_index()
    labels = rows[rows["judge"] == CLEAN].set_index("image")["label"].loc[right.index]
    return replace(
        before,
        image=right.index.to_numpy(dtype="int32"),
        label=labels.to_numpy(dtype="int16"),
        right=right.to_numpy(dtype=bool),
        reliability="",
        why="",
    )


def _trusted(row: Compared, findings: str) -> Compared:
    """The row with what the checks hold against its number: one that is unreliable is never ok."""
    held = against(findings, row.now.judge, row.now.n) if findings else None
    now = replace(row.now, reliability=verdict(held), why=why(held))
    if row.outcome == "ok" and now.reliability == "unreliable":
        return replace(row, now=now, outcome="undecided", why="the number now is unreliable")
    return replace(row, now=now)
