"""The only owner of batch norm over a shared batch: synchronised over its processes, or group by group."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from robustcl.models.share import Share, precise, total


def whole(module: nn.Module, images: Tensor, share: Share) -> Tensor:
    """What `module` answers for the whole batch, (m n, ...), given the part of this process, (m own, ...)."""
    return share.gather(grouped(module, images, share) if share.groups > 1 else module(images))


def grouped(module: nn.Module, x: Tensor, share: Share) -> Tensor:
    """`module` on each group of the batch by itself; `x` and the answer are the part of this process, (m own, ...).

    The running statistics move once, by the mean of the moves of all groups. Where published code trains on several
    devices without synchronising, they are those of the first device's group.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    if not norms:
        out: Tensor = module(x)
        return out
    held = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    before, counted = [s.clone() for s in held], [count.clone() for count in counts]
    moved, answers = [torch.zeros_like(s) for s in held], []
    for group in share.inner:
        answers.append(module(group.take(x)).unflatten(0, (-1, group.sizes[group.rank])))
        moved = [move + (s - start) for move, s, start in zip(moved, held, before, strict=True)]
        _set(held, before)
    if share.world > 1:
        moved = list(total(torch.cat(moved)).split([len(s) for s in held]))
    _set(held, [start + move / share.groups for start, move in zip(before, moved, strict=True)])
    ran = [after != start for after, start in zip(counts, counted, strict=True)]
    _set(counts, [start + one for start, one in zip(counted, ran, strict=True)])
    return torch.cat(answers, 1).flatten(0, 1)


def synchronised(norm: _BatchNorm, x: Tensor, share: Share) -> Tensor:
    """A batch norm in train mode on the part of this process, with the statistics of the whole batch.

    It has gradients of first order alone.
    """
    out: tuple[Tensor, Tensor, Tensor] = _Synchronised.apply(x, norm.weight, norm.bias, norm.eps, share)  # type: ignore[no-untyped-call]
    y, mean, variance = out
    count = x.numel() // x.shape[1] // share.sizes[share.rank] * share.n
    rate = 0.1 if norm.momentum is None else norm.momentum
    for running, seen in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        if running is not None:
            running.data.lerp_(seen.to(running.dtype), rate)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    return y


class _Synchronised(torch.autograd.Function):
    """Torch's own norm of an eval mode whose statistics are those of the whole batch; its gradient, and what is missing
    in it: the statistics depend on every image of every process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, share: Share) -> Any:
        mean, variance = torch.batch_norm_update_stats(precise(x), None, None, 0.0)
        # Joined from those of the parts (Chan et al., 1979), which loses no digits where a mean is large.
        means, variances = share.every(torch.stack([mean, variance])).unbind(1)
        weights = _weights(share, mean.dtype, x.device)
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean) ** 2)).sum(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.share = eps, share
        ctx.mark_non_differentiable(mean, variance)
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0], mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, weight, mean, variance = ctx.saved_tensors
        back = torch.ops.aten.native_batch_norm_backward
        fixed = back(gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        to_x, to_weight, to_bias = fixed
        rows = x.numel() // x.shape[1] // ctx.share.sizes[ctx.share.rank] * ctx.share.n
        along, across = (total(torch.stack([to_weight, to_bias])) / rows).unbind()
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * scale**2 * along
        shift = -weight * scale * across - slope * mean
        shape = [1, -1, *[1] * (x.ndim - 2)]
        to_x.addcmul_(x, slope.view(shape).to(to_x.dtype)).add_(shift.view(shape).to(to_x.dtype))
        return to_x, to_weight, to_bias, None, None


@functools.lru_cache(8)
def _weights(share: Share, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(world, 1): how much of the batch each process holds; kept, since a device waits for what comes from the host."""
    return torch.tensor(share.sizes, dtype=dtype, device=device)[:, None] / share.n


def _set(held: list[Tensor], values: list[Tensor]) -> None:
    for one, new in zip(held, values, strict=True):
        one.data.copy_(new)  # by `.data`: in train mode no gradient depends on them, yet autograd guards them
