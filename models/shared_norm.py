"""The only owner of batch norm over a shared batch: synchronised over its processes, or group by group."""

import torch
from torch import Tensor, nn
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

    Means and variances of the parts are joined (Chan et al., 1979), which loses no digits where a mean is large.
    """
    wide, axes = precise(x), [axis for axis in range(x.ndim) if axis != 1]
    variances, means = share.every(torch.stack(torch.var_mean(wide, axes, correction=0))).unbind(1)
    weights = torch.tensor(share.sizes, dtype=wide.dtype, device=x.device)[:, None] / share.n
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    count = x.numel() // x.shape[1] // share.sizes[share.rank] * share.n
    rate = 0.1 if norm.momentum is None else norm.momentum
    for running, seen in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        if running is not None:
            running.data.lerp_(seen.detach().to(running.dtype), rate)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = (variance + norm.eps).rsqrt() * norm.weight
    shift = norm.bias - mean * scale
    return torch.addcmul(shift.view(shape), wide, scale.view(shape)).to(x.dtype)


def _set(held: list[Tensor], values: list[Tensor]) -> None:
    for one, new in zip(held, values, strict=True):
        one.data.copy_(new)  # by `.data`: in train mode no gradient depends on them, yet autograd guards them
