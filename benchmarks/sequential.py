"""The only owner of the benchmark of the sequential gate: images it attacks, what it decides, and how often it errs.

`python -m benchmarks.sequential`: about a minute on one core, no accelerator.

Populations with a known drop are made of real answers. Two finetunings of one encoder that differ by their seed alone
are an honest pair; each image is drawn with replacement from those that were judged, and the two change sides by a
coin, so that neither is better: the drop is 0. In a share of the images the later answer is then that of a weaker
encoder to the same image; the share gives the drop exactly.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustcl.reports.baseline import Row, rows_of
from robustcl.reports.frame import frame
from robustcl.reports.sequence import decide
from robustcl.reports.writers import grid

RUNS, LEVEL, ROWS, SEED = 400, 0.05, 3, 0  # a gate watches SA, RA and AA, and each has a third of the level
RECORDS = Path(__file__).resolve().parent.parent / "docs" / "results" / "seeds-mini" / "mnist"
HONEST, WEAK = [("advcl", "AFF (last)", 0), ("advcl", "AFF (last)", 1)], ("random", "AFF (last)", 0)
Drops = NDArray[np.int64]


def population() -> tuple[Drops, Drops, Drops]:
    """The verdicts of AutoAttack (images,) of the honest pair, and of the weaker encoder."""
    known = {(row.encoder, row.scheme, row.seeds.get("finetune")): row for row in _rows() if row.judge == "autoattack"}
    one, other, weak = (known[name].right.astype(int) for name in (*HONEST, WEAK))
    return one, other, weak


def drawn(drop: float, n: int, runs: int, seed: int) -> Drops:
    """(runs, n) drops in {-1, 0, 1} from the population of this mean drop."""
    one, other, weak = population()
    draws = np.random.default_rng([seed, n, round(1000 * drop)])
    image, side = draws.integers(len(one), size=(runs, n)), draws.random((runs, n)) < 0.5
    before, after = np.where(side, one[image], other[image]), np.where(side, other[image], one[image])
    share = drop / ((one.mean() + other.mean()) / 2 - weak.mean())
    after = np.where(draws.random((runs, n)) < share, weak[image], after)
    return before - after


def lines() -> Iterator[list[str]]:
    """The rows of the table."""
    for n, margin in ((1000, 0.03), (10000, 0.01)):
        yield line("none: the same answers", np.zeros((1, n), dtype=np.int64), margin)
        for drop in (0.0, margin, 0.02, 0.05, 0.1):
            told = f"{100 * drop:g}{' (= margin)' if drop == margin else ''}"
            yield line(told, drawn(drop, n, RUNS, SEED), margin)


def line(told: str, drops: Drops, margin: float) -> list[str]:
    """What the sequences of one population came to."""
    runs, n = drops.shape
    found = decide(drops, margin, LEVEL, every=max(32, n // 16), rows=ROWS)
    share = np.sort(found.images) / n
    middle = f"{share[runs // 10]:.0%} to {share[runs - 1 - runs // 10]:.0%}"
    decided = [f"{of.mean():.1%}" for of in (found.ok, found.regression, ~found.ok & ~found.regression)]
    return [f"{n:,}", f"{100 * margin:g}", told, f"{share.mean():.0%}", middle, *decided]


def _rows() -> tuple[Row, ...]:
    return rows_of(frame(RECORDS))


def main() -> None:
    """Print what it is of, and the table last."""
    one, other, weak = population()
    gap = 100 * ((one + other).mean() / 2 - weak.mean())
    print(
        f"AutoAttack's verdicts on {len(one)} MNIST images ({RECORDS.parent.name}): the honest pair disagrees on "
        f"{(one != other).mean():.0%}, the weaker encoder is {gap:.0f} points below. {RUNS} sequences a line, "
        f"seed {SEED}, level {LEVEL:g} over {ROWS} rows, 16 looks.\n"
    )
    heads = ["n", "margin", "true drop", "images attacked", "middle 80 %", "OK", "REGRESSION", "CANNOT TELL"]
    print(grid(heads, list(lines()), names=0))


if __name__ == "__main__":
    main()
