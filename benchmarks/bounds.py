"""The only owner of how often bounds of a paired difference are wrong: five of them, exactly, by adding up chances.

`python -m benchmarks.bounds` prints the table of docs/statistics.md. For every true pair of shares (lost, won) on a
grid, from half an image in n to 45 % of them, the chance of all outcomes in which a one-sided bound misses the true
difference; the largest of them is shown. A bound at 5 % should miss in 5 % at most.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from robustcl.reports.statistics import difference, wilson
from robustcl.reports.writers import grid

Floats = NDArray[np.float64]
Bounds = Callable[[Floats, Floats, int, float], tuple[Floats, Floats]]
GRID = (0.0, *np.array([0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15]).tolist())  # images in n
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)


def ours(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Square and add of exact limits."""
    return difference(b, c, n, level)


def newcombe(b: Floats, c: Floats, n: int, level: float) -> tuple[Floats, Floats]:
    """Square and add of Wilson's limits of the discordant shares (the idea of Newcombe's method 10)."""
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


def worst(bounds: Bounds, n: int, level: float) -> float:
    """The largest chance that a bound at `level` misses."""
    b, c = (held.astype(float) for held in np.nonzero(np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n))
    low, high = bounds(b, c, n, level)
    ways = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
    shares = sorted({*(images / n for images in GRID), *SHARES})
    found = 0.0
    for p, q in product(shares, shares):
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.exp(ways + np.where(b > 0, b * np.log(p), 0) + np.where(c > 0, c * np.log(q), 0))
            chance *= np.exp((n - b - c) * np.log1p(-p - q))
        found = max(found, *(float(chance[of].sum()) for of in (low > p - q + 1e-12, high < p - q - 1e-12)))
    return found


def main() -> None:
    levels = (0.95, 0.99, 1 - 0.05 / 18)
    names = {"ours": ours, "Newcombe": newcombe, "Tango": tango, "Bonett-Price": bonett_price, "Wald": wald}
    lines = [
        [name, str(n), *(f"{100 * worst(of, n, level):.2f}" for level in levels)]
        for n in (100, 300, 1000)
        for name, of in names.items()
    ]
    print(grid(["bounds", "images", *(f"stated {100 * (1 - level):.2g} %" for level in levels)], lines))


if __name__ == "__main__":
    main()
