"""Anytime-valid evidence: false alarms, coverage at all looks, and what an hour of attacks could have been spared."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcl.reports.baseline import Row
from robustcl.reports.checked import verdict
from robustcl.reports.sequence import SHARES, bounds, decide, evidence, so_far, wealth

RUNS, LEVEL, MARGIN = 400, 0.1, 0.04


def drawn(drop: float, n: int = 600, disagree: float = 0.16, runs: int = RUNS, seed: int = 0) -> NDArray[np.float64]:
    """Honest pairs: (runs, n) drops of this mean, where the two disagree on this share of the images."""
    u = np.random.default_rng([seed, int(1000 * (1 + drop))]).random((runs, n))
    worse, better = (disagree + drop) / 2, (disagree - drop) / 2
    found: NDArray[np.float64] = (u < worse).astype(float) - (u >= 1 - better)
    return found


def at_most(times: int, runs: int, level: float) -> bool:
    """Whether so many false alarms are no more than a rate of `level` gives, but for once in a thousand."""
    return times <= runs * level + 3.1 * float(np.sqrt(runs * level * (1 - level)))


@pytest.mark.parametrize("drop", [MARGIN, 0.0, -0.03])
def test_a_drop_within_the_margin_is_a_regression_at_most_at_the_level(drop: float) -> None:
    found = decide(drawn(drop), MARGIN, LEVEL)  # looked at after every single image
    assert at_most(int(found.regression.sum()), RUNS, LEVEL)
    if drop < MARGIN:
        assert found.regression.sum() < RUNS * LEVEL / 10


@pytest.mark.parametrize("drop", [MARGIN + 1e-6, 0.08])
def test_a_drop_beyond_the_margin_is_ok_at_most_at_the_level(drop: float) -> None:
    assert at_most(int(decide(drawn(drop), MARGIN, LEVEL).ok.sum()), RUNS, LEVEL)


def test_a_peeked_p_value_would_fail_here() -> None:
    # What the simulation must be able to see: a bound for a fixed n is wrong far too often where it is looked at often.
    held = drawn(MARGIN)
    n = np.arange(1, held.shape[1] + 1)
    mean = held.cumsum(axis=1) / n
    spread = np.sqrt(np.maximum((held**2).cumsum(axis=1) / n - mean**2, 1e-12) / n)
    peeked = ((mean - 1.28 * spread)[:, 30:] > MARGIN).any(axis=1)
    assert not at_most(int(peeked.sum()), RUNS, LEVEL)


@pytest.mark.parametrize("drop", [0.0, MARGIN, 0.12])
def test_bounds_cover_the_truth_at_all_looks_at_once(drop: float) -> None:
    larger, smaller = evidence(drawn(drop, seed=1), drop)
    for wrong in (larger, smaller):  # a bound has passed the truth where the bet against the truth has won
        assert at_most(int((wrong >= -np.log(LEVEL)).any(axis=1).sum()), RUNS, LEVEL)


def test_bounds_are_where_the_bets_win() -> None:
    held = drawn(0.05, runs=1)[0]
    low, high = bounds(held, LEVEL)
    assert -1 < low < held.mean() < high < 1
    for mean, side in ((low, 0), (high, 1)):
        assert evidence(held, mean)[side][-1] == pytest.approx(-np.log(LEVEL), abs=1e-4)
    wider = bounds(held, LEVEL / 10)
    assert wider[0] < low < high < wider[1]
    assert bounds([], LEVEL) == (-1.0, 1.0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_equal_drops_have_bounds_that_close_in(value: float) -> None:
    low, high = bounds(np.full(400, value), 0.05)
    assert low <= value <= high
    assert high - low < 0.05
    few = bounds(np.full(4, value), 0.05)
    assert few[0] <= low
    assert high <= few[1]


def test_wealth_of_one_bet_after_another_by_hand() -> None:
    values, mean = [2.0, 1.0, 0.0], 1.25
    by_hand = [np.prod([[1 - f + f * x / mean for x in values[:t]] for f in SHARES], axis=1).mean() for t in (1, 2, 3)]
    np.testing.assert_allclose(np.exp(wealth(values, mean)), by_hand)


def test_the_same_answers_are_ok_after_a_fraction_and_never_without_a_margin() -> None:
    found = decide(np.zeros(1000), 0.02, 0.05, every=32)
    assert found.ok
    assert found.images < 300
    assert not decide(np.zeros(1000), 0.0, 0.05).ok


def test_larger_drops_need_fewer_images() -> None:
    took = [decide(drawn(drop, n=1000, runs=50), MARGIN, 0.05, every=20).images.mean() for drop in (0.08, 0.12, 0.16)]
    assert took[0] > took[1] > took[2]
    assert took[2] < 250


def test_looks_are_whole_blocks_and_all_images_at_last() -> None:
    found = decide(drawn(MARGIN, n=90, runs=20), MARGIN, LEVEL, every=40)
    assert set(found.images) <= {40, 80, 90}
    assert 90 in found.images


@pytest.mark.parametrize("drop", [0.0, MARGIN, 0.12])
def test_many_sequences_come_to_what_a_check_comes_to_row_by_row(drop: float) -> None:
    held = drawn(drop, n=150, runs=12, seed=2).astype(int)
    found = decide(held, MARGIN, LEVEL, every=50, rows=3)
    told = {"encoder": "e", "scheme": "s", "data": "d", "norm": "linf", "eps": "1/10", "judge": "pgd-20"}
    for number, drops in enumerate(held):
        right, order = np.random.default_rng(number).random(150) < 0.5, np.arange(150, dtype=np.int32)
        right = np.where(drops > 0, True, np.where(drops < 0, False, right))
        label = np.zeros(150, dtype=np.int16)
        before = Row(**told, image=order, label=label, right=right)  # type: ignore[arg-type]
        now = replace(before, right=np.where(drops > 0, False, np.where(drops < 0, True, right)))
        for n in (50, 100, 150):
            part = replace(now, image=order[:n], label=label[:n], right=now.right[:n])
            row = so_far("e", before, part, margin=MARGIN, level=LEVEL, rows=3)
            assert row.before.n == row.now.n == n
            assert row.drop == pytest.approx(drops[:n].mean())
            if row.outcome != "undecided":
                break
            assert (verdict(row) == "CANNOT TELL: open when the check ended") == (n < 150), "no look is its last"
        assert row.outcome == ("regression" if found.regression[number] else "ok" if found.ok[number] else "undecided")
        assert n == found.images[number]


def test_a_third_of_the_rows_share_the_level() -> None:
    held = drawn(MARGIN)
    assert at_most(int(decide(held, MARGIN, LEVEL, rows=3).regression.sum()), RUNS, LEVEL / 3)


@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_honest_runs_drawn_from_real_records_raise_no_alarm(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    drawn = importlib.import_module("sequential").drawn(drop, 500, 200, seed=1)
    assert abs(drawn.mean() - drop) < 0.004, "its populations have the drop that they say"
    found = decide(drawn, 0.03, 0.05, every=32, rows=3)
    if drop:
        assert found.ok.sum() <= 200 * 0.05
    else:
        assert found.regression.sum() <= 200 * 0.05 / 3
        assert found.ok.mean() > 0.5
