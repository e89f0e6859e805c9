"""Tests of LP-AFF: a probe that moves the head alone, then TRADES on everything, with clusters as labels."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Net, Targets, Training, build_net
from robustcl.pretraining.methods.lp_aff import LPAFF, RECIPE
from robustcl.pretraining.optim import Optimiser
from robustcl.pretraining.views import recipe
from tests.pretraining.test_acl import EPS, STEP
from tests.pretraining.test_deacl import teacher
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

PSEUDO = {2: torch.arange(N) % 2, 3: torch.tensor([0, 1, 2, -1, 1, 2])}


def lp_aff(**changed: Any) -> LPAFF:
    return LPAFF(weak=recipe("digits-weak"), **changed)


def answers(net: Net, x: Tensor) -> dict[int, Tensor]:
    features = net.encoder(x)
    return {k: net.heads[f"clusters_{k}"](features) for k in PSEUDO}


def right(found: Mapping[int, Tensor]) -> Tensor:
    """The mean over K of the mean cross-entropy of the images that have a label."""
    each = []
    for k, labels in PSEUDO.items():
        terms = [
            -F.log_softmax(row, dim=0)[label]
            for row, label in zip(found[k], labels.tolist(), strict=True)
            if label >= 0
        ]
        each.append(torch.stack(terms).mean())
    return torch.stack(each).mean()


def divergence(clean: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> Tensor:
    """The mean over K and images of KL(clean || other)."""
    p, q = ({k: rows.softmax(1) for k, rows in of.items()} for of in (clean, other))
    return torch.stack([(p[k] * (p[k] / q[k]).log()).sum(1).mean() for k in p]).mean()


def official_step(net: Net, x: Tensor, start: Tensor) -> dict[str, Tensor]:
    """TRADES with the clean answers repeated in each of ten steps, in eval mode."""
    net.eval()
    found = start
    for _ in range(10):
        found = found.detach().requires_grad_()
        loss = divergence(answers(net, x), answers(net, found))
        (slope,) = torch.autograd.grad(loss, found)
        found = climbed(found, slope, x, EPS, STEP)
    net.train()
    clean = answers(net, x)
    terms = {"clean": right(clean), "divergence": 6 * divergence(clean, answers(net, found))}
    sgd(net, torch.stack(list(terms.values())).sum())
    return terms | {"x": found}


def test_a_step_after_the_probe_equals_trades_on_several_clusterings() -> None:
    method, at = lp_aff(), batch(epoch=10, epochs=35, pseudo=PSEUDO)
    ours, views = double(method, {"start": teacher()}, PSEUDO), doubled(method, at)
    theirs, before = copy.deepcopy(ours), copy.deepcopy(ours)
    start = method.ascent.start(views["clean"], at.ball, at.draws("adversary"))
    assert 0 < (start - views["clean"]).abs().mean() < 0.002  # the noise of TRADES
    wanted = official_step(theirs, views["clean"], start)

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    sgd(ours, torch.stack(list(terms.values())).sum())

    assert terms.keys() == {"clean", "divergence"}
    for name, term in terms.items():
        assert term.item() == pytest.approx(wanted[name].item(), rel=1e-9)
    assert torch.allclose(found["adversarial"], wanted["x"], rtol=0, atol=1e-7)
    assert_same_parameters(ours, theirs)
    assert_same_statistics(ours, theirs)
    assert moved(before, ours)


def test_a_step_of_the_probe_is_cross_entropy_on_the_frozen_encoder() -> None:
    method, at = lp_aff(), batch(epoch=9, epochs=35, pseudo=PSEUDO)
    ours, views = double(method, {"start": teacher()}, PSEUDO), doubled(method, at)
    before = copy.deepcopy(ours)
    found = method.adversary(ours, views, at)
    assert "adversarial" not in found
    terms = method.loss(ours, found, at)
    theirs = copy.deepcopy(ours).eval()
    assert terms["clean"].item() == pytest.approx(right(answers(theirs, views["clean"])).item(), rel=1e-9)
    assert terms["divergence"].item() == 0
    sgd(ours, torch.stack(list(terms.values())).sum())
    assert_same_parameters(ours.encoder, before.encoder)
    assert_same_statistics(ours.encoder, before.encoder)
    assert moved(before.heads, ours.heads)
    assert ours.encoder.training


def test_the_probe_moves_the_head_alone_and_what_follows_everything() -> None:
    method = lp_aff(training=Training(epochs=7, batch=3, optimiser=Optimiser(lr=0.1), schedule=RECIPE.schedule))
    given = teacher()
    net = build_net(
        method, Encoder(Tiny(width=4), (1, 8, 8), seed=1), Targets(classes=3, pseudo=PSEUDO), 1, {"start": given}
    )
    assert torch.equal(net.eval().encoder(batch().images), given.eval()(batch().images))
    states = [copy.deepcopy(net)]
    images = Images(batch().images, torch.arange(N) % 3, classes=3, name="random")
    run = Run(
        seed=0, threat=batch().threat, pseudo=PSEUDO, report=lambda done, total: states.append(copy.deepcopy(net))
    )
    curve = fit(method, net, images, run)
    prints = [(checkpoint.fingerprint(state.encoder), checkpoint.fingerprint(state.heads)) for state in states]
    assert [one[0] == prints[0][0] for one in prints[:4]] == [True, True, True, False]  # ten of 35 are two of seven
    assert len({one[1] for one in prints}) == 8
    assert [row["divergence"] > 0 for row in curve] == [False] * 2 + [True] * 5
    for (name, p), q in zip(states[2].named_parameters(), states[3].parameters(), strict=True):
        assert not torch.equal(p, q), name
    for (name, a), b in zip(states[2].encoder.named_buffers(), states[3].encoder.buffers(), strict=True):
        assert torch.equal(a, b) == (name in ("mean", "std")), name


def test_the_rates_are_those_of_dynacl_plus_plus() -> None:
    training = LPAFF().training
    rates = [training.schedule.lr(training.optimiser.lr, epoch, 0, 98, 35) for epoch in range(35)]
    assert rates == pytest.approx([0.01] * 10 + [0.1] * 10 + [0.01] * 10 + [0.001] * 5)
    assert training.optimiser == Optimiser(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert (training.epochs, training.batch) == (35, 512)
    assert LPAFF().beta == 6
    assert (LPAFF().ascent.steps, LPAFF().ascent.step) == (10, "eps/4")
    probing = [epoch for epoch in range(35) if "adversarial" not in attacked(epoch)]
    assert probing == list(range(10))


def attacked(epoch: int) -> dict[str, Tensor]:
    method, at = lp_aff(ascent={"steps": 0}), batch(epoch=epoch, epochs=35, pseudo=PSEUDO)
    return method.adversary(double(method, {"start": teacher()}, PSEUDO), doubled(method, at), at)


def test_without_a_label_an_image_has_no_say_in_its_clustering() -> None:
    method = lp_aff()
    found = []
    for last in (0, 1):  # image 3 has no label for K = 3: what the head answers for it does not matter there
        at = batch(epoch=0, epochs=35, pseudo=PSEUDO)
        views = doubled(method, at)
        views["clean"][3] = views["clean"][3] * last
        net = double(method, {"start": teacher()}, PSEUDO)
        heads = [net.get_parameter(f"heads.clusters_{k}.weight") for k in PSEUDO]
        found.append(torch.autograd.grad(method.loss(net, views, at)["clean"], heads))
    (two, three), (other_two, other_three) = found
    assert torch.equal(three, other_three)
    assert not torch.equal(two, other_two)


def test_it_needs_a_start() -> None:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), seed=1)
    with pytest.raises(UserError, match=r"^lp_aff: needs an encoder as its start, expected one$"):
        build_net(lp_aff(), encoder, Targets(classes=3, pseudo=PSEUDO), 1)
