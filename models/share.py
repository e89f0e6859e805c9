"""The only owner of a batch that several processes share: whose rows are whose, and what they gather and sum.

One differentiable sum over all processes carries everything: what they gather is the sum of what each puts into zeros
at its own place. Its gradient is the sum of the gradients of all processes. Every process computes the same loss of the
whole batch, so each gradient is `world` times that of one process alone, and `Share.average` divides by it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustcl.models.errors import LostError, UserError


@dataclass(frozen=True, kw_only=True)
class Share:
    """A batch of `n` images, of which process `rank` of `world` holds its part, in order.

    The batch norms take the statistics of `groups` parts of the batch, each by itself; one is the whole batch,
    synchronised over the processes. With more, `world` divides them. Where a tensor holds several views, they lie one
    below the other, (m n, ...), and a process holds its part of each, (m own, ...).
    """

    n: int
    rank: int = 0
    world: int = 1
    groups: int = 1

    @property
    def sizes(self) -> list[int]:
        """How many images each process holds."""
        pieces = self.groups if self.groups > 1 else self.world
        each = [self.n // pieces + (piece < self.n % pieces) for piece in range(pieces)]
        run = pieces // self.world
        return [sum(each[at : at + run]) for at in range(0, pieces, run)]

    @property
    def own(self) -> slice:
        """The rows of this process."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    @property
    def inner(self) -> "list[Share]":
        """The groups of this process, each as if it were a process of its own."""
        count = self.groups // self.world
        return [Share(n=self.sizes[self.rank], rank=number, world=count) for number in range(count)]

    def take(self, whole: Tensor) -> Tensor:
        """(m n, ...) to the part of this process, (m own, ...)."""
        views: Tensor = whole.unflatten(0, (-1, self.n))
        return views[:, self.own].flatten(0, 1)

    def gather(self, part: Tensor) -> Tensor:
        """The inverse of `take` over all processes, with its gradient; not one bit of a number changes."""
        if self.world == 1:
            return part
        before, own = self.own.start, self.sizes[self.rank]
        views = precise(part).unflatten(0, (-1, own))
        around = [views.new_zeros(len(views), size, *views.shape[2:]) for size in (before, self.n - before - own)]
        return total(torch.cat([around[0], views, around[1]], 1)).flatten(0, 1).to(part.dtype)

    def every(self, one: Tensor) -> Tensor:
        """(world, ...): what each process holds as `one` (...), with its gradient."""
        places = one.new_zeros(self.world, *one.shape)
        return total(torch.cat([places[: self.rank], one[None], places[self.rank + 1 :]]))

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes the mean over the processes, which is the gradient of the one loss."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.world == 1 or not gradients:
            return
        flat = total(torch.cat([gradient.flatten() for gradient in gradients])) / self.world
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def total(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, the same bits in each of them, with its gradients of every order.

    Errors: `LostError` where a process is gone, `UserError` where the group has no backend for the device.
    """
    out: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
    return out


def precise(x: Tensor) -> Tensor:
    """In float32 whatever autocast left, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def processes() -> tuple[int, int]:
    """(rank, world) of the process group that this process is in; (0, 1) without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def agreed(x: Tensor) -> Tensor:
    """`x` as the first process has it. Errors: as `total`."""
    rank, world = processes()
    return x if world == 1 else total(x if rank == 0 else torch.zeros_like(x)).to(x.dtype)


class _Total(torch.autograd.Function):
    # Of the two that torch has, one is deprecated (distributed.nn.functional) and the other one has no gradient.

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        summed = x.detach().clone(memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(summed)
        except RuntimeError as error:
            if "backend type" in str(error):  # torch's words for a group that serves no tensor on this device
                kind = x.device.type
                raise UserError(f"process group: has no backend for {kind}, expected 'cpu:gloo,cuda:nccl'") from None
            lost = "a process of this run is gone; what is finished stays, the same command goes on from there"
            raise LostError(lost) from error
        return summed

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])
