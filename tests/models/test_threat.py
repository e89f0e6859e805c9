"""Tests of the threat: exact radii, and projection, random start and steepest direction in three norms."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import plain, read

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
RADII = ("0", "1/1000000", "8/255", "1", "7/2", "30")


def draws(*purpose: str | int) -> BatchDraws:
    return BatchDraws(generator(0, *purpose))


def images(n: int = 16, seed: int = 0, kind: str = "uniform") -> Tensor:
    x = torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    return x.round() if kind == "corner" else x


@pytest.mark.parametrize(
    ("given", "eps"), [("8/255", Fraction(8, 255)), (0, Fraction(0)), (Fraction(1, 3), Fraction(1, 3)), ("2", 2)]
)
def test_exact_radii(given: Any, eps: Fraction) -> None:
    assert Threat(given).eps == eps
    assert Threat(given) == Threat(given, norm="linf")


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_decimals_are_exact_for_l2_and_l1(norm: Norm) -> None:
    assert Threat("0.5", norm=norm).eps == Fraction(1, 2)


@pytest.mark.parametrize(
    ("given", "norm", "message"),
    [
        ("0.0314", "linf", r"did you mean '8/255'\? \(for exactly 0\.0314 write '157/5000'\)"),
        ("0.5", "linf", r"is a decimal, expected an exact fraction for linf .*; did you mean '1/2'\?$"),
        (8 / 255, "linf", r"is not exact, expected a fraction in quotes such as '8/255'; did you mean '8/255'\?"),
        (0.5, "l2", r"is not exact, .*did you mean '1/2'\?"),
        ("-8/255", "linf", "'-8/255' is negative, expected a radius of at least 0"),
        (-1, "l2", "'-1' is negative"),
        ("8/255", "l3", "'l3' is wrong, expected 'linf', 'l2' or 'l1'"),
        ("nan", "l2", "is not a number"),
        ("inf", "l2", "is not a number"),
    ],
)
def test_wrong_radii_are_one_line(given: Any, norm: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Threat(given, norm=norm)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message) as read_in:
        read(Threat, {"norm": norm, "eps": given}, "suite.threat")
    assert str(read_in.value).startswith("suite.threat")


@pytest.mark.parametrize("threat", [Threat("8/255"), Threat("0.5", norm="l2"), Threat(12, norm="l1")])
def test_a_threat_round_trips_through_its_table(threat: Threat) -> None:
    assert read(Threat, plain(threat), "w") == threat
    assert str(threat.eps) in str(threat)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", RADII)
@pytest.mark.parametrize("size", [1e-8, 0.05, 3.0, 1e4])
@pytest.mark.parametrize("kind", ["uniform", "corner"])
def test_projection_is_inside_ball_and_box_and_idempotent(norm: Norm, eps: str, size: float, kind: str) -> None:
    threat, origin = Threat(eps, norm=norm), images(kind=kind)
    point = origin + size * torch.randn(origin.shape, generator=torch.Generator().manual_seed(1))
    found = threat.project(point, origin)
    assert found.ge(0).all()
    assert found.le(1).all()
    assert threat.distance(found, origin).max() <= float(threat.eps) * (1 + 1e-6) + 1e-6
    assert torch.allclose(threat.project(found, origin), found, rtol=0, atol=1e-6)
    if eps == "0":
        assert torch.equal(found, origin)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_leaves_what_is_inside(norm: Norm) -> None:
    threat, origin = Threat("1/2", norm=norm), 0.25 + images() / 2
    point = origin + 0.4 * torch.nn.functional.one_hot(torch.arange(16) % 32, 32).view(origin.shape) / 2
    assert torch.allclose(threat.project(point, origin), point, rtol=0, atol=1e-7)


def bisected(change: Tensor, eps: float) -> Tensor:
    """The l1 projection of one vector: the shrinkage at which its size is eps, by bisection."""
    low, high = 0.0, float(change.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        inside = (change.abs() - middle).clamp_min(0).sum() <= eps
        low, high = (low, middle) if inside else (middle, high)
    return change.sign() * (change.abs() - high).clamp_min(0)


@pytest.mark.parametrize("eps", ["1/100", "1/2", "2"])
def test_l1_projection_equals_bisection(eps: str) -> None:
    origin = torch.full((20, 30), 0.5, dtype=torch.float64)
    change = 0.1 * torch.randn(origin.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    change[:5] = change[:5].sign() * 0.1  # ties
    change = change.clamp(-0.5, 0.5)  # the box does not bind
    found = Threat(eps, norm="l1").project(origin + change, origin) - origin
    outside = change.abs().sum(1) > float(Fraction(eps))
    assert outside.any()
    for row, moved in zip(found[outside], change[outside], strict=True):
        assert torch.allclose(row, bisected(moved, float(Fraction(eps))), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", ["0", "8/255", "2"])
def test_random_start_is_inside_the_ball(norm: Norm, eps: str) -> None:
    threat, origin = Threat(eps, norm=norm), images(200)
    start = threat.random_start(origin, draws(norm, eps))
    distance = threat.distance(start, origin)
    assert distance.max() <= float(threat.eps) + 1e-6 * (1 + float(threat.eps))
    assert distance.unique().numel() > 1 or eps == "0"


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_is_uniform_in_the_ball(norm: Norm) -> None:
    # In d dimensions the share of a uniform point's radius, to the power of d, is uniform on [0, 1].
    threat, origin = Threat("1/4", norm=norm), torch.full((4000, 5), 0.5)
    change = threat.random_start(origin, draws("uniform", norm)) - origin
    level = (threat.distance(change, torch.zeros_like(change)) / 0.25) ** 5
    assert level.mean().item() == pytest.approx(0.5, abs=0.02)
    assert level.square().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert change.mean(0).abs().max() < 0.01
    assert change.abs().mean(0).std() < 0.005  # no coordinate is favoured


def test_the_l1_direction_is_uniform_on_the_sphere() -> None:
    # On the l1 sphere the absolute coordinates are uniform on the simplex: each is Beta(1, d - 1).
    origin = torch.zeros(4000, 5)
    change = Threat(1, norm="l1").random_start(origin, draws("simplex")).abs()
    share = change / change.sum(1, keepdim=True)
    assert share.mean(0).tolist() == pytest.approx([0.2] * 5, abs=0.01)
    assert share.square().mean(0).tolist() == pytest.approx([2 / 30] * 5, abs=0.006)


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_maximises_the_inner_product_on_the_unit_ball(norm: Norm) -> None:
    threat = Threat(1, norm=norm)
    gradient = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    direction = threat.steepest(gradient)
    assert threat.distance(direction, torch.zeros_like(direction)).tolist() == pytest.approx([1.0] * 8, rel=1e-5)
    reached = (direction * gradient).flatten(1).sum(1)
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    assert torch.allclose(reached, torch.linalg.vector_norm(gradient.flatten(1), dual, dim=1), rtol=1e-5)
    for seed in range(20):
        other = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed))
        size = threat.distance(other, torch.zeros_like(other)).view(-1, 1, 1, 1)
        assert ((other / size * gradient).flatten(1).sum(1) <= reached + 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_zero_moves_nothing(norm: Norm) -> None:
    assert torch.equal(Threat(1, norm=norm).steepest(torch.zeros(2, 1, 2, 2)), torch.zeros(2, 1, 2, 2))
