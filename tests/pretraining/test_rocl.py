"""Tests of RoCL against a slow transcription of one step of the released code."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Method, Net, Targets, build_net
from robustcl.pretraining.methods.rocl import RoCL
from robustcl.pretraining.views import recipe

N, T, LR = 6, 0.5, 0.05


def batch(eps: str = "8/255", epoch: int = 0, epochs: int = 1, pseudo: Mapping[int, Tensor] | None = None) -> Batch:
    """Six random images of 8x8 pixels."""
    return Batch(
        images=torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(N) % 3,
        threat=Threat(eps),
        seed=4,
        epoch=epoch,
        epochs=epochs,
        iteration=0,
        pseudo=pseudo or {},
    )


def double(
    method: Method, given: Mapping[str, Encoder] | None = None, pseudo: Mapping[int, Tensor] | None = None
) -> Net:
    """The net of a method in double precision, set for training as the loop does."""
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes, seed=1)
    net = build_net(method, encoder, Targets(classes=3, pseudo=pseudo or {}), 1, given).double().train()
    net.beside.requires_grad_(False)
    return net


def doubled(method: Method, at: Batch) -> dict[str, Tensor]:
    return {name: view.double() for name, view in method.views(at).items()}


def sgd(net: Net, loss: Tensor) -> None:
    """A step of SGD from a fresh momentum."""
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], LR, 0.9, weight_decay=1e-4)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def climbed(x: Tensor, slope: Tensor, origin: Tensor, eps: float, size: float) -> Tensor:
    """One sign step, into the ball and the box."""
    x = x.detach() + size * slope.sign()
    return torch.min(torch.max(x, origin - eps), origin + eps).clamp(0, 1)


def ntx(one: Tensor, other: Tensor, detach: bool = False) -> Tensor:
    """NT-Xent of two views with a loop over the rows; rows lie as [one; other]."""
    rows = torch.cat([one, other])
    z = rows / rows.norm(dim=1, keepdim=True)
    total = torch.zeros((), dtype=z.dtype)
    for i in range(len(z)):
        near = ((z.detach() if detach else z) @ z[i] / T).exp()
        below = near.sum() - near[i]
        total = total - (near[(i + len(one)) % len(z)] / below).log()
    return total / len(z)


def ntx3(views: list[Tensor], detach: bool) -> Tensor:
    """The six ordered directions between three blocks, as one matrix over 3 n; the denominator is everything else."""
    n, rows = len(views[0]), torch.cat(views)
    z = rows / rows.norm(dim=1, keepdim=True)
    near = (z @ (z.detach() if detach else z).T / T).exp()
    share = near / (near.sum(1, keepdim=True) - near.diag()[:, None])
    log = [[-share[u * n : (u + 1) * n, v * n : (v + 1) * n].diag().log() for v in range(3)] for u in range(3)]
    blocks = [log[u][v].sum() for u in range(3) for v in range(3) if u != v]
    return torch.stack(blocks).sum() / (3 * n)


def assert_same_parameters(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-9), name


def assert_same_statistics(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9), name


def moved(before: nn.Module, after: nn.Module) -> bool:
    """Whether any parameter is another one."""
    return any(not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True))


def rocl(**changed: Any) -> RoCL:
    return RoCL(strong=recipe("digits"), **changed)


def official_step(net: Net, views: dict[str, Tensor], start: Tensor, detach: bool) -> dict[str, Tensor]:
    """The attack forwards both views each time, in eval mode; its second term comes before the one of three views."""
    x, origin, target = start.clamp(0, 1), views["x1"], views["x2"]
    net.eval()
    for _ in range(7):
        x.requires_grad_()
        one, other = net(torch.cat([x, target]), "projector").chunk(2)
        (slope,) = torch.autograd.grad(ntx(one, other, detach), x)
        x = climbed(x, slope, origin, 157 / 5000, 7 / 1000)
    net.train()
    one, other = net(torch.cat([x, target]), "projector").chunk(2)
    adversarial = ntx(one, other, detach) / 256
    three = net(torch.cat([origin, target, x]), "projector").chunk(3)
    contrast = ntx3(list(three), detach)
    sgd(net, contrast + adversarial)
    return {"contrast": contrast.detach(), "adversarial": adversarial.detach(), "x_adv": x}


def both_steps(detach: bool) -> tuple[Net, Net, dict[str, Tensor], dict[str, Tensor], Net]:
    """Our net and the transcription's after one step, the terms and images of each, and the net before."""
    method, at = rocl(detach_second_factor=detach), batch("157/5000")
    ours, views = double(method), doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    wanted = official_step(theirs, views, at.ball.random_start(views["x1"], at.draws("adversary")), detach)
    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    sgd(ours, torch.stack(list(terms.values())).sum())
    assert terms.keys() == {"contrast", "adversarial"}
    return ours, theirs, terms | {"x_adv": found["x_adv"]}, wanted, before


