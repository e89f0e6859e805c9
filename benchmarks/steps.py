"""The only owner of the benchmark of a training step beside a plain one, which forwards every view every time.

The plain steps are written from the papers and from the passes that the released code is known to take: in float32, in
torch's usual order of memory. Views, losses and optimiser are ours on both sides, so that passes and layout alone are
compared. `tests/test_steps.py` holds that both come to the same weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.ratio import Ratio, Times, against, interleave
from robustcl.models.architecture import Architecture
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder, Shape
from robustcl.models.threat import Threat
from robustcl.pretraining.loop import prepare, step
from robustcl.pretraining.losses import nt_xent, sup_con
from robustcl.pretraining.method import Batch, Method, Net, Targets, Views, build_net, named
from robustcl.pretraining.methods.acl import ACL, pair
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.rocl import RoCL


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted of a method: its number, the most units, and how many times as fast in float32 and bfloat16."""

    number: int
    units: float
    float32: float
    bfloat16: float


GOALS = {
    "advcl": Goal(number=7, units=35.1, float32=1.8, bfloat16=2.7),
    "acl": Goal(number=8, units=32.1, float32=1.4, bfloat16=2.2),
    "rocl": Goal(number=9, units=30.1, float32=1.7, bfloat16=2.6),
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained in a comparison: a network, and batches of `n` images of noise."""

    architecture: Architecture
    shape: Shape = (3, 32, 32)
    n: int = 64
    dtype: torch.dtype = torch.float32

    @property
    def pseudo(self) -> dict[int, Tensor]:
        """As many clusterings as released AdvCL has."""
        return {k: torch.arange(self.n) % k for k in (2, 10, 50, 100, 500)}

    def net(self, method: Method) -> Net:
        """Always the same one for a method, in train mode."""
        encoder = Encoder(self.architecture, self.shape, routes=method.routes, seed=1)
        return build_net(method, encoder, Targets(classes=10, pseudo=self.pseudo), 0).to(self.dtype).train()

    def batch(self, number: int) -> Batch:
        """What the step of this number trains on."""
        source = torch.Generator().manual_seed(number)
        return Batch(
            images=torch.rand(self.n, *self.shape, generator=source).to(self.dtype),
            labels=torch.arange(self.n) % 10,
            threat=Threat("8/255"),
            seed=0,
            epoch=0,
            epochs=10,
            iteration=number,
            pseudo=self.pseudo,
        )


def compare(rounds: int) -> list[Ratio]:
    """The lines of goals 7 to 9: ResNet-18 of width 16 on 64 images of 32x32."""
    return [line for name in GOALS for line in _compare(name, Work(architecture=ResNet(width=16)), rounds)]


def quick() -> list[Ratio]:
    """The same of a small network and few images."""
    return [line for name in GOALS for line in _compare(name, Work(architecture=Tiny(width=4), n=8), 1)]


def _compare(name: str, work: Work, rounds: int) -> list[Ratio]:
    goal, what, peer = GOALS[name], f"{name}: a step, batch {work.n}", "plain"
    ours, theirs = (units(name, work, plain=plain) for plain in (False, True))
    metric = f"forwards' worth of FLOPs (plain: {theirs:.2f})"
    times = _times(name, work, rounds)
    line = Ratio(number=goal.number, what=what, peer=peer)
    timed = [
        replace(line, what=f"{what}, {kind}", goal=least, ratios=against(times, kind, peer))
        for kind, least in (("float32", goal.float32), ("bfloat16", goal.bfloat16))
    ]
    return [replace(line, metric=metric, goal=goal.units, ratios=(ours,), kind="count"), *timed]


def _times(name: str, work: Work, rounds: int) -> Times:
    """Seconds of a step of each kind; every kind trains a net of its own on the same batches."""

    def candidate(kind: str) -> Callable[[], object]:
        method = named(name, {"training": {"precision": "float32" if kind == "plain" else kind}})
        trained, batches = Trained(method, work.net(method), plain=kind == "plain"), iter(range(rounds + 1))
        return lambda: trained.step(work.batch(next(batches)))

    return interleave({kind: candidate(kind) for kind in ("plain", "float32", "bfloat16")}, rounds)


def units(name: str, work: Work, *, plain: bool) -> float:
    """The FLOPs of a step over those of one forward of the encoder: a count, without noise."""
    method = named(name)
    trained = Trained(method, work.net(method), plain=plain)
    batch = work.batch(0)
    with Counts() as whole:
        trained.step(batch)
    with Counts() as once, torch.no_grad():
        work.net(method).encoder(batch.images)
    return float(whole.flops / once.flops)


class Trained:
    """A net under training, ours or `plain`. The rate is small, so that noise as images does not lead to NaN."""

    def __init__(self, method: Method, net: Net, *, plain: bool) -> None:
        self.method, self.net, self.plain = method, net, plain
        if not plain:
            prepare(method, net)
        self.optimiser = method.training.optimiser.build(net.parameters())
        for group in self.optimiser.param_groups:
            group["lr"] = 0.01

    def step(self, batch: Batch) -> None:
        """One step."""
        if self.plain:
            plain_step(self.method, self.net, batch, self.optimiser)
        else:
            step(self.method, self.net, batch, self.optimiser)


class Counts(TorchDispatchMode):
    """Counts the FLOPs of convolutions, which encoders alone have, kernels, and the times that a host would wait.

    Torch's own counter of FLOPs marks modules by hooks, which gradients with respect to images do not allow.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "_unique2")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.kernels, self.waits = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        self.kernels += not func.is_view
        self.waits += packet.__name__ in self.WAITS
        if packet in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
            self.flops += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        return out


def plain_step(method: Method, net: Net, batch: Batch, optimiser: Optimizer) -> Tensor:
    """One step as published code takes it; the loss."""
    plain = {AdvCL: _advcl, ACL: _acl, RoCL: _rocl}[type(method)]
    loss = cast(Callable[..., Tensor], plain)(method, net, method.views(batch), batch)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()


def _advcl(method: AdvCL, net: Net, views: Views, batch: Batch) -> Tensor:
    """Both attacks at once in train mode; the clean views are forwarded in every one of their steps."""
    origin, size = views["origin"], method.ascent.size(batch.ball)
    x, x_ce = (batch.ball.random_start(origin, batch.draws(purpose)) for purpose in ("contrast", "clusters"))

    def contrasted(scale: float) -> Tensor:
        clean = [net(views[name], "projector", "normal") for name in method.clean]
        return sup_con([net(x, "projector", "pgd"), *clean], method.temperature, scale)

    for _ in range(method.ascent.steps):
        x, x_ce = x.detach().requires_grad_(), x_ce.detach().requires_grad_()
        loss = contrasted(1) + method.weight * method.clusters(net, x_ce, batch, "sum")
        slopes = torch.autograd.grad(loss, [x, x_ce])
        x, x_ce = (_climbed(at, slope, origin, size, batch.ball) for at, slope in zip((x, x_ce), slopes, strict=True))
    return contrasted(method.scale) + method.weight * method.clusters(net, x_ce, batch)


def _acl(method: ACL, net: Net, views: Views, batch: Batch) -> Tensor:
    """The attack in eval mode by `backward`, which makes the gradients of the weights too, for nothing."""
    both, size = torch.cat([views["x1"], views["x2"]]), method.ascent.size(batch.ball)
    x = batch.ball.random_start(both, batch.draws("adversary"))
    net.eval()
    for _ in range(method.ascent.steps):
        x = x.detach().requires_grad_()
        nt_xent(pair(net, x, "pgd"), method.temperature).backward()
        assert x.grad is not None
        x = _climbed(x, x.grad, both, size, batch.ball)
        net.zero_grad()
    net.train()
    attacked = nt_xent(pair(net, x, "pgd"), method.temperature)
    return (attacked + nt_xent(pair(net, both, "normal"), method.temperature)) / 2


def _rocl(method: RoCL, net: Net, views: Views, batch: Batch) -> Tensor:
    """The attack in eval mode on both views together, of which the other one gets a gradient for nothing."""
    origin, size = views["x1"], method.ascent.size(batch.ball)
    x = batch.ball.project(batch.ball.random_start(origin, batch.draws("adversary")), origin)
    net.eval()
    for _ in range(method.ascent.steps):
        x = x.detach().requires_grad_()
        z = net(torch.cat([x, views["x2"]]), "projector").chunk(2)
        (slope,) = torch.autograd.grad(nt_xent(z, method.temperature, detach=method.detach_second_factor), x)
        x = _climbed(x, slope, origin, size, batch.ball)
    net.train()
    return torch.stack(list(method.loss(net, views | {"x_adv": x}, batch).values())).sum()


def _climbed(x: Tensor, slope: Tensor, origin: Tensor, size: float, threat: Threat) -> Tensor:
    return threat.project(x.detach() + size * slope.sign(), origin)
