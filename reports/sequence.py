"""The only owner of looking as often as one likes: evidence on a paired drop that stays valid at every look.

The gate looks after every block of images and stops when it knows. A p-value or a fixed-n bound that is looked at so
often lies far more often than it says; what is computed here does not.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

from robustcl.reports.baseline import Row
from robustcl.reports.check import Compared, Outcome, compare
from robustcl.reports.statistics import difference

Floats = NDArray[np.float64]

# The shares of its wealth that a bet risks, fixed before any data is seen: small drops need small bets.
SHARES = 2.0 ** -np.arange(7)
AT_END = 0.5  # of the error rate


class Decided(NamedTuple):
    """What sequences of drops came to: `regression` and `ok` (...,) bools, never both, and how many images it took."""

    regression: NDArray[np.bool_]
    ok: NDArray[np.bool_]
    images: NDArray[np.int64]


def wealth(values: ArrayLike, mean: float) -> Floats:
    """The logarithm of what bets against "the mean is at most `mean`" have made of 1, after each of the values.

    `values` (..., n) are at least 0, and so is the answer's shape; `mean` is above 0. Each bet risks a fixed share f of
    its wealth and holds 1 - f + f * value / mean times as much afterwards; the answer is the mean over `SHARES`. While
    the mean is at most `mean`, whatever the values' distribution, this is a non-negative supermartingale that begins at
    1, and the chance that it ever reaches 1 / level is at most level (Ville). The order within a block plays no part
    in what it is at the block's end, so blocks of a random order, looked at whole, may be sorted inside.
    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2023, section 4;
    the mixture over fixed bets is their diversified Kelly betting.
    """
    ratio = np.asarray(values, dtype=np.float64) / mean
    total = np.full(ratio.shape, -np.inf)
    with np.errstate(divide="ignore"):  # who risks all and loses has nothing left: the logarithm of 0
        for share in SHARES:
            total = np.logaddexp(total, np.cumsum(np.log(1 - share + share * ratio), axis=-1))
    found: Floats = total - np.log(len(SHARES))
    return found


def evidence(drops: ArrayLike, drop: float) -> tuple[Floats, Floats]:
    """The log wealth of who bets that the mean drop is larger than `drop`, and of who bets that it is smaller.

    `drops` (..., n) are in [-1, 1]: right before minus right now, per image, in random order; `drop` is in (-1, 1).
    """
    held = np.asarray(drops, dtype=np.float64)
    return wealth(1 + held, 1 + drop), wealth(1 - held, 1 - drop)


def bounds(drops: ArrayLike, level: float) -> tuple[float, float]:
    """The lower and the upper confidence bound of the mean drop after these drops (n,), each wrong at most at `level`.

    Wrong at any look: the chance that a lower bound of a growing sequence ever passes the mean of the population is at
    most `level`, and so for the upper one. Without an image nothing is known: (-1, 1).
    """
    held = np.asarray(drops, dtype=np.float64)
    if not len(held):
        return -1.0, 1.0
    return _least(1 + held, level) - 1, 1 - _least(1 - held, level)


def decide(drops: ArrayLike, margin: float, level: float, every: int = 1, rows: int = 1) -> Decided:
    """What `so_far` comes to on each of many sequences `drops` (..., n) of -1, 0 and 1, one row of a check of `rows`.

    Looks every so many images and stops where it is decided: regression where the lower bound of the drop passes
    `margin`, ok where the upper one falls to it or below; either is wrong with a chance of at most `level` (regression:
    level / rows), however often it is looked. The last look is at all n images.
    """
    held = np.asarray(drops, dtype=np.float64)
    n, share = held.shape[-1], level * (1 - AT_END)
    looks = np.unique(np.append(np.arange(every, n + 1, every), n)) - 1
    larger, smaller = (one[..., looks] for one in evidence(held, margin))
    worse, fine = larger > np.log(rows / share), smaller >= -np.log(share)
    lost, won = (held > 0).sum(axis=-1), (held < 0).sum(axis=-1)
    open_ = ~(worse[..., -1] | fine[..., -1])
    worse[..., -1] |= open_ & (difference(lost, won, n, 1 - level * AT_END / rows)[0] > margin)
    fine[..., -1] |= open_ & ~worse[..., -1] & (difference(lost, won, n, 1 - level * AT_END)[1] <= margin)
    over = worse | fine
    first = np.where(over.any(axis=-1), over.argmax(axis=-1), len(looks) - 1)
    regression, decided = (np.take_along_axis(one, first[..., None], axis=-1)[..., 0] for one in (worse, over))
    return Decided(regression=regression, ok=decided & ~regression, images=looks[first] + 1)


def so_far(name: str, before: Row, now: Row, *, margin: float, level: float, rows: int = 1) -> Compared:
    """One row of a check of so many `rows` after a part of its images, the first ones of a random order; see `check`.

    May be called at every look: `AT_END` of the error rate is kept for the one look at all images, where the bound of
    the plain check, which is tighter, decides what the bets have left open.
    """
    part = _part(before, now.image)
    found = compare(name, part, now, margin=margin, level=level * AT_END, rows=rows)
    drops, share = part.right.astype(float) - now.right, level * (1 - AT_END)
    low, high = bounds(drops, share / rows)[0], bounds(drops, share)[1]
    outcome: Outcome = "regression" if low > margin else "ok" if high <= margin else "undecided"
    if outcome == "undecided" and now.n == before.n:
        return found
    nothing = float("nan")
    return replace(found, low=low, high=high, outcome=outcome, needed=nothing, why="")


def _part(row: Row, images: NDArray[np.int32]) -> Row:
    """The row on some of its images alone."""
    kept = np.isin(row.image, images)
    return replace(row, image=row.image[kept], label=row.label[kept], right=row.right[kept])


def _least(values: Floats, level: float) -> float:
    """The largest mean against which the values say enough; the wealth falls with the mean."""
    # Equal values make equal factors: the sum over distinct ones is that of `wealth` at its end.
    distinct, counts = np.unique(values, return_counts=True)

    def excess(mean: float) -> float:
        with np.errstate(divide="ignore"):
            steps = np.log(1 - SHARES[:, None] + SHARES[:, None] * distinct / mean)
        return float(logsumexp((counts * steps).sum(axis=1)) - np.log(len(SHARES)) + np.log(level))

    highest = max(float(values.max()), 1e-9)  # no bet against the largest value itself ever wins
    if excess(1e-9) < 0:
        return 0.0
    return float(brentq(excess, 1e-9, highest, xtol=1e-9))
