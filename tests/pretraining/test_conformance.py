"""What every method and every scheme must do; a new one is found by its name and tested without being listed."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.plugin import name_of
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Batch, Method, Net, Surveying, Targets, build_net, every, named
from tests.finetuned import every_scheme, fitted, is_scheme, scheme

CASES = [*every(), *every_scheme()]
N = 12
PSEUDO = {2: torch.arange(N) % 2, 3: torch.arange(N) % 3}


def default(name: str) -> Method:
    return again(name, {})


def small(name: str) -> Method:
    """The method as published, but for one epoch of three steps; AP-DPE, by far the costliest, climbs two."""
    less = {"layers": 1, "ascent": {"steps": 2}} if name.startswith("ap_dpe") else {}
    return again(name, {"training": {"epochs": 1, "batch": 4}, **less})


def again(name: str, table: dict[str, Any]) -> Method:
    return scheme(name, table) if is_scheme(name) else named(name, table)


def images() -> Images:
    pixels = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(N) % 3, classes=3, name="random")


def build(method: Method) -> Net:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes, seed=1)
    given = {role: Encoder(Tiny(width=4), (1, 8, 8), seed=2) for role in method.facts.needs}
    return build_net(method, encoder, Targets(classes=3, pseudo=PSEUDO), 1, given)


def settings(method: Method) -> Run:
    return fitted(method, images(), Run(seed=0, threat=Threat("8/255"), pseudo=PSEUDO))


@pytest.mark.parametrize("name", CASES)
def test_it_trains_three_steps_to_the_same_bytes_again(name: str) -> None:
    method, prints, curves = small(name), [], []
    for _ in range(2):
        net = build(method)
        before = checkpoint.fingerprint(net)
        curves.append(fit(method, net, images(), settings(method)))
        prints.append(checkpoint.fingerprint(net))
    assert all(math.isfinite(number) for row in curves[0] for number in row.values())
    assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
    assert prints[0] == prints[1] != before
    assert curves[0] == curves[1]


@pytest.mark.parametrize("name", CASES)
def test_what_is_frozen_stays_statistics_included(name: str) -> None:
    method = small(name)
    net = build(method)
    encoder, heads = checkpoint.fingerprint(net.encoder), checkpoint.fingerprint(net.heads)
    fit(method, net, images(), settings(method))
    assert (checkpoint.fingerprint(net.encoder) == encoder) == method.freezes
    assert not net.heads or checkpoint.fingerprint(net.heads) != heads


@pytest.mark.parametrize("name", CASES)
def test_it_round_trips_through_its_table(name: str) -> None:
    method = default(name)
    assert again(name, json.loads(json.dumps(plain(method)))) == method
    assert again(name, {}) == method


@pytest.mark.parametrize("name", every())
def test_what_it_deploys_is_there(name: str) -> None:
    method = default(name)
    assert method.deploy in method.routes
    assert build(method).deployed(method.facts.network).routes == method.routes
    assert name_of(method) == name.partition("/")[0]


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_it_is(name: str) -> None:
    method = default(name)
    assert method.version >= 1
    assert method.source
    assert method.cite
    assert type(method).__doc__
    assert bool(method.facts.perturbs) == bool(method.facts.maximises)


@pytest.mark.parametrize("name", CASES)
def test_what_lies_beside_gets_no_gradient(name: str) -> None:
    method = small(name)
    net = build(method)
    fit(method, net, images(), settings(method))
    assert all(p.grad is None for p in net.beside.parameters())


class Meter:
    """Counts forward-equivalents at a body's stem: a forward or an input gradient is 1, a full backward 2.

    Patches count by their area. A pass back through the graph of a gradient counts as a backward of its own.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self.last = False  # the backward that reaches the weights

    def __call__(self, _: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        whole = given[0].numel() / (8 * 8)
        self.spent += whole
        if out.requires_grad:
            inputs = given[0].requires_grad
            out.register_hook(lambda gradient: self.back(gradient, whole, inputs))

    def back(self, gradient: Tensor, whole: float, inputs: bool) -> None:
        self.spent += whole if inputs and not self.last else 2 * whole
        if gradient.requires_grad:
            gradient.register_hook(lambda again: self.back(again, whole, inputs))


@pytest.mark.parametrize("name", CASES)
def test_its_units_are_what_a_step_spends(name: str) -> None:
    method, data, meter = small(name), images(), Meter()
    net = build(method).train()
    if method.freezes:
        net.encoder.eval().requires_grad_(False)
    net.beside.requires_grad_(False)
    for part in net.modules():
        if isinstance(part, Encoder):
            part.body.get_submodule("stem").register_forward_hook(meter)
    step = Batch(
        images=data.pixels,
        labels=data.labels,
        threat=settings(method).threat,
        partial=settings(method).partial,
        seed=0,
        epoch=0,
        epochs=1,
        iteration=0,
        pseudo=PSEUDO,
    )
    for quarter in range(4):  # of an epoch
        if isinstance(method, Surveying):
            method.survey(net, data, step, quarter, 4)
    terms = method.loss(net, method.adversary(net, method.views(step), step), step)
    meter.last = True
    torch.stack(list(terms.values())).sum().backward()
    assert meter.spent / N == method.units