@pytest.mark.parametrize("detach", [True, False])
def test_a_step_equals_that_of_the_released_code(detach: bool) -> None:
    ours, theirs, found, wanted, before = both_steps(detach)
    for name in ("contrast", "adversarial"):
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-9)
    assert torch.allclose(found["x_adv"], wanted["x_adv"], rtol=0, atol=1e-7)
    assert_same_parameters(ours, theirs)
    assert moved(before, ours)


def test_the_statistics_are_those_of_two_train_mode_forwards_in_the_released_order() -> None:
    # First the perturbed and the second view, then all three: the later forward weighs more.
    ours, theirs, _, _, before = both_steps(detach=True)
    assert_same_statistics(ours, theirs)
    with pytest.raises(AssertionError):
        assert_same_statistics(ours, before)


def test_three_views_share_one_batch_of_the_batch_norms() -> None:
    method, at = rocl(), batch("157/5000")
    net, seen = double(method), []
    net.encoder.register_forward_pre_hook(lambda _, given: seen.append((len(given[0]), net.encoder.body.training)))
    found = method.adversary(net, doubled(method, at), at)
    seen.clear()
    method.loss(net, found, at)
    assert sorted(seen) == [(2 * N, True), (3 * N, True)]


def test_the_detached_factor_changes_the_gradients_alone() -> None:
    at, found = batch("157/5000"), []
    views = doubled(rocl(), at)
    views["x_adv"] = views["x1"].flip(3)
    for detach in (True, False):
        net = double(rocl())
        terms = rocl(detach_second_factor=detach).loss(net, views, at)
        slopes = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(net.parameters()))
        found.append((terms, torch.cat([slope.flatten() for slope in slopes])))
    (half, one), (whole, other) = found
    for name in ("contrast", "adversarial"):
        assert half[name].item() == pytest.approx(whole[name].item(), rel=1e-12)
    assert (2 * one - other).norm() / other.norm() > 1e-3


def test_the_attack_starts_inside_the_box_and_leaves_no_trace() -> None:
    method, at = rocl(ascent=Ascent(steps=0, step="7/1000", init="clipped")), batch("157/5000")
    net, views = double(method), doubled(method, at)
    before = copy.deepcopy(net)
    found = method.adversary(net, views, at)["x_adv"]
    wanted = at.ball.random_start(views["x1"], at.draws("adversary")).clamp(0, 1)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    rocl().adversary(net, views, at)
    assert_same_statistics(net, before)
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert rocl().ascent == Ascent(steps=7, step="7/1000", init="clipped", batch_norm="eval")


@pytest.mark.parametrize("divisor", [1.0, 256.0])
def test_the_second_term_is_divided(divisor: float) -> None:
    method, at = rocl(divisor=divisor), batch("157/5000")
    net, views = double(method), doubled(method, at)
    views = views | {"x_adv": views["x1"]}
    one, other = copy.deepcopy(net)(torch.cat([views["x_adv"], views["x2"]]), "projector").chunk(2)
    wanted = ntx(one, other).item() / divisor
    assert method.loss(net, views, at)["adversarial"].item() == pytest.approx(wanted, rel=1e-9)
