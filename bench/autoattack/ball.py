"""The only owner of the projection on the l1 ball and the box at once (Croce and Hein, ICML 2021, proposition 2.1)."""

import torch
from torch import Tensor

_TURNS = 30  # at most; about ten are taken
_NEAR = 2e-6  # of the radius: what a sum of 3,072 float32 numbers is worth


def l1_change(x: Tensor, change: Tensor, radius: float) -> Tensor:
    """The change nearest to `change` (n, ...) that keeps `x` (n, ...) in the box and within `radius` in l1.

    Every pixel is shrunk by the same amount, and cut off where it meets the box: |c| becomes clip(|c| - l, 0, room),
    where l >= 0 makes the sum the radius. The published algorithm sorts for it; we solve it on the changed pixels.
    """
    flat, images = change.flatten(1), x.flatten(1)
    size = flat.abs()
    room = torch.minimum(torch.where(flat > 0, 1 - images, images).clamp_min(0), size)
    few = _changed(size)
    shrink = _solved(size, room, radius) if few is None else _solved(size.gather(1, few), room.gather(1, few), radius)
    return (_kept(size, room, shrink) * flat.sign()).view_as(change)


def _changed(size: Tensor) -> Tensor | None:
    """(n, m) places of the pixels that are changed at all, where that is worth a look: on a CPU, below a half."""
    if size.device.type != "cpu":
        return None
    most = int((size > 0).sum(1).max())
    return size.topk(max(most, 1), dim=1, sorted=False).indices if 2 * most < size.shape[1] else None


def _kept(size: Tensor, room: Tensor, shrink: Tensor) -> Tensor:
    return torch.minimum((size - shrink).clamp_min_(0), room)


def _solved(size: Tensor, room: Tensor, radius: float) -> Tensor:
    """(n, 1) the amount to shrink by: the zero of a falling, piecewise linear function, or 0 where it is below already.

    A bracket closes from both sides by false position and by Newton's steps in turn, which end on the right piece.
    """
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    above, below = room.sum(1, keepdim=True) - radius, torch.full_like(low, -radius)
    outside = above > 0
    shrink = low
    for turn in range(_TURNS):
        if turn % 2:
            shrink = (low * below - high * above) / (below - above)
        left = _kept(size, room, shrink)
        excess = left.sum(1, keepdim=True) - radius
        if size.device.type == "cpu" and not (outside & (excess.abs() > _NEAR * radius)).any():
            break
        over = excess > 0
        low, above = torch.where(over, shrink, low), torch.where(over, excess, above)
        high, below = torch.where(over, high, shrink), torch.where(over, below, excess)
        pieces = ((left > 0) & (left < room)).sum(1, keepdim=True)
        step = shrink + excess / pieces.clamp_min(1)
        shrink = torch.where((step > low) & (step < high) & (pieces > 0), step, (low + high) / 2)
    return torch.where(outside, shrink, 0)
