"""The only owner of what AA-estimate is worth: draws from full records of AutoAttack on 10,000 images.

`python -m benchmarks.estimate [DRAWS]` prints the tables of docs/estimate.md; the seeds are 0, 1, ...
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustcl.bench.estimate import design_of, estimated, uniforms
from robustcl.reports.baseline import Row
from robustcl.reports.check import compare
from robustcl.reports.estimate import Estimate
from robustcl.reports.writers import grid

RECORDS = Path(__file__).resolve().parents[1] / "docs" / "results" / "estimate"
CLASSES, NORM = 10, "linf"
SHARES = (10, 20)
PHASES = ("apgd-ce", "apgd-t"), ("fab-t", "square")


@dataclass(frozen=True, kw_only=True)
class Full:
    """What is known of every image (n,): right clean, the screen's margin, which attack of AutoAttack broke it (empty:
    none), and the passes of the screen and of both phases, as our engine spent them."""

    name: str
    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    margin: NDArray[np.float32]
    screen: NDArray[np.int64]
    passes: tuple[NDArray[np.int64], NDArray[np.int64]]
    broke: NDArray[np.str_]

    @property
    def robust(self) -> NDArray[np.bool_]:
        """What AutoAttack leaves right, (n,)."""
        return self.right & (self.broke == "")

    @property
    def truth(self) -> float:
        """AutoAttack's accuracy."""
        return float(self.robust.mean())

    def broken(self, phase: int) -> NDArray[np.bool_]:
        """What the attacks of a phase broke, (n,)."""
        return self.right & np.isin(self.broke, PHASES[phase])


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One estimate, and the share of AutoAttack's passes that it took."""

    estimate: Estimate
    share: float


def read(path: Path) -> Full:
    """The full records in a file."""
    held = pd.read_parquet(path)
    return Full(
        name=path.stem,
        image=held["image"].to_numpy(),
        right=held["right"].to_numpy(dtype=bool),
        margin=held["margin"].to_numpy(),
        screen=held["screen_passes"].to_numpy(dtype=np.int64),
        passes=(held["early"].to_numpy(dtype=np.int64), held["late"].to_numpy(dtype=np.int64)),
        broke=held["broke"].astype(str).to_numpy(dtype=str),
    )


@cache
def numbers(seed: int) -> NDArray[np.float64]:
    """The numbers of the images 0 to 9,999 at a seed: all classifiers share them."""
    return uniforms(seed, range(10_000))


def drawing(full: Full, share: int) -> Callable[[int], Draw]:
    """What `aa-estimate-<share>` estimates at a seed, and what it spends."""
    design = design_of(estimated(share, CLASSES, engine="fast"), full.margin[full.right], CLASSES, NORM, 0)
    margins, n, right = np.nan_to_num(full.margin), len(full.image), int(full.right.sum())
    chances = [np.where(full.right, design.chances(phase, margins), 0.0) for phase in range(2)]
    broken, passes = [full.broken(phase) for phase in range(2)], full.passes
    open_ = [full.right, full.right & ~broken[0]]
    whole = sum(float(passes[phase][open_[phase]].sum()) for phase in range(2))

    def draw(seed: int) -> Draw:
        seen, spent, certain = Counter[float](), float(full.screen.sum()), list[int]()
        for phase in range(2):
            given = open_[phase] & (numbers(seed)[full.image] < chances[phase])
            lost = given & broken[phase]
            seen.update(chances[phase][lost].tolist())
            certain += full.image[lost & (chances[phase] == 1)].tolist()
            spent += float(passes[phase][given].sum())
        made = Estimate(n=n, right=right, broken=dict(seen), least=design.least, certain=certain)
        return Draw(estimate=made, share=spent / whole)

    return draw


