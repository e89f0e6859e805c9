"""Tests of ACL-AIR: its regularisers against loops and the published numbers, one step against a transcription."""

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from robustcl.pretraining.method import Net, named
from robustcl.pretraining.methods.air import AIR, diagonal, divergence
from robustcl.pretraining.views import recipe
from tests.pretraining.test_acl import EPS, official_attack
from tests.pretraining.test_rocl import (
    T,
    assert_same_parameters,
    assert_same_statistics,
    batch,
    double,
    doubled,
    moved,
    ntx,
    sgd,
)

Form = Literal["official", "divergence"]
FORMS: tuple[Form, ...] = ("official", "divergence")


def air(**changed: Any) -> AIR:
    return AIR(strong=recipe("digits"), hidden=32, output=16, **changed)


def rows(b: int, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(one: Tensor, other: Tensor) -> list[Tensor]:
    """The softmax over the images of the similarity of an image's two rows; loops."""
    e = [(torch.dot(a, b) / (a.norm() * b.norm()) / T).exp() for a, b in zip(one, other, strict=True)]
    return [x / torch.stack(e).sum() for x in e]


def slow(p: list[Tensor], q: list[Tensor], form: Form) -> Tensor:
    """`sum_b q (log q - p)`, as the released code feeds its divergence, or `sum_b q (log q - log p)`."""
    return torch.stack(
        [b * (b.log() - (a if form == "official" else a.log())) for a, b in zip(p, q, strict=True)]
    ).sum()


@pytest.mark.parametrize("form", FORMS)
def test_the_regulariser_equals_the_loop(form: Form) -> None:
    i, j, o = rows(5), rows(5, seed=1), rows(5, seed=2)
    found = divergence(diagonal(i, o, T), diagonal(j, o, T), form)
    assert found.item() == pytest.approx(slow(shares(i, o), shares(j, o), form).item(), rel=1e-5)


def test_the_gradient_equals_that_of_the_loop() -> None:
    for form in FORMS:
        x = [rows(5, seed=seed).requires_grad_() for seed in range(3)]
        ours = torch.autograd.grad(divergence(diagonal(x[0], x[2], T), diagonal(x[1], x[2], T), form), x)
        theirs = torch.autograd.grad(slow(shares(x[0], x[2]), shares(x[1], x[2]), form), x)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_official_form_is_about_minus_an_entropy_at_the_official_batch() -> None:
    near = rows(512, 128)
    o, i, j = (near + 0.3 * rows(512, 128, seed) for seed in (1, 2, 3))  # three views of 512 images
    q = [diagonal(z, o, T) for z in (i, j)]
    entropy = -(q[1].exp() * q[1]).sum().item()
    official, proper = (divergence(q[0], q[1], form).item() for form in FORMS)
    assert official == pytest.approx(-entropy, abs=0.003)
    assert official == pytest.approx(-math.log(512), abs=0.02)  # -6.24
    assert 0 <= proper < 1e-2


def test_uniform_shares_in_closed_form() -> None:
    # Every image is as like its views as any other: -log B - 1/B, and no divergence.
    b, x = 64, torch.ones(64, 4, dtype=torch.float64)
    q = diagonal(x, x, T)
    assert divergence(q, q, "official").item() == pytest.approx(-math.log(b) - 1 / b, abs=1e-5)
    assert divergence(q, q, "divergence").item() == pytest.approx(0, abs=1e-6)
    a = q + q  # the product of two of them
    assert divergence(a, a, "official").item() == pytest.approx((-2 * math.log(b) - 1 / b**2) / b, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_not_negative_and_zero_for_equal_views_alone(seed: int) -> None:
    i, j, o = rows(6, seed=seed), rows(6, seed=seed + 10), rows(6, seed=seed + 20)
    q, r = diagonal(i, o, T), diagonal(j, o, T)
    assert divergence(q, r, "divergence").item() > 1e-4
    assert divergence(q, q, "divergence").item() == 0
    assert divergence(q, r, "divergence").item() != pytest.approx(divergence(r, q, "divergence").item(), rel=1e-3)


def official_step(net: Net, views: dict[str, Tensor], start: Tensor, form: Form, w: float) -> dict[str, Tensor]:
    x = official_attack(net, "DS", views, start)
    x = torch.cat([x[::2], x[1::2]])
    i_adv, j_adv = net(x, "projector", "pgd").chunk(2)
    i, j = net(torch.cat([views["x1"], views["x2"]]), "projector", "normal").chunk(2)
    o = net(views["origin"], "projector", "normal")

    def both(adversarial: Tensor, clean: Tensor) -> list[Tensor]:
        return [a * r for a, r in zip(shares(adversarial, clean), shares(adversarial, o), strict=True)]

    terms = {
        "clean": (1 - w) * ntx(i, j),
        "adversarial": (1 + w) * ntx(i_adv, j_adv),
        "sir": 0.5 * slow(shares(i, o), shares(j, o), form),
        "air": 0.5 * slow(both(i_adv, i), both(j_adv, j), form),
    }
    sgd(net, torch.stack(list(terms.values())).sum())
    return terms | {"x": x}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_step_equals_that_of_the_released_code(form: Form, dynamic: bool) -> None:
    method, at = air(regulariser=form, dynamic=dynamic, every=50), batch(epoch=60, epochs=100)
    ours, views = double(method), doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    start = at.ball.random_start(torch.cat([views["x1"], views["x2"]]), at.draws("adversary"))
    wanted = official_step(theirs, views, start, form, w=2 / 3 * (1 - 0.5) if dynamic else 0)

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    sgd(ours, torch.stack(list(terms.values())).sum())

    assert terms.keys() == {"clean", "adversarial", "sir", "air"}
    for name, term in terms.items():  # the regularisers are taken in float32
        assert term.item() == pytest.approx(wanted[name].item(), rel=1e-5, abs=1e-6)
    assert torch.allclose(found["adversarial"], wanted["x"], rtol=0, atol=1e-7)
    assert (found["adversarial"][:1] - views["x1"][:1]).abs().max() > EPS / 2
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6), name
    assert_same_statistics(ours, theirs)
    assert moved(before, ours)
    with pytest.raises(AssertionError):
        assert_same_parameters(ours, before)


def test_the_third_input_is_the_image_itself_on_the_clean_route() -> None:
    method, at = air(), batch()
    assert torch.equal(method.views(at)["origin"], at.images)
    net = double(method)
    found = method.adversary(net, doubled(method, at), at)
    seen: list[tuple[int, str]] = []
    net.encoder.body.register_forward_pre_hook(lambda _, given: seen.append((len(given[0]), net.encoder.switch.active)))
    method.loss(net, found, at)
    assert seen == [(12, "pgd"), (12, "normal"), (6, "normal")]


def test_the_weights_are_those_of_the_released_code() -> None:
    method, at = air(), batch()
    net, views = double(method), doubled(method, at)
    views["adversarial"] = torch.cat([views["x1"], views["x2"]])
    terms = method.loss(copy.deepcopy(net), views, at)
    heavy = air(standard=1.0, adversarial_weight=2.0).loss(copy.deepcopy(net), views, at)
    assert heavy["sir"].item() == pytest.approx(2 * terms["sir"].item(), rel=1e-6)
    assert heavy["air"].item() == pytest.approx(4 * terms["air"].item(), rel=1e-6)
    # Not halved: twice the contrastive terms of ACL.
    one, other = copy.deepcopy(net)(torch.cat([views["x1"], views["x2"]]), "projector", "normal").chunk(2)
    assert terms["clean"].item() == pytest.approx(ntx(one, other).item(), rel=1e-9)
    assert (AIR().standard, AIR().adversarial_weight, AIR().regulariser) == (0.5, 0.5, "official")


def test_the_dynamic_arm_keeps_the_interpolation_of_acl() -> None:
    # Bicubic windows, as in the released code of AIR, where those of DynACL are bilinear.
    method = named("air/dynamic")
    assert isinstance(method, AIR)
    assert method.dynamic
    assert method.strong == AIR().strong


def test_the_dynamic_form_weakens_the_views_after_as_many_epochs_as_dynacl() -> None:
    dynamic = air(dynamic=True)
    early, late = (batch(epoch=epoch, epochs=1000) for epoch in (49, 50))  # the strength falls at epoch 51
    assert torch.equal(dynamic.views(early)["x1"], air().views(early)["x1"])
    assert not torch.equal(dynamic.views(late)["x1"], air().views(late)["x1"])
