"""Tests of DeACL: the teacher stays, the student begins as it, and one step equals a slow transcription."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Net, Targets, Training, build_net
from robustcl.pretraining.methods.deacl import DeACL
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import recipe
from tests.pretraining.test_acl import EPS, STEP
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


def teacher() -> Encoder:
    """An encoder whose statistics are not those of a fresh one."""
    encoder = Encoder(Tiny(width=4), (1, 8, 8), seed=2).train()
    for seed in range(3):
        encoder(torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return encoder


def deacl(**changed: Any) -> DeACL:
    return DeACL(weak=recipe("digits-weak"), **changed)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.stack([torch.dot(a, b) / (a.norm() * b.norm()) for a, b in zip(one, other, strict=True)]).mean()


def official_step(net: Net, fixed: Encoder, x: Tensor, start: Tensor) -> dict[str, Tensor]:
    target, found = fixed.eval()(x).detach(), start
    net.eval()
    for _ in range(5):
        found = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(-cosine(net.encoder(found), target), found)
        found = climbed(found, slope, x, EPS, STEP)
    net.train()
    clean, adversarial = net.encoder(torch.cat([x, found])).chunk(2)
    terms = {"distil": -cosine(clean, target), "robust": -2 * cosine(adversarial, clean)}
    sgd(net, torch.stack(list(terms.values())).sum())
    return terms | {"x": found}


@pytest.mark.parametrize("from_teacher", [True, False])
def test_a_step_equals_that_of_the_released_code(from_teacher: bool) -> None:
    method, at, given = deacl(from_teacher=from_teacher), batch(), teacher()
    ours = double(method, {"teacher": given})
    views = doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    start = at.ball.random_start(views["clean"], at.draws("adversary"))
    wanted = official_step(theirs, copy.deepcopy(given).double(), views["clean"], start)

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    loss = torch.stack(list(terms.values())).sum()
    method.before_step(ours, at)
    sgd(ours, loss)

    assert terms.keys() == {"distil", "robust"}
    for name, term in terms.items():  # the cosines are taken in float32
        assert term.item() == pytest.approx(wanted[name].item(), rel=1e-5)
    assert torch.allclose(found["adversarial"], wanted["x"], rtol=0, atol=1e-7)
    assert (found["adversarial"] - views["clean"]).abs().max() > EPS / 2
    for (name, p), q in zip(ours.encoder.named_parameters(), theirs.encoder.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6), name
    assert_same_statistics(ours.encoder, theirs.encoder)
    assert moved(before.encoder, ours.encoder)
    assert_same_parameters(ours.beside, before.beside)
    assert_same_statistics(ours.beside, before.beside)


def test_both_sides_of_the_second_term_get_a_gradient() -> None:
    # With the clean features as a constant the weights would get another gradient.
    method, at = deacl(), batch()
    net, views = double(method, {"teacher": teacher()}), doubled(method, at)
    found = method.adversary(net, views, at)
    other = copy.deepcopy(net)
    method.loss(net, found, at)["robust"].backward()
    clean, adversarial = other.encoder(torch.cat([found["clean"], found["adversarial"]])).chunk(2)
    (-2 * cosine(adversarial, clean.detach())).backward()
    pairs = zip(net.encoder.parameters(), other.encoder.parameters(), strict=True)
    assert any((p.grad - q.grad).norm() > 0.1 * q.grad.norm() for p, q in pairs if p.grad is not None is not q.grad)


def test_the_teacher_is_frozen_to_the_bit_statistics_included() -> None:
    training = Training(epochs=2, batch=3, optimiser=Optimiser(lr=0.1), schedule=Cosine())
    method, given = deacl(training=training), teacher()
    encoder = Encoder(Tiny(width=4), (1, 8, 8), seed=1)
    net = build_net(method, encoder, Targets(classes=3), 1, {"teacher": given})
    before = checkpoint.fingerprint(given)
    images = Images(batch().images, torch.arange(N) % 3, classes=3, name="random")
    fit(method, net, images, Run(seed=0, threat=batch().threat))
    assert checkpoint.fingerprint(net.beside["teacher"]) == checkpoint.fingerprint(given) == before
    assert checkpoint.fingerprint(net.encoder) != before
    assert net.beside["teacher"] is not given


@pytest.mark.parametrize("from_teacher", [True, False])
def test_the_student_begins_as_the_teacher_unless_told_otherwise(from_teacher: bool) -> None:
    given, x = teacher(), batch().images
    encoder = Encoder(Tiny(width=4), (1, 8, 8), seed=1)
    net = build_net(deacl(from_teacher=from_teacher), encoder, Targets(classes=3), 1, {"teacher": given})
    assert torch.equal(net.eval().encoder(x), given.eval()(x)) == from_teacher
    assert net.encoder is not given
    assert all(p is not q for p, q in zip(net.encoder.parameters(), given.parameters(), strict=True))


def test_without_a_teacher_it_says_so_in_one_line() -> None:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), seed=1)
    with pytest.raises(UserError, match=r"^deacl: needs an encoder as its teacher, expected one$"):
        build_net(deacl(), encoder, Targets(classes=3), 1)


def test_a_teacher_of_another_shape_is_one_line() -> None:
    encoder, wide = (Encoder(Tiny(width=width), (1, 8, 8)) for width in (4, 8))
    with pytest.raises(UserError, match="cannot begin as one of another shape") as caught:
        build_net(deacl(), encoder, Targets(classes=3), 1, {"teacher": wide})
    assert "\n" not in str(caught.value)


def test_a_teacher_that_sees_other_inputs_is_one_line() -> None:
    encoder, other = Encoder(Tiny(width=4), (1, 8, 8)), Encoder(Tiny(width=4), (1, 8, 8), mean=(0.5,))
    with pytest.raises(UserError, match="cannot begin as one with another mean of its input") as caught:
        build_net(deacl(), encoder, Targets(classes=3), 1, {"teacher": other})
    assert "\n" not in str(caught.value)
    build_net(deacl(from_teacher=False), encoder, Targets(classes=3), 1, {"teacher": other})


def test_the_recipe_is_the_published_one() -> None:
    method = DeACL()
    assert method.robust == 2
    assert method.training.optimiser == Optimiser(name="sgd", lr=0.5, momentum=0.9, weight_decay=5e-4)
    assert (method.training.epochs, method.training.batch) == (100, 256)
    rates = [
        method.training.schedule.lr(0.5, epoch, at, 196, 100) for epoch, at in ((0, 0), (0, 195), (10, 0), (55, 0))
    ]
    assert rates == pytest.approx([0.003, 0.003, 0.5, 0.25])  # by epochs; the cosine lies over the 90 that are left
    assert method.heads(8, Targets(classes=3)) == {}
