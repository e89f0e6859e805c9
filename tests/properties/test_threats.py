"""Radii as text, and the ball and the box over shapes, dtypes and norms."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.threat import Norm, Threat
from tests.properties.lines import answer

NORMS = st.sampled_from(["linf", "l2", "l1"])
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
RADII = st.fractions(0, 4, max_denominator=255)
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-9}


@given(
    st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(max_size=4)), NORMS
)
@example("1e999999999", "l2")
@example("1.0e400", "linf")
@example("8/0", "linf")
@example("9" * 5000, "l1")
def test_anything_as_a_radius_is_exact_or_refused_in_one_line(eps: Any, norm: Norm) -> None:
    threat = answer(lambda: Threat(eps, norm=norm))
    if threat is not None:
        assert threat.eps >= 0
        assert not isinstance(eps, float)
        assert Threat(str(Fraction(threat.eps)), norm=norm).eps == threat.eps
        str(threat)


@given(st.fractions(0, 10**6), NORMS)
def test_a_fraction_is_kept_exactly(eps: Fraction, norm: Norm) -> None:
    assert Threat(f"{eps.numerator}/{eps.denominator}", norm=norm).eps == eps


@example("l1", Fraction(1, 9), (1, 1, 1, 2), torch.float32, 0, 1e4)  # a change of 10,000 cancels in float32
@given(NORMS, RADII, SHAPES, st.sampled_from(list(DTYPES)), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 1e4]))
def test_what_is_projected_lies_in_ball_and_box(
    norm: Norm, eps: Fraction, shape: tuple[int, ...], dtype: torch.dtype, seed: int, reach: float
) -> None:
    threat, (point, origin) = Threat(eps, norm=norm), _points(shape, dtype, seed, reach)
    found = threat.project(point, origin)
    assert found.shape == origin.shape
    assert found.dtype == dtype
    assert bool(((found >= 0) & (found <= 1)).all())
    slack = DTYPES[dtype] * max(1.0, float(eps)) * origin[0].numel() + 1e-4 * float(eps)
    assert bool((threat.distance(found, origin) <= float(eps) + slack).all())
    torch.testing.assert_close(threat.project(found, origin), found, rtol=0, atol=slack)


@given(NORMS, RADII, SHAPES, st.integers(0, 2**31))
def test_what_lies_in_ball_and_box_stays_where_it_is(
    norm: Norm, eps: Fraction, shape: tuple[int, ...], seed: int
) -> None:
    _, origin = _points(shape, torch.float64, seed, 1.0)
    threat = Threat(eps, norm=norm)
    inside = threat.project(origin + 1e-3 * float(eps) * torch.rand_like(origin) / origin[0].numel(), origin)
    torch.testing.assert_close(threat.project(inside, origin), inside, rtol=0, atol=1e-12)


@given(NORMS, SHAPES, st.integers(0, 2**31))
def test_a_distance_is_none_from_itself_and_grows_with_the_change(
    norm: Norm, shape: tuple[int, ...], seed: int
) -> None:
    threat, (point, origin) = Threat(1, norm=norm), _points(shape, torch.float64, seed, 1.0)
    assert bool((threat.distance(origin, origin) == 0).all())
    near, far = threat.distance(point, origin), threat.distance(origin + 2 * (point - origin), origin)
    torch.testing.assert_close(far, 2 * near)
    assert near.shape == (shape[0],)


@pytest.mark.parametrize("eps", [0.1, True, None, [], b"8/255", "nan", "inf", "-1/255", "8\n/255", "\x1b[31m"])
def test_what_is_no_exact_radius_is_refused(eps: Any) -> None:
    with pytest.raises(UserError, match="eps") as error:
        Threat(eps)
    assert str(error.value).isprintable()


def _points(shape: tuple[int, ...], dtype: torch.dtype, seed: int, reach: float) -> tuple[Tensor, Tensor]:
    """A point, and an origin in the box."""
    g = torch.Generator().manual_seed(seed)
    origin = torch.rand(shape, generator=g, dtype=dtype)
    return origin + reach * torch.randn(shape, generator=g, dtype=dtype), origin
