"""Tests of DynACL: its schedules against the published numbers, one step against a slow transcription, the copy."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.encoder import Encoder
from robustcl.models.routing import norms
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Net, Training
from robustcl.pretraining.methods.dynacl import DynACL, strength, weight
from robustcl.pretraining.optim import Constant, Optimiser
from robustcl.pretraining.views import recipe
from tests.pretraining.test_acl import EPS, STEP, interleaved, official_ntx
from tests.pretraining.test_rocl import (
    N,
    assert_same_parameters,
    assert_same_statistics,
    batch,
    climbed,
    double,
    doubled,
    moved,
    sgd,
)


def dynacl(**changed: Any) -> DynACL:
    return DynACL(strong=recipe("digits"), hidden=32, output=16, **changed)


def copy_of(net: Net) -> Net:
    slow = net.beside["momentum"]
    assert isinstance(slow, Net)
    return slow


def apart(method: DynACL) -> Net:
    """A net whose copy has drifted from it."""
    net, g = double(method), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in copy_of(net).parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=g).double())
    return net


def test_the_strength_of_the_augmentations_is_that_of_the_paper() -> None:
    wanted = {1: 1.0, 50: 1.0, 51: 0.95, 100: 0.95, 101: 0.9, 900: 0.15, 950: 0.1, 951: 0.05, 1000: 0.05}
    assert {epoch: strength(epoch, 1000, 50) for epoch in wanted} == pytest.approx(wanted, rel=1e-12)
    found = sorted({round(strength(epoch, 1000, 50), 9) for epoch in range(1, 1001)})
    assert found == pytest.approx([0.05 * step for step in range(1, 21)], abs=1e-9)


def test_the_official_weight_grows_an_epoch_before_the_strength_falls() -> None:
    wanted = {1: 1, 49: 1, 50: 1.0333, 99: 1.0333, 100: 1.0667, 949: 1.6, 950: 1.6333, 999: 1.6333, 1000: 1.6667}
    found = {epoch: weight(epoch, 1000, 50, 2 / 3, offset=True) for epoch in wanted}
    assert found == pytest.approx(wanted, abs=5e-5)


def test_without_the_offset_the_weight_follows_the_strength() -> None:
    for epoch in range(1, 1001):
        wanted = 1 + 2 / 3 * (1 - strength(epoch, 1000, 50))
        assert weight(epoch, 1000, 50, 2 / 3, offset=False) == pytest.approx(wanted, rel=1e-12)
    assert weight(50, 1000, 50, 2 / 3, offset=False) == 1
    assert weight(1000, 1000, 50, 2 / 3, offset=False) == pytest.approx(1.6333, abs=5e-5)


def test_the_weight_is_at_most_two() -> None:
    assert max(weight(epoch, 1000, 50, 9.0, offset) for epoch in (500, 1000) for offset in (True, False)) == 2


def test_each_epoch_has_its_views_and_its_weights() -> None:
    method = dynacl()
    early, late = (batch(epoch=epoch, epochs=1000) for epoch in (49, 999))  # epochs 50 and 1000
    assert torch.equal(method.views(early)["x1"], dynacl(annealed=False).views(late)["x1"])
    assert not torch.equal(method.views(late)["x1"], method.views(early)["x1"])
    at = batch(epoch=999, epochs=1000)
    net, views = double(method), doubled(method, at)
    views["adversarial"] = torch.cat([views["x1"], views["x2"]])
    terms = method.loss(copy.deepcopy(net), views, at)
    plain = dynacl(growth=0).loss(copy.deepcopy(net), views, at)
    assert terms["adversarial"].item() == pytest.approx((1 + 2 / 3 * 0.95) * plain["adversarial"].item(), rel=1e-9)
    assert terms["clean"].item() == pytest.approx((1 - 2 / 3 * 0.95) * plain["clean"].item(), rel=1e-9)
    assert plain["adversarial"].item() == pytest.approx(plain["clean"].item(), rel=1e-9)  # the routes begin equal


def official_pair(net: Net, x: Tensor, route: str, attacked: bool = False) -> Tensor:
    """Even rows through q, odd rows through k; k is a constant but for the slope of the images."""
    slow = copy_of(net)
    odd = slow(x[1::2], "projector", route)
    return official_ntx(interleaved(net(x[::2], "projector", route), odd if attacked else odd.detach()))


def official_step(net: Net, views: dict[str, Tensor], start: Tensor, w: float, momentum: float) -> dict[str, Tensor]:
    origin, x = interleaved(views["x1"], views["x2"]), interleaved(*start.chunk(2))
    net.eval()
    for _ in range(5):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(official_pair(net, x, "pgd", attacked=True), x)
        x = climbed(x, slope, origin, EPS, STEP)
    net.train()
    adversarial, clean = official_pair(net, x, "pgd"), official_pair(net, origin, "normal")
    slow = copy_of(net)
    with torch.no_grad():  # after the forwards and before the optimiser
        for p, k in zip([*net.encoder.parameters(), *net.heads.parameters()], slow.parameters(), strict=True):
            k.copy_(momentum * k + (1 - momentum) * p)
    sgd(net, ((2 - w) * clean + w * adversarial) / 2)
    return {"adversarial": w / 2 * adversarial.detach(), "clean": (2 - w) / 2 * clean.detach(), "x": x}


@pytest.mark.parametrize("epoch", [0, 60])
def test_a_step_equals_that_of_the_released_code(epoch: int) -> None:
    method, at = dynacl(official_offset=True), batch(epoch=epoch, epochs=100)
    ours, views = apart(method), doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    both = torch.cat([views["x1"], views["x2"]])
    w = 1 + (epoch + 1) // 50 * 50 / 100 * 2 / 3
    wanted = official_step(theirs, views, at.ball.random_start(both, at.draws("adversary")), w, 0.99)

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    loss = torch.stack(list(terms.values())).sum()
    method.before_step(ours, at)
    sgd(ours, loss)

    assert terms.keys() == {"adversarial", "clean"}
    for name, term in terms.items():
        assert term.item() == pytest.approx(wanted[name].item(), rel=1e-9)
    x = torch.cat([wanted["x"][::2], wanted["x"][1::2]])
    assert torch.allclose(found["adversarial"], x, rtol=0, atol=1e-7)
    assert_same_parameters(ours, theirs)
    assert_same_statistics(ours, theirs)
    assert moved(before.encoder, ours.encoder)
    assert moved(copy_of(before), copy_of(ours))


def test_the_attack_flows_through_the_frozen_copy_to_the_second_view() -> None:
    method, at = dynacl(), batch()
    net, views = apart(method), doubled(method, at)
    both = torch.cat([views["x1"], views["x2"]])
    start = at.ball.random_start(both, at.draws("adversary"))
    found = method.adversary(net, views, at)["adversarial"]
    for origin, begun, ended in zip(both.chunk(2), start.chunk(2), found.chunk(2), strict=True):
        assert (ended - origin).abs().max() <= EPS + 1e-7
        # Five steps lead further than where a view that gets no slope would stay.
        assert ((ended - begun.clamp(0, 1)).abs() > STEP / 2).double().mean() > 0.5
    assert all(p.grad is None for p in net.parameters())


def test_the_gradient_reaches_the_trained_network_alone() -> None:
    method, at = dynacl(), batch()
    net = apart(method)
    net.beside.requires_grad_(True)  # even then
    terms = method.loss(net, method.adversary(net, doubled(method, at), at), at)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None for p in net.beside.parameters())
    assert all(p.grad is not None for p in [*net.encoder.parameters(), *net.heads.parameters()])


def test_the_statistics_of_the_copy_come_from_its_own_forwards() -> None:
    method, at = dynacl(), batch()
    net = apart(method)
    slow, views = copy_of(net), doubled(method, at)
    lone = copy.deepcopy(slow)
    found = method.adversary(net, views, at)
    assert_same_statistics(slow, lone)  # the attack is in eval mode
    method.loss(net, found, at)
    method.before_step(net, at)
    with torch.no_grad():
        lone(found["adversarial"].chunk(2)[1], "projector", "pgd")
        lone(views["x2"], "projector", "normal")
    assert_same_statistics(slow, lone)
    for route in method.routes:
        assert {int(norm.num_batches_tracked or 0) for norm in norms(slow, route)} == {1}


def test_the_copy_starts_as_the_trained_network_and_moves_by_the_average_before_each_step() -> None:
    method = dynacl(
        momentum=0.9,
        training=Training(
            epochs=3, batch=N, optimiser=Optimiser(lr=0.5, momentum=0, weight_decay=0), schedule=Constant()
        ),
    )
    net = double(method).float()
    q = [[p.detach().clone() for p in net.encoder.parameters()]]
    wanted = [p.detach().clone() for p in copy_of(net).encoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(q[0], wanted, strict=True))

    def report(done: int, total: int) -> None:
        q.append([p.detach().clone() for p in net.encoder.parameters()])

    images = Images(batch().images, torch.arange(N) % 3, classes=3, name="random")
    fit(method, net, images, Run(seed=0, threat=batch().threat, report=report))
    for before in q[:3]:  # the copy after step t has seen the weights before the optimiser's step t
        wanted = [0.9 * k + 0.1 * p for k, p in zip(wanted, before, strict=True)]
    slow = list(copy_of(net).encoder.parameters())
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(slow, wanted, strict=True))
    late = [0.9 * k + 0.1 * p for k, p in zip(wanted, q[3], strict=True)]
    assert not all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(slow, late, strict=True))


def test_the_copy_is_what_is_deployed() -> None:
    net = double(dynacl())
    assert net.deployed(dynacl().facts.network) is copy_of(net).encoder
    assert net.deployed(dynacl(deployed="trained").facts.network) is net.encoder
    assert isinstance(copy_of(net).encoder, Encoder)
    assert dynacl().deploy == "pgd"


def test_the_rate_changes_by_epoch() -> None:
    training = DynACL().training
    for iteration in (0, 97):
        rates = [training.schedule.lr(5.0, epoch, iteration, 98, 1000) for epoch in range(1000)]
        assert rates[:10] == pytest.approx([5.0 * (epoch + 1) / 10 for epoch in range(10)])
        assert rates[10] == pytest.approx(5.0)
        assert rates[999] == pytest.approx(1e-6, abs=1e-4)
    assert training.optimiser == Optimiser(name="lars", lr=5.0, momentum=0.9, weight_decay=1e-6)
