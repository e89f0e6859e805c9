"""Tests of AdvCL against a slow transcription of one step of the released code."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.routing import batch_norm_mode, norms
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Net, Targets, build_net, named, read_method
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.views import recipe

N, T, EPS, STEP, LR = 6, 0.5, 8 / 255, 2 / 255, 0.05
PSEUDO = {2: torch.arange(N) % 2, 3: torch.tensor([0, 1, 2, -1, 1, 2])}


NO_HIGH: Any = ("x+d", "t1", "t2")


def advcl(**changed: Any) -> AdvCL:
    return AdvCL(strong=recipe("digits"), weak=recipe("digits-weak"), **changed)


def batch() -> Batch:
    images = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ball = Threat("8/255")
    return Batch(
        images=images, labels=torch.arange(N) % 3, threat=ball, seed=4, epoch=0, epochs=1, iteration=0, pseudo=PSEUDO
    )


def double(method: AdvCL) -> Net:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes, seed=1)
    net = build_net(method, encoder, Targets(classes=3, pseudo=PSEUDO), seed=1).double().train()
    return net


def official_contrast(z: list[Tensor]) -> Tensor:
    """SUPCON as a double loop, over views in the order of the released code."""
    rows = [(image, F.normalize(view[image], dim=0)) for view in z for image in range(N)]
    total = torch.zeros((), dtype=z[0].dtype)
    for i, (image, a) in enumerate(rows):
        others = [(torch.dot(a, b) / T, j == image) for k, (j, b) in enumerate(rows) if k != i]
        bottom = torch.stack([logit for logit, _ in others]).logsumexp(0)
        positives = [logit - bottom for logit, same in others if same]
        total = total - (T / 0.07) * torch.stack(positives).mean()
    return total / len(rows)


def official_pseudo(net: Net, x: Tensor, reduction: str = "mean") -> Tensor:
    f = net.encoder(x, "pgd_ce")
    terms = [
        F.cross_entropy(net.heads[f"clusters_{k}"](f), PSEUDO[k], ignore_index=-1, reduction=reduction) for k in PSEUDO
    ]
    return sum(terms, torch.zeros(())) / len(terms)


PERTURBED = {"x+d": "origin", "t1+d": "x1", "t2+d": "x2"}
CLEAN = {"t1": "x1", "t2": "x2", "low": "low", "high": "high"}


def official_step(
    net: Net, views: dict[str, Tensor], starts: tuple[list[Tensor], Tensor], names: Any, train: bool = True
) -> dict[str, Any]:
    """One joint attack that forwards every view each time, in train mode or not, then the outer step."""
    origins = [views[PERTURBED[name]] for name in names if name in PERTURBED]

    def clean() -> list[Tensor]:
        return [net(views[CLEAN[name]], "projector", "normal") for name in names if name in CLEAN]

    def climbed(x: Tensor, slope: Tensor, origin: Tensor) -> Tensor:
        return torch.min(torch.max(x.detach() + STEP * slope.sign(), origin - EPS), origin + EPS).clamp(0, 1)

    xs, x_ce = [start.clone() for start in starts[0]], starts[1].clone()
    for _ in range(5):
        xs, x_ce = [x.detach().requires_grad_() for x in xs], x_ce.detach().requires_grad_()
        with batch_norm_mode(net, train):
            z = [net(x, "projector", "pgd") for x in xs]
            loss = official_contrast([*z, *clean()]) + 0.2 * official_pseudo(net, x_ce, "sum")
        *slopes, g_ce = torch.autograd.grad(loss, [*xs, x_ce])
        xs = [climbed(x, g, origin) for x, g, origin in zip(xs, slopes, origins, strict=True)]
        x_ce = climbed(x_ce, g_ce, views["origin"])
    contrast = official_contrast([*(net(x, "projector", "pgd") for x in xs), *clean()])
    pseudo = 0.2 * official_pseudo(net, x_ce)
    update(net, contrast + pseudo)
    return {"contrast": contrast.detach(), "pseudo": pseudo.detach(), "x_cl": torch.cat(xs), "x_ce": x_ce}


def high_and_low(x: Tensor) -> dict[str, Tensor]:
    """The two parts by a sum over the waves of the image, one by one: radius 2 of 8 pixels."""
    side, high, low = x.shape[-1], torch.zeros_like(x), torch.zeros_like(x)
    at = torch.arange(side, dtype=x.dtype)
    for ky in range(-side // 2, side // 2):
        for kx in range(-side // 2, side // 2):
            turn = 2 * math.pi * (ky * at[:, None] + kx * at) / side
            real, imaginary = ((x * wave).sum((2, 3), keepdim=True) for wave in (turn.cos(), turn.sin()))
            part = (real * turn.cos() + imaginary * turn.sin()) / side**2
            if math.hypot(ky, kx) >= side / 4:
                high = high + part
            else:
                low = low + part
    return {"high": high, "low": low}


def update(net: Net, loss: Tensor) -> None:
    optimiser = torch.optim.SGD(net.parameters(), LR, 0.9, weight_decay=1e-4)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def doubled(method: AdvCL, at: Batch) -> dict[str, Tensor]:
    return {name: view.double() for name, view in method.views(at).items()}


# The rows of table 4, as views of the paper's own table and not as the arms spell them.
ROWS: dict[str, Any] = {
    "tau-one": ("t1+d", "t2"),
    "tau-both": ("t1+d", "t2+d"),
    "tau-both-clean": ("t1+d", "t2+d", "t1", "t2"),
    "no-high": ("x+d", "t1", "t2"),
    "low": ("x+d", "t1", "t2", "low"),
    "low-high": ("x+d", "t1", "t2", "low", "high"),
    "": ("x+d", "t1", "t2", "high"),
    "eval-attack": ("x+d", "t1", "t2", "high"),
}


@pytest.mark.parametrize("arm", ROWS)
def test_a_step_equals_that_of_the_released_code(arm: str) -> None:
    names, at = ROWS[arm], batch()
    method = named(f"advcl/{arm}".strip("/"), {"strong": "digits", "weak": "digits-weak"})
    assert isinstance(method, AdvCL)
    ours, views = double(method), doubled(method, at)
    views |= high_and_low(views["origin"])
    theirs = copy.deepcopy(ours)
    origins = torch.cat([views[PERTURBED[name]] for name in names if name in PERTURBED])
    begun = at.ball.random_start(origins, at.draws("contrast")).split(N)
    starts = (list(begun), at.ball.random_start(views["origin"], at.draws("clusters")))
    wanted = official_step(theirs, views, starts, names, train=arm != "eval-attack")

    found = method.adversary(ours, views, at)
    terms = method.loss(ours, found, at)
    update(ours, torch.stack(list(terms.values())).sum())

    assert terms.keys() == {"contrast", "pseudo"}
    for name in ("contrast", "pseudo"):
        assert terms[name].item() == pytest.approx(wanted[name].item(), rel=1e-9)
    for name in ("x_cl", "x_ce"):
        assert torch.allclose(found[name], wanted[name], rtol=0, atol=1e-7)  # the ball itself is that of float(8/255)
        assert (found[name] - (origins if name == "x_cl" else views["origin"])).abs().max() > EPS / 2
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-7, atol=1e-9), name
    for route in method.routes:
        pairs = zip(norms(ours, route), norms(theirs, route), strict=True)
        for a, b in pairs:
            assert a.num_batches_tracked == b.num_batches_tracked
            for name in ("running_mean", "running_var"):
                assert torch.allclose(a.get_buffer(name), b.get_buffer(name), rtol=1e-9, atol=1e-10), (route, name)


def test_climbing_in_eval_mode_moves_the_statistics_once_per_view() -> None:
    method, at = advcl(ascent=Ascent(steps=5)), batch()
    net = double(method)
    found = method.adversary(net, doubled(method, at), at)
    method.loss(net, found, at)
    counts = {route: int(norms(net, route)[0].num_batches_tracked or 0) for route in method.routes}
    assert counts == {"normal": 3, "pgd": 1, "pgd_ce": 1}


def test_climbing_in_train_mode_moves_the_statistics_at_every_forward() -> None:
    method, at = advcl(), batch()
    net = double(method)
    method.loss(net, method.adversary(net, doubled(method, at), at), at)
    counts = {route: int(norms(net, route)[0].num_batches_tracked or 0) for route in method.routes}
    assert counts == {"normal": 18, "pgd": 6, "pgd_ce": 6}


@pytest.mark.parametrize(("high", "views"), [(True, 4), (False, 3)])
def test_the_two_weightings_differ_by_their_factors(high: bool, views: int) -> None:
    contrasted: Any = {} if high else {"contrasted": NO_HIGH}
    official, paper, at = advcl(**contrasted), advcl(**contrasted, weighting="paper"), batch()
    found = []
    for method in (official, paper):
        net = double(method)
        found.append(method.loss(net, method.adversary(net, doubled(method, at), at), at))
    assert found[0]["contrast"].item() / (0.5 / 0.07) == pytest.approx(
        found[1]["contrast"].item() / (views * (views - 1)), rel=1e-9
    )
    assert found[0]["pseudo"].item() == pytest.approx(found[1]["pseudo"].item(), rel=1e-12)


def test_a_route_that_nothing_trains_is_not_made_nor_deployed() -> None:
    assert advcl(weight=0).routes == ("normal", "pgd")
    both: Any = ("t1+d", "t2+d")
    assert advcl(contrasted=both).routes == ("pgd", "pgd_ce")
    for changed, route in (({"weight": 0}, "pgd_ce"), ({"contrasted": both}, "normal")):
        with pytest.raises(UserError, match=f"route '{route}' is not trained, expected one of"):
            read_method({"method": "advcl", "route": route, **changed}, "x")


def test_a_batch_without_any_label_adds_nothing() -> None:
    method, at = advcl(), replace(batch(), pseudo={2: torch.full((N,), -1), 3: PSEUDO[3]})
    net = double(method)
    terms = method.loss(net, method.adversary(net, doubled(method, at), at), at)
    only = replace(at, pseudo={3: PSEUDO[3]})
    net = double(method)
    one = method.loss(net, method.adversary(net, doubled(method, only), only), only)
    assert terms["pseudo"].item() == pytest.approx(one["pseudo"].item() / 2, rel=1e-9)


def test_without_a_pseudo_weight_heads_and_term_are_dropped() -> None:
    method, at = advcl(weight=0), batch()
    net = double(method)
    found = method.adversary(net, doubled(method, at), at)
    assert list(net.heads) == ["projector"]
    assert method.supervision == "none"
    assert "x_ce" not in found
    assert list(method.loss(net, found, at)) == ["contrast"]
    assert list(double(advcl()).heads) == ["projector", "clusters_2", "clusters_3"]
    assert advcl().supervision == "pseudo"


def test_without_the_high_frequencies_the_view_is_dropped() -> None:
    assert "high" not in advcl(contrasted=NO_HIGH).views(batch())
    high = advcl().views(batch())["high"]
    assert high.min() < 0  # not clamped
    assert high.mean((2, 3)).abs().max() < 1e-6


def test_the_pseudo_attack_does_not_depend_on_the_scale_of_its_term() -> None:
    found = []
    for weight in (0.2, 5.0):
        method, at = advcl(weight=weight), batch()
        found.append(method.adversary(double(method), doubled(method, at), at))
    assert torch.equal(found[0]["x_ce"], found[1]["x_ce"])
    assert torch.equal(found[0]["x_cl"], found[1]["x_cl"])
