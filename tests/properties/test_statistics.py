"""Intervals and tests over all counts: within their range, around their estimate, monotone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcl.models.errors import UserError
from robustcl.reports.check import ranges
from robustcl.reports.statistics import detectable, difference, images_for, interval, wilson, wilson_of_means

COUNTS = st.integers(0, 10**6)
LEVELS = st.floats(0.5, 0.999)


@given(COUNTS, COUNTS, LEVELS)
def test_an_interval_holds_its_share_and_stays_in_range(one: int, other: int, level: float) -> None:
    right, n = min(one, other), max(one, other)
    low, high = wilson(right, n, level)
    share = right / n if n else 0.5
    assert 0 <= low <= share <= high <= 1
    wider = wilson(right, n, 0.9999)
    assert wider[0] <= low
    assert wider[1] >= high


@given(st.integers(1, 10**5), LEVELS)
def test_an_interval_grows_with_what_is_right_and_shrinks_with_images(n: int, level: float) -> None:
    right = np.unique(np.linspace(0, n, 20).round())
    low, high = wilson(right, n, level)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    double = wilson(2 * right, 2 * n, level)
    assert (double[1] - double[0] <= high - low + 1e-12).all()


@given(st.lists(st.booleans(), max_size=60) | st.lists(st.floats(0, 1), max_size=60), st.integers(1, 9))
def test_the_interval_of_answers_is_in_range(answers: list[float], seeds: int) -> None:
    low, high = interval(np.array(answers, dtype=bool if all(isinstance(one, bool) for one in answers) else float))
    assert 0 <= low <= high <= 1
    if answers:
        mean = float(np.mean(answers))
        assert low - 1e-9 <= mean <= high + 1e-9
        low, high = wilson_of_means([round(seeds * one) / seeds for one in answers], seeds)
        assert 0 <= low <= high <= 1


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 2000), st.floats(0.8, 0.999))
def test_the_bounds_of_a_difference_hold_it_and_turn_with_the_sides(b: int, c: int, rest: int, level: float) -> None:
    n = b + c + rest
    low, high = difference(b, c, n, level)
    assert -1 <= low <= high <= 1
    if n:
        assert low - 1e-9 <= (b - c) / n <= high + 1e-9
    other = difference(c, b, n, level)
    assert low == pytest.approx(-other[1])
    assert high == pytest.approx(-other[0])


@given(st.integers(1, 10**6), st.floats(0.01, 1))
def test_more_images_tell_smaller_differences(n: int, disagree: float) -> None:
    found, more = detectable(n, disagree), detectable(4 * n, disagree)
    assert 0 <= more <= found <= 1
    if found < min(1, disagree):
        assert images_for(found, disagree) == pytest.approx(n, rel=1e-3)


@given(st.floats(), st.floats())
def test_margins_and_levels_are_shares_or_refused(margin: float, level: float) -> None:
    fine = 0 <= margin < 1 and 0 < level < 0.5
    if fine:
        ranges(margin, level)
    else:
        with pytest.raises(UserError, match="expected"):
            ranges(margin, level)
