"""The only owner of how often bounds of a paired difference are wrong: five of them, exactly, by adding up chances.

`python -m benchmarks.bounds` prints the table of docs/statistics.md. For every true pair of shares (lost, won) on a
grid, from half an image in n to 45 % of them, the chance of all outcomes in which a one-sided bound misses the true
difference; the largest of them is shown. A bound at 5 % should miss in 5 % at most.
"""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri, xlogy

from robustcl.reports.statistics import difference, wilson
from robustcl.reports.writers import grid

Floats = NDArray[np.float64]
Bounds = Callable[[Floats, Floats, int, float], tuple[Floats, Floats]]
GRID = (0.0, *np.array([0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15]).tolist())  # images in n
LEVELS = (0.95, 0.99, 1 - 0.05 / 18)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)


def ours(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Square and add of exact limits."""
    return difference(b, c, n, level)


def wilsons(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Square and add of Wilson's limits of the discordant shares."""
    p, q = b / n, c / n
    (p_low, p_high), (q_low, q_high) = (wilson(of, n, 2 * level - 1) for of in (b, c))
    against = np.sqrt(p * q / np.maximum((1 - p) * (1 - q), 1e-12))
    down = np.sqrt((p - p_low) ** 2 + (q_high - q) ** 2 + 2 * against * (p - p_low) * (q_high - q))
    up = np.sqrt((p_high - p) ** 2 + (q - q_low) ** 2 + 2 * against * (p_high - p) * (q - q_low))
    return p - q - down, p - q + up


def bonett_price(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Wald's with one image more on either side (D. G. Bonett and R. M. Price, 2012)."""
    return wald(b + 1, c + 1, n + 2, level)


def wald(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """The normal interval with the observed spread, as text books have it."""
    p, q = b / n, c / n
    half = float(ndtri(level)) * np.sqrt((p + q - (p - q) ** 2) / n)
    return p - q - half, p - q + half


def tango(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """The score interval (T. Tango, Stat. Med. 17, 1998), by bisection."""

    def score(d: Floats) -> Floats:
        half = -b - c + (2 * n - b + c) * d
        q = (np.sqrt(np.maximum(half * half + 8 * n * c * d * (1 - d), 0)) - half) / (4 * n)
        return np.asarray((b - c - n * d) / np.sqrt(np.maximum(n * (2 * q + d * (1 - d)), 1e-300)))

    ends = []
    for target in (float(ndtri(level)), -float(ndtri(level))):
        low, high = np.full(b.shape, -1.0), np.ones(b.shape)
        for _ in range(50):
            middle = (low + high) / 2
            above = score(middle) > target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]


def worst(n: int, bounds: Mapping[str, Bounds]) -> dict[tuple[str, float], float]:
    """The largest chance that a bound misses, by its name and level."""
    b, c = (held.astype(float) for held in np.nonzero(np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n))
    ends = {(name, level): of(b, c, n, level) for name, of in bounds.items() for level in LEVELS}
    ways = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
    shares = sorted({*(images / n for images in GRID), *SHARES})
    found = dict.fromkeys(ends, 0.0)
    for p, q in product(shares, shares):
        likely = ways + xlogy(b, p) + xlogy(c, q) + (n - b - c) * np.log1p(-p - q)
        near = likely > -40  # what is left out adds up to less than 1e-11
        chance = np.exp(likely[near])
        for key, (low, high) in ends.items():
            sides = (low[near] > p - q + 1e-12, high[near] < p - q - 1e-12)
            found[key] = max(found[key], *(float(chance[side].sum()) for side in sides))
    return found


def main() -> None:
    lines = []
    for n in (100, 300, 1000):
        found = worst(n, BOUNDS)
        lines += [[name, str(n), *(f"{100 * found[name, level]:.2f}" for level in LEVELS)] for name in BOUNDS]
    print(grid(["bounds", "images", *(f"stated {100 * (1 - level):.2g} %" for level in LEVELS)], lines))


BOUNDS: dict[str, Bounds] = {
    "exact limits (ours)": ours,
    "Wilson's limits": wilsons,
    "Tango": tango,
    "Bonett-Price": bonett_price,
    "Wald": wald,
}


if __name__ == "__main__":
    main()
