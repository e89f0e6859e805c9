"""The only owner of intervals and tests: what a share of n images is worth, and whether two shares differ."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv, gammaincinv, ndtri, stdtr

Floats = NDArray[np.float64]


def wilson(right: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The Wilson score interval of a share: lower and upper end in [0, 1], of the shape of `right` and `n`.

    `right` of `n` images are right. Without an image (n = 0) nothing is known and the interval is [0, 1].
    Source: E. B. Wilson, 1927, equation for p1 and p2; without continuity correction.
    """
    k, total = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = float(ndtri(0.5 + level / 2))
    share = np.divide(k, total, out=np.full(np.broadcast(k, total).shape, 0.5), where=total > 0)
    spread = total + z * z
    centre = (total * share + z * z / 2) / spread
    half = z / spread * np.sqrt(total * share * (1 - share) + z * z / 4)
    # Both ends are exact where everything or nothing is right; rounding must not move them.
    low = np.where(k <= 0, 0.0, np.clip(centre - half, 0.0, 1.0))
    high = np.where(k >= total, 1.0, np.clip(centre + half, 0.0, 1.0))
    return low, high


def interval(answers: ArrayLike) -> tuple[float, float]:
    """The 95 % interval of the mean of n images' answers: bools, or shares in [0, 1] of several answers each.

    Wilson's for bools. For shares that of a normal mean with their own spread, as answers to one image go together;
    where all shares are equal, or there is one alone, nothing is known of the spread, and Wilson's, which is then too
    wide, stands in.
    """
    given = np.asarray(answers)
    n, mean = len(given), float(given.mean()) if len(given) else 0.5
    spread = float(given.std(ddof=1)) if given.dtype != bool and n > 1 else 0.0
    if not spread:
        low, high = wilson(mean * n, n)
        return float(low), float(high)
    half = float(ndtri(0.975)) * spread / np.sqrt(n)
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_of_means(means: ArrayLike, seeds: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of an accuracy that is the mean of several seeds on the same images: lower and upper end.

    `means` (n,) holds for each image the share of the seeds that are right. The seeds share the images, so n times
    seeds answers are not that many images: Wilson's interval is taken at the number of images whose answers would vary
    as much as the means do (n where the seeds agree on every image, n times seeds where they are independent). With
    one seed that number is n, and the interval Wilson's. It speaks of the sampling of images, not of other seeds.
    """
    held = np.asarray(means, dtype=np.float64)
    n, mean = len(held), float(held.mean())
    spread = float(held.var())
    worth = n * mean * (1 - mean) / spread if spread > 0 else float(n if mean in (0, 1) else n * seeds)
    worth = min(max(worth, n), n * seeds)
    low, high = wilson(mean * worth, worth, level)
    return float(low), float(high)


def weighted_total(seen: ArrayLike, weights: ArrayLike, most: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of how many there are in all, where each was seen with the probability 1 / weight, if at all.

    `seen` (k,) counts what was seen with each of the `weights` (k,), of 1 or more; `most` is the largest weight that
    anything could have had, seen or not. Both ends are those of gamma distributions (M. P. Fay and E. J. Feuer, Stat.
    Med. 16, 1997, for weighted sums of Poisson counts): the upper one counts one more, seen with the weight `most`, so
    that it holds where nothing was seen: there it is the exact one for a count, about 3.7 `most` at 95 %. Departing
    from the source, a weight w adds w (w - 1) to the variance and not w squared: a finite set is drawn from, and what
    is drawn for certain is known. For the same reason the upper end is what was seen and a gamma's for the others
    alone: beside many that are known the gamma of the whole would be a normal, whose tail is too short.
    Nothing is assumed of where in the strata the unseen are.
    """
    k, w = np.asarray(seen, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    total, spread, tail = float((k * w).sum()), float((k * w * (w - 1)).sum()), (1 - level) / 2
    known = float(k.sum())
    low = max(spread / total * float(gammaincinv(total**2 / spread, tail)), known) if spread > 0 else total
    if most <= 1:
        return low, total
    mean, variance = total - known + most, spread + most * (most - 1)
    return low, known + variance / mean * float(gammaincinv(mean**2 / variance, 1 - tail))


def detectable(n: int, disagree: float = 0.5, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of two accuracies on the same n images that a test at `level` finds with this `power`.

    `disagree` is the share of images on which one of the two is right and the other is not: 0.5 is two unrelated
    classifiers at 50 %, or two that are not compared image by image; related ones disagree on 0.1 to 0.2.
    Source: R. J. Connor, Biometrics 1987, the sample size for McNemar's test, solved for the difference.
    """
    alpha, beta = float(ndtri(1 - level / 2)), float(ndtri(power))
    a, b = alpha * np.sqrt(disagree / n), beta**2 / n
    found = (a + np.sqrt(max(b * (disagree * (1 + b) - a * a), 0.0))) / (1 + b)
    return float(min(found, 1.0))


def images_for(gap: float, disagree: float = 0.5, level: float = 0.05, power: float = 0.8) -> float:
    """How many images a test at `level` needs to find a difference `gap` of two accuracies with this `power`.

    The inverse of `detectable`; not rounded, and infinite where there is no difference.
    """
    if gap == 0:
        return float("inf")
    alpha, beta = float(ndtri(1 - level / 2)), float(ndtri(power))
    return float(((alpha * np.sqrt(disagree) + beta * np.sqrt(max(disagree - gap * gap, 0.0))) / gap) ** 2)


def difference(
    only_first: ArrayLike, only_second: ArrayLike, n: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """The lower and the upper bound, each one-sided at `level`, of the difference of two accuracies on the same images.

    `only_first` of the n images are right under the first alone, `only_second` under the second alone; the difference
    is the first's accuracy less the second's, in [-1, 1]. Both bounds together are a two-sided interval at
    2 `level` - 1. Without an image nothing is known: -1 and 1.
    Source: square and add of the limits of two shares (R. G. Newcombe, Stat. Med. 17, 1998; G. Y. Zou and A. Donner,
    Stat. Med. 27, 2008), here of the two discordant shares with exact limits (C. J. Clopper and E. S. Pearson, 1934).
    Bounds from Wilson's limits, and the score interval (T. Tango, 1998), are wrong more often than they say where few
    images differ; these are not, wherever we looked (docs/statistics.md). Where no image differs, the bounds are those
    of 0 of n, about 3/n at 95 %.
    """
    b, c, total = np.broadcast_arrays(*(np.asarray(of, dtype=np.float64) for of in (only_first, only_second, n)))
    known = np.maximum(total, 1)
    p, q = b / known, c / known
    (p_low, p_high), (q_low, q_high) = (_exact(of, known, level) for of in (b, c))
    # The two shares are parts of one multinomial, so that they vary against each other.
    against = np.sqrt(np.divide(p * q, (1 - p) * (1 - q), out=np.zeros_like(p), where=(p < 1) & (q < 1)))
    down = _added(p - p_low, q_high - q, against)
    up = _added(p_high - p, q - q_low, against)
    return np.where(total > 0, np.maximum(p - q - down, -1), -1.0), np.where(total > 0, np.minimum(p - q + up, 1), 1.0)


def _exact(k: Floats, n: Floats, level: float) -> tuple[Floats, Floats]:
    """The one-sided Clopper-Pearson limits of k of n, each at `level`."""
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 1 - level), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), level), 1.0)
    return low, high


def _added(a: Floats, b: Floats, against: Floats) -> Floats:
    return np.asarray(np.sqrt(a * a + b * b + 2 * against * a * b))


def bootstrap(a: ArrayLike, b: ArrayLike, level: float = 0.95, times: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The two-sided interval of the difference of two means over the same images: a's less b's, lower and upper end.

    `a` and `b` (n,) are right or wrong, or shares in [0, 1], image by image; images are drawn again in pairs, `times`
    times. Bias-corrected and accelerated (B. Efron, JASA 82, 1987); where all images differ by the same, that itself.
    It checks other intervals rather than stand alone: where few images differ, it is too short.
    Errors: `ValueError` where the two are not paired.
    """
    import scipy.stats  # half a second that nothing else here needs

    gap = _gap(a, b, "bootstrap")
    if np.ptp(gap) == 0:
        return float(gap[0]), float(gap[0])
    draws = np.random.default_rng(seed)
    found = scipy.stats.bootstrap(
        (gap,), np.mean, n_resamples=times, batch=100, confidence_level=level, method="BCa", rng=draws, vectorized=True
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """The two-sided p-value of the exact McNemar test between two models on the same images.

    `a` and `b` (n,) are bools, right or wrong, image by image. Only images on which the two differ count: under the
    hypothesis of equal accuracy each of them is a fair coin. Without such an image the p-value is 1.
    Errors: `ValueError` where the two are not paired.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"mcnemar: shapes {first.shape} and {second.shape} differ, expected one answer per image each")
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def paired(a: ArrayLike, b: ArrayLike) -> float:
    """The two-sided p-value of the paired t-test on per-image means (n,) of two encoders with several seeds each.

    Where every image differs by the same, the t-test has no spread to go by, and the p-value is that of n equal signs.
    Errors: `ValueError` where the two are not paired.
    """
    gap = _gap(a, b, "paired")
    n, mean = len(gap), float(gap.mean())
    if not np.any(gap):
        return 1.0
    spread = float(gap.std(ddof=1)) if n > 1 else 0.0
    if spread <= 1e-12:
        return min(1.0, 2 * 0.5**n)
    return min(1.0, 2 * float(stdtr(n - 1, -abs(mean) / (spread / np.sqrt(n)))))


def _gap(a: ArrayLike, b: ArrayLike, where: str) -> Floats:
    """What two encoders differ by, image by image."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{where}: shapes {first.shape} and {second.shape} differ, expected one mean per image each")
    return first - second


def holm(p: ArrayLike) -> Floats:
    """P-values (n,) corrected for being n of them (Holm, 1979), in their order: any false alarm is rare.

    The chance of at least one is at most the level. The smallest is multiplied by n, the next by n - 1 and so on; none
    is below one that was smaller, or above 1.
    """
    given = np.asarray(p, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    factors = len(given) - np.arange(len(given))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return corrected
