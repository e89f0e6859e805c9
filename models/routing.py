"""The only owner of batch norm with one set of parameters and statistics per route, and of the switch between them.

A route is a named way through the network (`normal`, `pgd`, ...): the convolutions are shared, every batch norm has a
branch of its own (AdvCL, Fan et al. 2021; ACL, Jiang et al. 2020).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustcl.models.errors import UserError, unknown
from robustcl.models.share import Share
from robustcl.models.shared_norm import grouped, synchronised


class Switch:
    """The route that all batch norms of one network take now, and how the batch is shared, if it is."""

    def __init__(self, routes: tuple[str, ...]) -> None:
        self.routes = routes
        self.active = routes[0]
        self.share: Share | None = None

    def take(self, route: str) -> None:
        """Send what follows through `route`."""
        if route not in self.routes:
            raise unknown("encoder", "route", route, self.routes)
        self.active = route

    def answer(self, head: nn.Module, features: Tensor) -> Tensor:
        """What `head` answers on features of the whole batch, of which every process has all rows."""
        share, self.share = self.share, None
        try:
            if share is not None and share.groups > 1:
                return grouped(head, features, replace(share, rank=0, world=1))
            out: Tensor = head(features)
            return out
        finally:
            self.share = share


class RoutedBatchNorm(nn.Module):
    """A batch norm with one branch per route."""

    def __init__(self, norm: _BatchNorm, switch: Switch) -> None:
        super().__init__()
        self.switch = switch
        self.branches = nn.ModuleDict({route: copy.deepcopy(norm) for route in switch.routes})

    def forward(self, x: Tensor) -> Tensor:
        """The active branch's answer, of the same shape."""
        norm, share = self.branches[self.switch.active], self.switch.share
        if share is not None and share.world > 1 and share.groups == 1 and norm.training:
            assert isinstance(norm, _BatchNorm)
            return synchronised(norm, x, share)
        out: Tensor = norm(x)
        return out


def branch(module: nn.Module, switch: Switch) -> None:
    """Replace every batch norm below `module` by one with a branch per route, all starting equal."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, RoutedBatchNorm(child, switch))
        else:
            branch(child, switch)


def norms(module: nn.Module, route: str) -> list[_BatchNorm]:
    """The branches of `route` below `module`, in order; none where there is no such route."""
    routed = [part.branches for part in module.modules() if isinstance(part, RoutedBatchNorm)]
    found = [branches[route] for branches in routed if route in branches]
    return [norm for norm in found if isinstance(norm, _BatchNorm)]


def keep(module: nn.Module, route: str) -> None:
    """Drop every branch but that of `route`, for good."""
    for part in module.modules():
        if isinstance(part, RoutedBatchNorm):
            part.switch.take(route)
            part.switch.routes = (route,)
            part.branches = nn.ModuleDict({route: part.branches[route]})


def adopt(module: nn.Module, single: nn.Module) -> None:
    """Copy every weight and statistic of `single`, which has one route, into `module` of the same architecture.

    The branches of all routes of `module` begin as the only one of `single`.
    Errors: `UserError` where a tensor is missing, left over or of another shape, or a constant is another one.
    """
    constants = dict(single.named_buffers())
    for name, held in module.named_buffers():
        if name in ("mean", "std") and not torch.equal(held, constants[name].to(held.device)):
            raise UserError(f"encoder: cannot begin as one with another {name} of its input, expected the same")
    source, target = single.state_dict(), module.state_dict()
    plain = {_unrouted(name): tensor for name, tensor in source.items()}
    wanted = {name: _unrouted(name) for name in target}
    odd = set(plain).symmetric_difference(wanted.values())
    odd |= {name for name, short in wanted.items() if short in plain and plain[short].shape != target[name].shape}
    if odd or len(plain) != len(source):
        first = f" (first: {min(odd)})" if odd else ""
        raise UserError(f"encoder: cannot begin as one of another shape{first}, expected one route and equal sizes")
    module.load_state_dict({name: plain[short] for name, short in wanted.items()}, strict=True)


def _unrouted(name: str) -> str:
    """The name of a tensor without the route of its branch."""
    head, found, tail = name.partition(".branches.")
    return f"{head}.{tail.partition('.')[2]}" if found else name


@contextmanager
def shared(module: nn.Module, share: Share | None) -> Iterator[None]:
    """Inside the block every encoder below `module` is given its part of a shared batch and answers for the whole."""
    if share is None:
        yield
        return
    held = [getattr(part, "switch", None) for part in module.modules()]
    switches = [switch for switch in held if isinstance(switch, Switch)]
    for switch in switches:
        switch.share = share
    try:
        yield
    finally:
        for switch in switches:
            switch.share = None


@contextmanager
def batch_norm_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Every batch norm below `module` in train or eval mode inside the block; the old modes come back after it."""
    before = {part: part.training for part in module.modules() if isinstance(part, _BatchNorm)}
    for part in before:
        part.training = training
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


class Replay:
    """Repeats the updates that a cycle of train-mode forwards made to the running statistics of one route.

    Official AdvCL forwards its clean views again in every step of the attack; the features are the same each time but
    the running statistics move each time. We forward the views once and replay what the other cycles would have done:
    an update is `r <- r + m (s - r)`, so a cycle of c forwards takes r to `a r + b` with `a = (1 - m)^c`, and b follows
    from r before and after it.
    """

    def __init__(self, module: nn.Module, route: str) -> None:
        self.norms = [norm for norm in norms(module, route) if norm.running_mean is not None]
        self.before = [held.clone() for held in self._moving()]

    def _moving(self) -> list[Tensor]:
        # By `.data`: in train mode no gradient depends on the running statistics, yet autograd guards them.
        return [held.data for n in self.norms for held in (n.running_mean, n.running_var) if held is not None]

    def repeat(self, forwards: int, times: int) -> None:
        """Apply the cycle of so many `forwards`, which happened since this was made, `times` more times."""
        rates = [n.momentum if n.momentum is not None else 0.1 for n in self.norms for _ in range(2)]
        for running, before, rate in zip(self._moving(), self.before, rates, strict=True):
            kept = (1 - rate) ** forwards
            further = sum(kept**cycle for cycle in range(1, times + 1))  # r1 + (r1 - r0) (a + a^2 + ...)
            running.add_(running - before, alpha=further)
        for norm in self.norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += times * forwards
