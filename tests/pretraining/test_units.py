"""The units that a method declares against the FLOPs of one of its steps, counted by torch."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.method import Batch, Method, Net, Targets, build_net, every, named

N, SHAPE = 4, (3, 16, 16)
PSEUDO = {2: torch.arange(N) % 2}
ARCHITECTURE = Tiny(width=8, blocks=(1, 1), stride=1)


def encoder(routes: tuple[str, ...] = ("normal",)) -> Encoder:
    return Encoder(ARCHITECTURE, SHAPE, routes=routes)


class Convolutions(TorchDispatchMode):
    """Counts the FLOPs of convolutions, which only encoders have: heads are not part of the units.

    Torch's own counter marks modules by hooks, which gradients with respect to images do not allow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def step(method: Method, net: Net, images: torch.Tensor) -> None:
    batch = Batch(
        images=images,
        labels=torch.arange(N) % 3,
        threat=Threat("8/255"),
        seed=0,
        epoch=0,
        epochs=1,
        iteration=0,
        pseudo=PSEUDO,
    )
    terms = method.loss(net, method.adversary(net, method.views(batch), batch), batch)
    torch.stack(list(terms.values())).sum().backward()


@pytest.mark.parametrize("name", every())
def test_units_are_the_flops_of_a_step(name: str) -> None:
    less = {"layers": 1, "ascent": {"steps": 2}} if name.startswith("ap_dpe") else {}  # by far the costliest
    method = named(name, {"training": {"epochs": 1, "batch": N}, **less})
    given = {role: encoder() for role in method.facts.needs}
    net = build_net(method, encoder(method.routes), Targets(classes=3, pseudo=PSEUDO), 0, given).train()
    net.beside.requires_grad_(False)
    images = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    with Convolutions() as whole:
        step(method, net, images)
    with Convolutions() as once, torch.no_grad():
        encoder().eval()(images)
    found = whole.flops / once.flops
    if name == "ap_dpe/selfie":  # its patches pass the trunk alone, and units are passes of whole encoders
        assert 0.5 * method.units < found < method.units
        return
    # The first layer has no gradient of its input in the final backward, and second order is not exactly 1 or 2.
    assert found == pytest.approx(method.units, rel=0.1 if name.startswith("ap_dpe") else 0.05)
