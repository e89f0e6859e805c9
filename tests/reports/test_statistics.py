"""The only owner of the tests of intervals and paired tests."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm, ttest_rel

from benchmarks.bounds import BOUNDS, LEVELS, worst
from robustcl.reports.statistics import bootstrap, detectable, difference, holm, images_for, mcnemar, paired, wilson

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # R. G. Newcombe, 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_published_values(right: int, n: int, low: float, high: float) -> None:
    assert np.allclose(wilson(right, n), (low, high), atol=5e-5)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(level: float) -> None:
    n = RNG.integers(1, 2000, size=60)
    right = RNG.integers(0, n + 1)
    low, high = wilson(right, n, level)
    for at in range(60):
        oracle = binomtest(int(right[at]), int(n[at])).proportion_ci(level, method="wilson")
        assert low[at] == pytest.approx(oracle.low, abs=1e-12)
        assert high[at] == pytest.approx(oracle.high, abs=1e-12)


def test_wilson_ends_are_exact_and_hold_the_share() -> None:
    n = np.arange(1, 400)
    assert not wilson(0 * n, n)[0].any()
    assert (wilson(n, n)[1] == 1).all()
    low, high = wilson(n // 3, n)
    assert ((low <= (n // 3) / n) & ((n // 3) / n <= high)).all()


def test_wilson_without_images_knows_nothing() -> None:
    low, high = wilson(0, 0)
    assert (float(low), float(high)) == (0.0, 1.0)


def test_mcnemar_by_hand() -> None:
    # 5 images on which the two differ, all for the first: two tails of 1/32.
    a = [True] * 5 + [True, False]
    b = [False] * 5 + [True, False]
    assert mcnemar(a, b) == pytest.approx(2 / 32)
    assert mcnemar(b, a) == mcnemar(a, b)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_mcnemar_agrees_with_the_binomial_test(share: float) -> None:
    a, b = RNG.random(300) < 0.7, RNG.random(300) < share
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    assert mcnemar(a, b) == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_mcnemar_of_equal_answers_is_one() -> None:
    assert mcnemar([True, False], [True, False]) == 1.0
    assert mcnemar([True, False], [False, True]) == 1.0


def test_mcnemar_refuses_answers_that_are_not_paired() -> None:
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\) differ"):
        mcnemar([True, False, True], [True, False])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_raises_no_false_alarm_above_its_level() -> None:
    g = np.random.default_rng(1)
    alarms = [(holm(g.random(20)) <= 0.05).any() for _ in range(2000)]
    assert np.mean(alarms) < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize("disagree", [0.5, 0.2, 0.1])
@pytest.mark.parametrize("n", [100, 300, 1000, 10_000])
def test_detectable_inverts_the_sample_size_of_mcnemar(n: int, disagree: float) -> None:
    gap = detectable(n, disagree)
    a, b = norm.ppf(0.975), norm.ppf(0.8)
    assert (a * disagree**0.5 + b * (disagree - gap**2) ** 0.5) ** 2 / gap**2 == pytest.approx(n)


@pytest.mark.parametrize(("n", "disagree"), [(100, 0.5), (360, 0.1), (10_000, 0.2)])
@pytest.mark.parametrize(("level", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_images_for_is_the_inverse_of_detectable(n: int, disagree: float, level: float, power: float) -> None:
    gap = detectable(n, disagree, level, power)
    assert gap < disagree
    assert images_for(gap, disagree, level, power) == pytest.approx(n)
    assert images_for(2 * gap, disagree, level, power) < n
    assert images_for(0.0, disagree) == float("inf")


def test_the_bounds_of_a_difference_without_a_flip_are_those_of_nothing_in_n() -> None:
    low, high = difference(0, 0, np.array([100, 299, 360]), 0.95)
    exact = np.array([1 - 0.05 ** (1 / n) for n in (100, 299, 360)])
    assert high == pytest.approx(exact)
    assert low == pytest.approx(-exact)
    assert exact[1] <= 0.01 < exact[0]
    low, high = difference(0, 0, 0)
    assert (float(low), float(high)) == (-1.0, 1.0)


def test_the_bounds_of_a_difference_by_hand() -> None:
    # One side alone: the exact limits of 7 of 50, against the upper limit of 0 of 50 on the other.
    low, high = difference(7, 0, 50, 0.95)
    exact = [float(beta.ppf(at, k, 51 - k)) for at, k in ((0.05, 7), (0.95, 8))]
    none = 1 - 0.05 ** (1 / 50)
    assert float(low) == pytest.approx(0.14 - np.hypot(0.14 - exact[0], none))
    assert float(high) == pytest.approx(exact[1])
    swapped = difference(0, 7, 50, 0.95)
    assert (-float(swapped[1]), -float(swapped[0])) == pytest.approx((float(low), float(high)))
    assert [float(end) for end in difference(50, 0, 50, 0.95)][1] == 1.0


def test_the_bounds_of_a_difference_agree_with_the_normal_ones_on_many_images() -> None:
    b, c, n = 60_000, 40_000, 1_000_000
    low, high = difference(b, c, n, 0.975)
    half = norm.ppf(0.975) * ((b + c) / n - ((b - c) / n) ** 2) ** 0.5 / n**0.5
    assert (float(low), float(high)) == pytest.approx((0.02 - half, 0.02 + half), abs=5e-6)


def test_the_bounds_of_a_difference_hold_their_level_and_others_do_not() -> None:
    """By sums over all outcomes, as docs/statistics.md has them."""
    found = worst(100, BOUNDS)
    ours = next(iter(BOUNDS))
    for level in LEVELS:
        assert (1 - level) / 2 < found[ours, level] <= 1 - level
    rows = {name: told for name, n, *told in rows_of_page("| bounds ") if n == "100"}
    assert rows == {name: [f"{100 * found[name, level]:.2f}" for level in LEVELS] for name in BOUNDS}
    larger = worst(300, {ours: BOUNDS[ours]})
    assert all(missed <= 1 - level for (_, level), missed in larger.items())


def test_the_bounds_of_a_difference_hold_in_a_simulation_of_1000_images() -> None:
    g, times = np.random.default_rng(2), 20_000
    for p, q in ((0.0005, 0.0), (0.003, 0.0), (0.004, 0.001), (0.08, 0.05), (0.3, 0.2)):
        draws = g.multinomial(1000, [p, q, 1 - p - q], size=times)
        low, high = difference(draws[:, 0], draws[:, 1], 1000, 0.95)
        for missed in (low > p - q, high < p - q):
            assert missed.mean() <= 0.05 + 3 * (0.05 * 0.95 / times) ** 0.5


def test_bootstrap_agrees_with_the_bounds_where_many_images_differ() -> None:
    g = np.random.default_rng(3)
    a, b = g.random(2000) < 0.7, g.random(2000) < 0.6
    found = bootstrap(a, b)
    exact = difference(int((a & ~b).sum()), int((b & ~a).sum()), 2000, 0.975)
    assert found == pytest.approx([float(end) for end in exact], abs=0.004)
    assert bootstrap(a, b) == found
    assert bootstrap(a, b, seed=1) != found
    assert bootstrap(b, a) == pytest.approx((-found[1], -found[0]), abs=0.003)


def test_bootstrap_of_what_never_differs() -> None:
    assert bootstrap([True, False], [True, False]) == (0.0, 0.0)
    assert bootstrap([0.5] * 4, [0.25] * 4) == (0.25, 0.25)
    with pytest.raises(ValueError, match=r"bootstrap: shapes \(2,\) and \(3,\) differ"):
        bootstrap([1, 0], [1, 0, 1])


def test_bootstrap_covers_as_often_as_it_says() -> None:
    g, hits, times = np.random.default_rng(4), 0, 200
    for seed in range(times):
        u = g.random(300)
        low, high = bootstrap(u >= 0.05, (u < 0.05) | (u >= 0.2), times=400, seed=seed)
        hits += low <= 0.10 <= high
    assert 0.90 <= hits / times <= 0.99


def rows_of_page(title: str) -> list[list[str]]:
    """The rows of the table of docs/statistics.md whose head begins so."""
    lines = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(title)) + 2
    end = next(end for end in range(at, len(lines)) if not lines[end].startswith("|"))
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines[at:end]]


def test_the_detectable_differences_of_the_page() -> None:
    rows = rows_of_page("| images | unpaired, at 50 % |")
    assert len(rows) == 6
    for n, *told in rows:
        assert told == [f"{100 * detectable(int(n), disagree):.1f}" for disagree in (0.5, 0.2, 0.1, 0.05, 0.02)]


def test_the_margins_of_the_page() -> None:
    rows = rows_of_page("| images | none flips |")
    assert len(rows) == 6
    for n, *told in rows:
        flips = [int(n) * share / 2 for share in (0, 0.02, 0.05, 0.1, 0.2)]
        assert told == [f"{100 * float(difference(half, half, int(n))[1]):.2f}" for half in flips]


def test_detectable_differences_are_detected_as_often_as_said() -> None:
    n, disagree, times = 1000, 0.2, 600
    gap = detectable(n, disagree)
    g, hits = np.random.default_rng(1), 0
    for _ in range(times):
        draw = g.random(n)
        a, b = draw < (disagree + gap) / 2, (draw >= (disagree + gap) / 2) & (draw < disagree)
        hits += mcnemar(a, b) <= 0.05
    assert 0.73 <= hits / times <= 0.86


def test_a_difference_that_tables_cannot_show_is_capped() -> None:
    assert detectable(1) <= 1.0
    assert detectable(10_000) == pytest.approx(0.0198, abs=2e-4)


def test_paired_agrees_with_scipy() -> None:
    for _ in range(20):
        a, b = RNG.integers(0, 4, 60) / 3, RNG.integers(0, 4, 60) / 3
        assert paired(a, b) == pytest.approx(ttest_rel(a, b).pvalue)


def test_paired_without_spread() -> None:
    same = np.full(12, 1 / 3)
    assert paired(same, same) == 1.0
    assert paired(same + 1 / 3, same) == pytest.approx(2 * 0.5**12)
    with pytest.raises(ValueError, match=r"shapes \(12,\) and \(3,\) differ"):
        paired(same, same[:3])
