"""The only owner of the tests of intervals and paired tests."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm, ttest_rel

from robustcl.reports.statistics import detectable, holm, mcnemar, paired, wilson

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
