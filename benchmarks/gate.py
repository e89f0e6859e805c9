"""The only owner of how often the gate errs and what it finds: checks of runs that are drawn from real records.

`python -m benchmarks.gate [CHECKS]` prints the tables of docs/results/gate.md; seeds are in the code.
"""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from robustcl.reports.baseline import Baseline, Row, chosen, rows_of
from robustcl.reports.check import LEVEL, MARGIN, Check, check_rows
from robustcl.reports.frame import frame
from robustcl.reports.writers import grid

RECORDS = Path(__file__).resolve().parents[1] / "docs" / "results" / "seeds-mini" / "mnist"
LEAST = 0.2  # an accuracy below has little to lose

Pair = tuple[Row, Row]


@cache
def pairs() -> tuple[Pair, ...]:
    """Rows that finetuning seeds 0 and 1 gave on the same images, but for the random encoder's and those below 20 %."""
    rows = [row for row in chosen(rows_of(frame(RECORDS))) if row.accuracy > LEAST]
    by_key = {row.key: row for row in rows}
    other = [(row, by_key.get(replace(row, seeds={**row.seeds, "finetune": 1}).key)) for row in rows]
    return tuple((row, found) for row, found in other if row.seeds["finetune"] == 0 and found is not None)


def drawn(g: np.random.Generator, n: int, drop: float = 0.0, margin: float = MARGIN) -> Check:
    """The check of a run that truly lost `drop` (a share) of every row, and nothing but chance beside it.

    Per row, n images are drawn again from the records, and a coin for each says which of the two seeds is called the
    baseline: both have the same accuracy by construction, and differ where real seeds do. Then what is right now is
    broken at the rate that takes `drop` from the accuracy.
    """
    before, now = [], []
    for first, second in pairs():
        at, coin, u = g.integers(0, first.n, n), g.random(n) < 0.5, g.random(n)
        one, two = first.right[at], second.right[at]
        kept = u >= drop / ((first.accuracy + second.accuracy) / 2)
        again = replace(first, image=np.arange(n, dtype=np.int32), label=first.label[at])
        before.append(replace(again, right=np.where(coin, one, two)))
        now.append(replace(again, right=np.where(coin, two, one) & kept))
    return check_rows(now, Baseline(rows=tuple(before)), margin)


def promised(n: int, drop: float, pair: Pair, rows: int) -> float:
    """The power of one row of so many that the sample size of McNemar's test gives (R. J. Connor, 1987)."""
    first, second = pair
    lost = drop / ((first.accuracy + second.accuracy) / 2)
    apart = first.right != second.right
    both = first.right & second.right
    # Of the images on which the seeds differ, half are right now; a broken one of those no longer differs.
    disagree = float(apart.mean() * (1 - lost / 2) + both.mean() * lost)
    gap, alpha = drop - MARGIN, -float(ndtri(LEVEL / rows))
    spread = max(disagree - drop * drop, 1e-12)
    return float(ndtr((gap * np.sqrt(n) - alpha * np.sqrt(disagree)) / np.sqrt(spread)))


def errors(times: int) -> str:
    """What checks come to where no row lost anything, and where every row lost exactly the margin of 1 point."""
    lines = []
    for drop in (0.0, MARGIN):
        for n in (100, 300, 1000, 10_000):
            lines.append([f"{100 * drop:g}", f"{n:,}", *_outcomes(times, n, drop, MARGIN)])
    return grid(["true drop", "images", "regression", "cannot tell", "ok"], lines, names=0)


def margins(times: int) -> str:
    """What checks come to where no row lost anything, under wider margins."""
    asked = [(margin, n) for margin in (0.03, 0.05) for n in (300, 1000)]
    lines = [[f"{100 * margin:g}", f"{n:,}", *_outcomes(times, n, 0.0, margin)] for margin, n in asked]
    return grid(["margin", "images", "regression", "cannot tell", "ok"], lines, names=0)


def _outcomes(times: int, n: int, drop: float, margin: float) -> list[str]:
    g = np.random.default_rng(n)
    found = [drawn(g, n, drop, margin).outcome for _ in range(times)]
    return [f"{100 * found.count(kind) / times:.1f}" for kind in ("regression", "undecided", "ok")]


def power(times: int) -> str:
    """In how many of 100 checks a row with a true drop is found, the mean over all rows, and what the formula says."""
    lines = []
    for drop in (0.02, 0.05, 0.10):
        for n in (300, 1000, 10_000):
            g, rows = np.random.default_rng(n + 1), len(pairs())
            found = [row.outcome == "regression" for _ in range(times) for row in drawn(g, n, drop).rows]
            told = np.mean([promised(n, drop, pair, rows) for pair in pairs()])
            lines.append([f"{100 * drop:g}", f"{n:,}", f"{100 * np.mean(found):.0f}", f"{100 * told:.0f}"])
    return grid(["true drop", "images", "found", "promised"], lines, names=0)


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    few = max(times // 5, 1)
    for told in (f"{len(pairs())} rows, {times} checks a line", errors(times), margins(few), power(max(few // 2, 1))):
        print(told, end="\n\n")


if __name__ == "__main__":
    main()
