"""Tests of projected gradient ascent against closed forms on linear models, and of what it leaves as it was."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.errors import UserError
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read
from robustcl.pretraining.ascent import Ascent

LINF = Threat("8/255")


def draws() -> BatchDraws:
    return BatchDraws(generator(0, "ascent"))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Dropout(0.0), nn.Flatten(), nn.Linear(144, 3)
        )


@pytest.mark.parametrize("init", ["random", "clipped", "clean", "gaussian"])
def test_on_a_linear_model_it_is_the_corner_of_ball_and_box(
    init: Literal["random", "clipped", "clean", "gaussian"],
) -> None:
    x, w = random(6, 1, 8, 8), torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = Ascent(steps=20, init=init)(lambda p: (p * w).flatten(1).sum(1), x, LINF, nn.Identity(), draws())
    assert torch.allclose(found, (x + 8 / 255 * w.sign()).clamp(0, 1), rtol=0, atol=1e-6)
    assert not found.requires_grad


def test_in_l2_it_goes_along_the_gradient() -> None:
    x, w = 0.4 + random(6, 1, 8, 8) / 5, torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    threat = Threat("0.5", norm="l2")
    found = Ascent(steps=5, init="clean")(lambda p: (p * w).sum(), x, threat, nn.Identity(), draws())
    assert torch.allclose(found, x + 0.5 * w / w.norm(), rtol=0, atol=1e-5)


def test_in_l1_it_moves_the_steepest_pixel() -> None:
    x, w = torch.full((2, 1, 2, 2), 0.5), torch.tensor([[[0.1, -3.0], [1.0, 2.0]]])
    found = Ascent(steps=4, init="clean")(lambda p: (p * w).sum(), x, Threat("1/4", norm="l1"), nn.Identity(), draws())
    assert torch.allclose(found - x, torch.tensor([[[0.0, -0.25], [0.0, 0.0]]]).expand_as(x), atol=1e-6)


def test_the_scale_of_the_objective_is_free() -> None:
    x, net, y = random(6, 1, 8, 8), network().eval(), torch.arange(6) % 3
    first, second = (
        Ascent()(lambda p, scale=scale: scale * F.cross_entropy(net(p), y), x, LINF, net, draws())  # type: ignore[misc]
        for scale in (1.0, 64.0)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_loss_rises_within_ball_and_box(norm: Literal["linf", "l2", "l1"]) -> None:
    x, net, y = random(6, 1, 8, 8), network().eval(), torch.arange(6) % 3
    threat = Threat({"linf": "8/255", "l2": "1/2", "l1": "2"}[norm], norm=norm)
    loss = [F.cross_entropy(net(x), y).item()]
    for steps in (1, 10):
        found = Ascent(steps=steps, init="clean")(lambda p: F.cross_entropy(net(p), y), x, threat, net, draws())
        assert found.ge(0).all()
        assert found.le(1).all()
        assert threat.distance(found, x).max() <= float(threat.eps) + 1e-6
        loss.append(F.cross_entropy(net(found), y).item())
    assert loss[0] < loss[1] < loss[2]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_flags_and_modes_are_left_alone(mode: Literal["train", "eval"], training: bool) -> None:
    net, x, y = network().train(training), random(6, 1, 8, 8), torch.arange(6) % 3
    net[0].weight.requires_grad_(False)
    net[1].eval()
    kept = torch.full_like(net[5].bias, 7.0)
    net[5].bias.grad = kept
    before = ([part.training for part in net.modules()], [p.requires_grad for p in net.parameters()])
    weights = [p.clone() for p in net.parameters()]
    statistics = net[1].running_mean.clone()
    seen: list[bool] = []

    def objective(p: Tensor) -> Tensor:
        seen.append(net[1].training)
        return F.cross_entropy(net(p), y)

    Ascent(steps=3, batch_norm=mode)(objective, x, LINF, net, draws())
    assert seen == [mode == "train"] * 3
    assert ([part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]) == before
    assert [p.grad is None for p in net.parameters()] == [True] * 5 + [False]
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert torch.equal(net[1].running_mean, statistics) == (mode == "eval")
    assert x.grad is None
    assert not x.requires_grad


def test_it_climbs_where_gradients_are_off() -> None:
    x = random(2, 1, 4, 4)
    with torch.no_grad():
        found = Ascent(steps=8, init="clean")(lambda p: p.sum(), x, LINF, nn.Identity(), draws())
    assert torch.allclose(found, (x + 8 / 255).clamp(0, 1), atol=1e-6)


def test_the_starts() -> None:
    x = random(200, 1, 8, 8)
    assert torch.equal(Ascent(init="clean").start(x, LINF, draws()), x)
    wide = Ascent(init="random").start(x, LINF, draws()) - x
    assert wide.abs().max() <= 8 / 255 + 1e-6
    assert wide.abs().mean().item() == pytest.approx(4 / 255, rel=0.02)
    assert Ascent(init="random").start(x, LINF, draws()).min() < 0  # not clipped before the first step
    narrow = Ascent(init="gaussian").start(x, LINF, draws()) - x
    assert narrow.std().item() == pytest.approx(0.001, rel=0.02)
    assert (narrow.abs() > 0.002).float().mean().item() == pytest.approx(0.0455, abs=0.006)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_clipped_start_is_the_random_one_inside_ball_and_box(norm: Literal["linf", "l2", "l1"]) -> None:
    x = random(50, 1, 8, 8).round()  # every pixel is on a side of the box
    threat = Threat({"linf": "8/255", "l2": "1/2", "l1": "2"}[norm], norm=norm)
    wide = Ascent(init="random").start(x, threat, draws())
    start = Ascent(init="clipped").start(x, threat, draws())
    assert wide.min() < 0
    assert wide.max() > 1
    assert torch.allclose(start, wide.clamp(0, 1), rtol=0, atol=1e-6)
    assert 0 <= start.min() < start.max() <= 1
    assert threat.distance(start, x).max() <= float(threat.eps) + 1e-6
    seen: list[Tensor] = []

    def objective(p: Tensor) -> Tensor:
        seen.append(p.detach())
        return p.sum()

    Ascent(steps=1, init="clipped")(objective, x, threat, nn.Identity(), draws())
    assert torch.equal(seen[0], start)


@pytest.mark.parametrize("init", ["random", "clipped", "clean", "gaussian"])
def test_a_radius_of_zero_changes_nothing(init: Literal["random", "clipped", "clean", "gaussian"]) -> None:
    x = random(4, 1, 8, 8)
    found = Ascent(init=init)(lambda p: p.sum(), x, Threat(0), nn.Identity(), draws())
    assert torch.equal(found, x)


def test_no_steps_give_the_start_inside_ball_and_box() -> None:
    x = random(4, 1, 8, 8)
    found = Ascent(steps=0)(lambda p: p.sum(), x, LINF, nn.Identity(), draws())
    assert torch.equal(found, LINF.project(LINF.random_start(x, draws()), x))


@pytest.mark.parametrize(("step", "size"), [("2/255", 2 / 255), ("eps/4", 2 / 255), ("eps/2.5", 3.2 / 255)])
def test_step_sizes_are_exact_text(step: str, size: float) -> None:
    assert Ascent(step=step).size(LINF) == pytest.approx(size, rel=1e-12)
    assert read(Ascent, plain(Ascent(step=step)), "w") == Ascent(step=step)


@pytest.mark.parametrize("step", ["", "eps", "eps/", "eps/x", "eps/0", "0", "-2/255", "two", 0.0078, "2 / 255 px"])
def test_wrong_step_sizes_are_one_line(step: Any) -> None:
    with pytest.raises(UserError, match=r"^Ascent\.step: ") as caught:
        Ascent(step=step)
    assert "\n" not in str(caught.value)