def row(full: Full, share: int, draws: int) -> list[str]:
    """A line of the first table."""
    draw = drawing(full, share)
    made = [draw(seed) for seed in range(draws)]
    ends = np.array([one.estimate.limits() for one in made])
    world = np.array([one.estimate.world() for one in made[:20]])
    estimates, half = np.array([one.estimate.accuracy for one in made]), 50 * (ends[:, 1] - ends[:, 0])
    covered = (ends[:, 0] <= full.truth + 1e-12) & (full.truth <= ends[:, 1] + 1e-12)
    error = 100 * estimates.std(ddof=1) / np.sqrt(draws)
    return [
        full.name,
        f"{share} %",
        f"{100 * np.mean([one.share for one in made]):.1f} % ({100 * max(one.share for one in made):.1f})",
        f"{100 * full.truth:.2f}",
        f"{100 * estimates.mean():.3f} ± {error:.3f}",
        f"{100 * estimates.std(ddof=1):.2f}",
        f"{half.mean():.2f} ({np.quantile(half, 0.95):.2f})",
        f"{100 * covered.mean():.1f}",
        f"{50 * (world[:, 1] - world[:, 0]).mean():.2f}",
    ]


def hidden(full: Full, share: int, count: int, draws: int) -> list[str]:
    """A line of the second table: further breaks, where the margin is largest, that Square alone finds."""
    robust = np.flatnonzero(full.robust)
    broke = full.broke.astype("U7")
    broke[robust[np.argsort(full.margin[robust])[::-1][:count]]] = "square"
    line = row(replace(full, broke=broke), share, draws)
    return [line[0], line[1], str(count), *line[3:8]]


def gate(one: Full, other: Full, share: int, draws: int) -> list[str]:
    """A line of the third table: how often the bounds of the drop, one-sided at 95 % each, miss the drop in the set.

    Both sides share their draws. The gate's bounds are over images, too, and so wider than the set asks for; the last
    column leaves these out, and has bounds of the two draws alone.
    """
    truth, missed, alone, wide = one.truth - other.truth, 0, 0, []
    draw = [drawing(full, share) for full in (one, other)]
    for seed in range(draws):
        sides = [of(seed).estimate for of in draw]
        rows = [_row(full, of) for full, of in zip((one, other), sides, strict=True)]
        found = compare("", *rows, margin=0.01, level=0.05)
        missed += not found.low <= truth <= found.high
        wide.append(50 * (found.high - found.low))
        drop = sides[0].accuracy - sides[1].accuracy
        ends = [np.array(of.limits(0.9)) - of.accuracy for of in sides]
        low, high = drop - np.hypot(ends[0][0], ends[1][1]), drop + np.hypot(ends[0][1], ends[1][0])
        alone += not low - 1e-12 <= truth <= high + 1e-12
    return [
        f"{one.name} - {other.name}",
        f"{share} %",
        f"{100 * truth:.2f}",
        f"{100 * missed / draws:.1f}",
        f"{np.mean(wide):.2f}",
        f"{100 * alone / draws:.1f}",
    ]


def main(draws: int) -> None:
    """Print the tables."""
    fulls = [read(path) for path in sorted(RECORDS.glob("*.parquet"))]
    heads = ["classifier", "asked", "passes, mean (most)", "AA", "mean of estimates", "sd", "half-width, mean (95 %)"]
    lines = [row(full, share, draws) for full in fulls for share in SHARES]
    print(grid([*heads, "covered %", "half-width, world"], lines, names=1))
    heads = ["classifier", "asked", "hidden", "AA", "mean of estimates", "sd", "half-width, mean (95 %)", "covered %"]
    hide: Sequence[int] = (1, 5, 20, 60, 200)
    print()
    print(grid(heads, [hidden(full, 10, count, draws) for full in fulls[:1] for count in hide], names=1))
    pairs = [(fulls[a], fulls[b]) for a in range(len(fulls)) for b in range(len(fulls)) if a < b]
    heads = ["pair", "asked", "drop", "missed %", "half-width", "missed by the draws' bounds alone %"]
    print()
    print(grid(heads, [gate(*pair, 10, max(draws // 5, 1)) for pair in pairs], names=1))


def _row(full: Full, estimate: Estimate) -> Row:
    """What the gate compares."""
    right = full.right & ~np.isin(full.image, estimate.certain)
    text = dict.fromkeys(("encoder", "scheme", "data", "norm", "eps", "judge"), "")
    image = full.image.astype(np.int32)
    return Row(**text, image=image, label=np.zeros(len(image), dtype=np.int16), right=right, estimate=estimate)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
