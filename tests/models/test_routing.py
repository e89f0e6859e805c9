"""Tests of routes: branches do not touch one another, one can be kept, and a replay equals forwarding again."""

import copy

import pytest
import torch
from torch import Tensor

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.routing import Replay, adopt, batch_norm_mode, norms

ROUTES = ("normal", "pgd", "pgd_ce")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(Tiny(width=4), (1, 8, 8), routes=ROUTES, seed=1)


def images(seed: int, n: int = 6) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def statistics(encoder: Encoder, route: str) -> list[Tensor]:
    return [buffer.clone() for norm in norms(encoder, route) for buffer in norm.buffers()]


def wander(encoder: Encoder) -> None:
    """Different statistics and parameters in every branch."""
    encoder.train()
    for number, route in enumerate(ROUTES):
        encoder(images(number), route)
        for norm in norms(encoder, route):
            with torch.no_grad():
                norm.weight.fill_(1 + number / 10)


@pytest.mark.parametrize("route", ROUTES)
def test_forwards_move_their_own_route_alone(encoder: Encoder, route: str) -> None:
    before = {other: statistics(encoder, other) for other in ROUTES}
    encoder.train()
    for number in range(3):
        encoder(images(number), route)
    for other in ROUTES:
        after = statistics(encoder, other)
        assert len(after) > 0
        same = all(torch.equal(a, b) for a, b in zip(before[other], after, strict=True))
        assert same == (other != route)


def test_parameters_of_other_routes_get_no_gradient(encoder: Encoder) -> None:
    encoder(images(0), "pgd").sum().backward()
    for route in ROUTES:
        touched = [norm.weight.grad is not None for norm in norms(encoder, route)]
        assert touched == [route == "pgd"] * len(touched)


@pytest.mark.parametrize("route", ROUTES)
def test_a_kept_route_answers_as_before(encoder: Encoder, route: str) -> None:
    wander(encoder)
    encoder.eval()
    wanted, untouched = encoder(images(9), route), copy.deepcopy(encoder.state_dict())
    single = encoder.keep(route)
    assert single.routes == (route,)
    assert torch.equal(single(images(9)), wanted)
    assert sum(route in name for name in single.state_dict()) == sum(
        ".branches." in name for name in single.state_dict()
    )
    assert encoder.routes == ROUTES
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in encoder.state_dict().items())


def test_routes_answer_differently_once_they_have_parted(encoder: Encoder) -> None:
    wander(encoder)
    encoder.eval()
    assert not torch.allclose(encoder(images(9), "normal"), encoder(images(9), "pgd"))


def test_an_unknown_route_is_one_line(encoder: Encoder) -> None:
    message = "encoder: unknown route 'pdg', expected one of normal, pgd, pgd_ce; did you mean 'pgd'?"
    with pytest.raises(UserError) as caught:
        encoder(images(0), "pdg")
    assert str(caught.value) == message
    with pytest.raises(UserError, match="unknown route 'pdg'"):
        encoder.keep("pdg")
    with pytest.raises(UserError, match="unknown route 'normal'"):
        encoder.keep("pgd")(images(0), "normal")


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_mode_comes_back_as_it_was(encoder: Encoder, training: bool) -> None:
    encoder.train()
    odd = norms(encoder, "pgd")[0]
    odd.eval()
    before = {name: part.training for name, part in encoder.named_modules()}
    with batch_norm_mode(encoder, training):
        assert all(norm.training == training for route in ROUTES for norm in norms(encoder, route))
        assert encoder.training
    assert {name: part.training for name, part in encoder.named_modules()} == before
    with pytest.raises(RuntimeError, match="inside"), batch_norm_mode(encoder, training):
        raise RuntimeError("inside")
    assert {name: part.training for name, part in encoder.named_modules()} == before


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_a_replay_equals_forwarding_again(encoder: Encoder, momentum: float) -> None:
    for norm in norms(encoder, "normal"):
        norm.momentum = momentum
    encoder.train()
    slow, views, times = copy.deepcopy(encoder), [images(seed) * (1 + seed) for seed in range(3)], 5
    for _ in range(1 + times):
        for view in views:
            slow(view, "normal")
    replay = Replay(encoder, "normal")
    for view in views:
        encoder(view, "normal")
    replay.repeat(len(views), times)
    for route in ROUTES:
        for found, wanted in zip(statistics(encoder, route), statistics(slow, route), strict=True):
            assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_replay_of_no_times_changes_nothing(encoder: Encoder) -> None:
    encoder.train()
    replay = Replay(encoder, "normal")
    encoder(images(0))
    before = statistics(encoder, "normal")
    replay.repeat(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(encoder, "normal"), strict=True))


def test_every_route_begins_as_the_single_one(encoder: Encoder) -> None:
    other = Encoder(Tiny(width=4), (1, 8, 8), routes=ROUTES, seed=2)
    wander(other)
    single = other.keep("pgd").eval()
    for module, origin in ((encoder, single), (encoder.body, single.body)):
        wander(encoder)
        adopt(module, origin)
        encoder.eval()
        with torch.no_grad():
            answers = [encoder(images(9), route) for route in ROUTES]
        assert all(torch.equal(answer, single(images(9))) for answer in answers)
    assert encoder.routes == ROUTES
    encoder.train()(images(8), "normal")
    assert torch.equal(statistics(encoder, "pgd")[0], statistics(single, "pgd")[0]), "the branches are apart"


@pytest.mark.parametrize(
    "other",
    [
        Encoder(Tiny(width=5), (1, 8, 8)),
        Encoder(Tiny(width=4, blocks=(1,)), (1, 8, 8)),
        Encoder(Tiny(width=4, blocks=(1, 1, 1)), (1, 8, 8)),
        Encoder(Tiny(width=4), (1, 8, 8), routes=ROUTES),
    ],
    ids=["width", "shallower", "deeper", "routes"],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(encoder: Encoder, other: Encoder) -> None:
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(UserError) as caught:
        adopt(encoder, other)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
