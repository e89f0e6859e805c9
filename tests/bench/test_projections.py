"""The nearest points of hyperplanes in the box: against the released code in float64, and what makes them nearest."""

from typing import Any

import pytest
import torch
from pyautoattack import fab_projections
from torch import Tensor

from robustcl.bench.autoattack.projections import changes, lengths, slopes

NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


def case(kind: str, n: int = 40, size: int = 97) -> tuple[Tensor, Tensor, Tensor]:
    """Points (n, 2, d), weights (n, d), gaps (n, 2) of either sign, up to half of what the box allows."""
    g = torch.Generator().manual_seed(3)
    size = {"one": 1, "two": 2}.get(kind, size)
    points, weights = torch.rand(n, 2, size, generator=g), torch.randn(n, size, generator=g)
    share = 0.5 * torch.rand(n, 2, generator=g) ** 2
    if kind == "zeros":
        weights *= torch.rand(n, size, generator=g) < 0.4
        weights[:4] = 0
    if kind == "edge":
        points = points.round()
    if kind == "background":
        points *= torch.rand(n, 2, size, generator=g) < 0.2
    if kind == "heavy":
        weights *= torch.exp(2 * torch.randn(n, size, generator=g))
    if kind == "small":
        weights *= 1e-4
    if kind == "beyond":
        share = share + 1.1
    if kind == "on":
        share = 0 * share
    side = torch.where(torch.rand(n, 2, generator=g) < 0.5, -1.0, 1.0)
    return points, weights, (side * share * most(points, weights, side)).float()


def room(points: Tensor, weights: Tensor, side: Tensor) -> Tensor:
    """(n, k, d) how far each coordinate can go, in float64."""
    way = weights.sign()[:, None] * side.sign()[..., None]
    return torch.where(way > 0, points, 1 - points).double() * way.abs()


def most(points: Tensor, weights: Tensor, side: Tensor) -> Tensor:
    """(n, k) the largest gap that the box allows, in float64."""
    return (weights.abs().double()[:, None] * room(points, weights, side)).sum(-1)


def released(norm: str, points: Tensor, weights: Tensor, gaps: Tensor) -> Tensor:
    """What the package answers in float64."""
    points, weights = points.double(), weights.double()
    offsets = (weights[:, None] * points).sum(-1) - gaps.double()
    project = getattr(fab_projections, f"projection_{norm}")
    found: Tensor = project(points.flatten(0, 1), weights.repeat_interleave(2, 0), offsets.flatten())
    return found.view_as(points)


KINDS = ("plain", "zeros", "edge", "background", "heavy", "small", "beyond", "on", "one", "two")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_ways_are_those_of_the_released_code(norm: Any, kind: str) -> None:
    points, weights, gaps = case(kind)
    ways, far = changes(norm, points, weights, gaps)
    assert ways.dtype == far.dtype == torch.float32
    torch.testing.assert_close(ways.double(), released(norm, points, weights, gaps), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        far.double(), torch.linalg.vector_norm(ways.double(), ORDERS[norm], dim=-1), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("kind", [*KINDS, "ties"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_ways_are_the_shortest(norm: Any, kind: str) -> None:
    points, weights, gaps = case(kind)
    if kind == "ties":
        weights = weights.sign() * (weights.abs() < 1)
        gaps = (gaps.sign() * 0.3 * most(points, weights, gaps)).float()
    ways, _ = changes(norm, points, weights, gaps)
    ends, wide = points + ways, weights.abs()[:, None].expand_as(ways)
    assert ends.min() >= -1e-6
    assert ends.max() <= 1 + 1e-6
    assert not ways[weights[:, None].expand_as(ways) == 0].any(), "what has no weight moves"
    assert (ways * weights[:, None] * gaps.sign()[..., None]).max() <= 0, "all go towards the plane"
    moved, limit = ways.abs().double(), room(points, weights, gaps)
    full = moved >= limit - 1e-6
    if kind == "beyond":
        assert full.all(), "in the corner"
        return
    crossed = (weights.double()[:, None] * ways.double()).sum(-1)
    torch.testing.assert_close(crossed, -gaps.double(), atol=1e-6, rtol=3e-6)
    if norm == "l1":  # the largest weights are used up first
        least = torch.where(moved > 1e-6, wide, torch.inf).amin(-1)
        assert (least >= torch.where(full, 0, wide).amax(-1)).all()
        return
    level = moved / (1 if norm == "linf" else wide.double().clamp_min(1e-30))
    open_ = torch.where(full, 0, level).amax(-1)  # those that could go on all stand at one level, the others below it
    assert (level <= open_[..., None] * (1 + 1e-5) + 1e-5).logical_or(~((~full).any(-1, keepdim=True))).all()
    assert (torch.where(full, open_[..., None], level) >= open_[..., None] * (1 - 1e-4) - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_more_coordinates_than_are_put_in_order_first(norm: Any) -> None:
    points, weights, _ = case("plain", n=3, size=3000)
    side = torch.tensor([[1.0, -1.0]] * 3)
    gaps = (side * torch.tensor([[0.9, 0.02], [1.5, 0.3], [1e-5, 0.6]]) * most(points, weights, side)).float()
    ways, _ = changes(norm, points, weights, gaps)
    torch.testing.assert_close(ways.double(), released(norm, points, weights, gaps), atol=2e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_way_along_the_steepest_slope(norm: Any) -> None:
    points, weights, _ = case("plain")
    middle, gaps = 0 * points + 0.5, torch.full((40, 2), 1e-3)
    _, far = changes(norm, middle, weights, gaps)
    torch.testing.assert_close(far[:, 0], 1e-3 / slopes(norm, weights), atol=0, rtol=2e-5)
    torch.testing.assert_close(lengths(norm, weights), torch.linalg.vector_norm(weights, ORDERS[norm], dim=-1))
