"""Tests of ACL's four arms against a slow transcription of one step of the released code."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.routing import norms
from robustcl.pretraining.method import Net
from robustcl.pretraining.methods.acl import ACL
from robustcl.pretraining.methods.simclr import SimCLR
from robustcl.pretraining.views import recipe
from tests.pretraining.test_rocl import (
    T,
    assert_same_parameters,
    assert_same_statistics,
    batch,
    climbed,
    double,
    doubled,
    moved,
    ntx,
    sgd,
)

EPS, STEP = 8 / 255, 2 / 255


def acl(form: Any, **changed: Any) -> ACL:
    return ACL(form=form, strong=recipe("digits"), hidden=32, output=16, **changed)


def interleaved(one: Tensor, other: Tensor) -> Tensor:
    """Rows 2k and 2k + 1 are partners."""
    return torch.stack([one, other], dim=1).flatten(0, 1)


def official_ntx(z: Tensor) -> Tensor:
    """NT-Xent of interleaved rows: the similarity of 1 with itself is taken off the sum."""
    length = z.norm(dim=1, keepdim=True)
    near = (z @ z.T / (length * length.T).clamp(min=1e-8) / T).exp()
    row = torch.arange(len(z))
    partner = row + 1 - 2 * (row % 2)
    own = near[row, partner]
    loss: Tensor = -(own / (near.sum(0) - torch.tensor(1 / T, dtype=z.dtype).exp())).log().mean()
    return loss


def official_attack(net: Net, form: str, views: dict[str, Tensor], start: Tensor) -> Tensor:
    """Both views by one joint loss, forwarded anew in each of five steps, in eval mode; A2S keeps the odd rows."""
    origin = interleaved(views["x1"], views["x2"])
    x = interleaved(*start.chunk(2)) if form != "A2S" else interleaved(start, views["x2"])
    net.eval()
    for _ in range(5):
        x = x.detach().requires_grad_()
        if form == "A2S":
            z = interleaved(net(x[::2], "projector", "pgd"), net(x[1::2], "projector", "normal"))
        else:
            z = net(x, "projector", "pgd")
        (slope,) = torch.autograd.grad(official_ntx(z), x)
        if form == "A2S":
            slope[1::2] = 0
        x = climbed(x, slope, origin, EPS, STEP)
    net.train()
    return x


def official_step(net: Net, form: str, views: dict[str, Tensor], start: Tensor) -> dict[str, Tensor]:
    clean = interleaved(views["x1"], views["x2"])
    terms, found = {}, {}
    if form != "S2S":
        found["adversarial"] = official_attack(net, form, views, start)
    if form == "A2S":
        x = found["adversarial"]
        z = interleaved(net(x[::2], "projector", "pgd"), net(x[1::2], "projector", "normal"))
        terms["mixed"] = official_ntx(z)
    if form in ("DS", "A2A"):
        terms["adversarial"] = official_ntx(net(found["adversarial"], "projector", "pgd"))
    if form in ("DS", "S2S"):
        terms["clean"] = official_ntx(net(clean, "projector", "normal"))
    loss = torch.stack(list(terms.values())).mean()  # half of each for DS
    sgd(net, loss)
    share = 1 / len(terms)
    return {f"loss/{name}": share * term.detach() for name, term in terms.items()} | found


@pytest.mark.parametrize("form", ["DS", "A2A", "A2S", "S2S"])
def test_a_step_equals_that_of_the_released_code(form: str) -> None:
    method, at = acl(form), batch()
    ours, views = double(method), doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    origin = views["x1"] if form == "A2S" else torch.cat([views["x1"], views["x2"]])
    wanted = official_step(theirs, form, views, at.ball.random_start(origin, at.draws("adversary")))

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    sgd(ours, torch.stack(list(terms.values())).sum())

    assert {f"loss/{name}" for name in terms} == {name for name in wanted if "/" in name}
    for name, term in terms.items():
        assert term.item() == pytest.approx(wanted[f"loss/{name}"].item(), rel=1e-9)
    if form != "S2S":
        x = wanted["adversarial"] if form != "A2S" else wanted["adversarial"][::2]
        x = torch.cat([x[::2], x[1::2]]) if form != "A2S" else x
        assert torch.allclose(found["adversarial"], x, rtol=0, atol=1e-7)
        assert (found["adversarial"] - origin).abs().max() > EPS / 2
    assert_same_parameters(ours, theirs)
    assert_same_statistics(ours, theirs)
    assert moved(before, ours)


@pytest.mark.parametrize("form", ["DS", "A2A"])
def test_both_views_climb_one_loss(form: str) -> None:
    method, at = acl(form), batch()
    net, views = double(method), doubled(method, at)
    found = method.adversary(net, views, at)["adversarial"].chunk(2)
    for x, name in zip(found, ("x1", "x2"), strict=True):
        assert EPS / 2 < (x - views[name]).abs().max() <= EPS + 1e-7
    net.eval()

    def loss(one: Tensor, other: Tensor) -> float:
        return ntx(*net(torch.cat([one, other]), "projector", "pgd").chunk(2)).item()

    assert loss(*found) > loss(views["x1"], views["x2"])


def test_the_second_view_of_a2s_is_not_perturbed() -> None:
    method, at = acl("A2S"), batch()
    views = doubled(method, at)
    found = method.adversary(double(method), views, at)
    assert found["adversarial"].shape == views["x1"].shape
    assert torch.equal(found["x2"], views["x2"])


def test_the_attack_leaves_statistics_modes_and_gradients() -> None:
    for form in ("DS", "A2A", "A2S"):
        method, at = acl(form), batch()
        net = double(method)
        before = copy.deepcopy(net)
        method.adversary(net, doubled(method, at), at)
        assert_same_statistics(net, before)
        assert all(part.training for part in net.modules())
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("form", "updates"),
    [
        ("DS", {"normal": 1, "pgd": 1}),
        ("A2A", {"pgd": 1}),
        ("A2S", {"normal": 1, "pgd": 1}),
        ("S2S", {"normal": 1}),
    ],
)
def test_each_route_has_batch_norms_of_its_own_in_the_projector_too(form: str, updates: dict[str, int]) -> None:
    method, at = acl(form), batch()
    net = double(method)
    assert method.routes == tuple(updates)  # none that nothing trains
    assert all(part.num_features in (16, 32) for part in norms(net.heads, method.deploy))
    before = copy.deepcopy(net)
    method.loss(net, method.adversary(net, doubled(method, at), at), at)
    for part in ("encoder", "heads"):
        for route, count in updates.items():
            now, then = norms(net.get_submodule(part), route), norms(before.get_submodule(part), route)
            assert now
            for a, b in zip(now, then, strict=True):
                assert int(a.num_batches_tracked or 0) == count
                same = [torch.equal(a.get_buffer(name), b.get_buffer(name)) for name in ("running_mean", "running_var")]
                assert same == [count == 0] * 2


def test_the_standard_arm_is_simclr() -> None:
    at, standard, simclr = batch(), acl("S2S"), SimCLR(strong=recipe("digits"), hidden=32, output=16)
    one, other = double(standard), double(simclr)
    views = doubled(standard, at)
    assert all(torch.equal(views[name], view) for name, view in doubled(simclr, at).items())
    (first,) = standard.loss(one, views, at).values()
    (second,) = simclr.loss(other, views, at).values()
    assert first.item() == pytest.approx(second.item(), rel=1e-9)
    assert (standard.training, standard.temperature, standard.layers) == (
        simclr.training, simclr.temperature, simclr.layers
    )  # fmt: skip
    assert not standard.adversarial
    assert standard.deploy == "normal"
    assert [acl(form).deploy for form in ("DS", "A2A", "A2S")] == ["pgd"] * 3


def test_clean_and_perturbed_rows_are_never_contrasted_in_the_dual_stream() -> None:
    method, at = acl("DS"), batch()
    net, views = double(method), doubled(method, at)
    found = method.adversary(net, views, at)
    terms = []
    for other in (views["x1"], views["x1"].flip(0)):  # the clean pair changes, the adversarial term does not
        terms.append(method.loss(copy.deepcopy(net), found | {"x1": other}, at))
    assert torch.equal(terms[0]["adversarial"], terms[1]["adversarial"])
    assert not torch.equal(terms[0]["clean"], terms[1]["clean"])
