"""The only owner of the nearest point of a hyperplane within the box, in linf, l2 and l1, for many rows at once.

A coordinate can move towards one side alone, as far as the box lets it: its room. What all of them move by then follows
from one number per row. In linf and l2 that is a level at which a concave function, linear between the coordinates'
corners, takes the value that is needed; in l1 the coordinates are used up in the order of their weights. Neither sorts
a row (Croce and Hein, ICML 2020, section 3 and appendix A, sort it).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.threat import Norm

_NOTHING = 1e-8  # a weight up to this size moves nothing in l2 and l1, as in the released code
_FAR = 1e12  # a level at which every coordinate that has a weight is in its corner
_NEAR = 2.0**-20  # of what is needed: a few units in the last place, which is how sums round
_LOOKS, _ROUNDS = 100, 8  # steps towards the level: at most, where each is looked at, and where that would wait
_FIRST = 32  # coordinates that are put in order first in l1

_DUALS: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def lengths(norm: Norm, changes: Tensor) -> Tensor:
    """(..., d) to (...): the norm of each row."""
    if norm == "l2":
        size: Tensor = torch.linalg.vector_norm(changes, dim=-1)
        return size
    sizes = changes.abs()  # the general function is several times as slow in these two
    return sizes.amax(-1) if norm == "linf" else sizes.sum(-1)


def slopes(norm: Norm, weights: Tensor) -> Tensor:
    """(..., d) to (...): how fast the linear function with these weights can change along a way of unit length."""
    return lengths(_DUALS[norm], weights)


def changes(norm: Norm, points: Tensor, weights: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest ways (n, k, d) from `points` (n, k, d) in [0, 1] to a hyperplane, and how long they are (n, k).

    Each of the n rows has `weights` (n, d), and for each of its k points a gap (n, k) of either sign: what the point's
    weighted sum is above that of the hyperplane. Where this does not meet the box, the way ends in its nearest corner.
    """
    weights = weights if norm == "linf" else F.hardshrink(weights, _NOTHING)
    sign, size = weights.sign(), weights.abs()
    side = torch.where(gaps < 0, -1.0, 1.0)[..., None]
    # How far a coordinate is from the end that it goes to: from 0 where weight and gap have one sign, else from 1.
    room = torch.addcmul(side.lt(0).float(), points, side)
    room = torch.addcmul(sign.clamp_max(0).neg_()[:, None], room, sign[:, None])
    need = gaps.abs()
    moved = _greedy(size, room, need) if norm == "l1" else _levelled(size, room, need, even=norm == "linf")
    far = moved.amax(-1) if norm == "linf" else lengths(norm, moved)
    return moved.mul_(sign[:, None]).mul_(-side), far


def _levelled(size: Tensor, room: Tensor, need: Tensor, *, even: bool) -> Tensor:
    """The way (n, k, d) up to one level for all coordinates (`even`), or up to one in proportion to their weights."""
    wide = size[:, None]

    def fill(level: Tensor) -> Tensor:
        return torch.minimum(room, level[..., None] if even else level[..., None] * wide)

    steepest = size.sum(1, keepdim=True) if even else (size * size).sum(1, keepdim=True)
    most = _sums(size, room)
    level = torch.where(need < most, need / steepest, _FAR)
    return fill(_root(lambda level: _sums(size, fill(level)), level, torch.minimum(need, most)))


def _root(function: Callable[[Tensor], Tensor], level: Tensor, need: Tensor) -> Tensor:
    """Where a concave increasing function that is 0 at 0 takes the value `need`, from a `level` that is not past it.

    The secant through two points before the root meets `need` before the root as well, so the levels only rise; on the
    last straight piece the secant is the function.
    """
    looking = level.device.type == "cpu"
    before, below, enough = torch.zeros_like(level), torch.zeros_like(level), _NEAR * need
    for _ in range(_LOOKS if looking else _ROUNDS):
        value = function(level)
        missing, rise = need - value, value - below
        going = (missing > enough) & (rise > 0)
        if looking and not going.any():
            break
        further = torch.addcmul(level, level - before, missing / rise)
        before, below, level = level, value, torch.where(going, further, level)
    return level


def _greedy(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The way (n, k, d) that uses up the coordinates with the largest weights first.

    On a CPU only so many are put in order as the rows need; where a look would wait, all are.
    """
    everything = _sums(size, room) <= need
    looking = size.device.type == "cpu"
    count = min(_FIRST, size.shape[1]) if looking else size.shape[1]
    while True:
        largest, order = size.topk(count, dim=1)
        order = order[:, None].expand(-1, room.shape[1], -1)
        rooms = room.gather(2, order)
        gains = rooms * largest[:, None]
        total = gains.cumsum(2, dtype=torch.float64)
        if count == size.shape[1] or ((total[..., -1] >= need) | everything).all():
            break
        count = min(4 * count, size.shape[1])
    left = (need[..., None] - (total - gains)).clamp_min_(0).float()
    way = torch.minimum(rooms, left / largest[:, None].clamp_min(torch.finfo(torch.float32).tiny))
    moved = torch.zeros_like(room).scatter_(2, order, way)
    if looking and not everything.any():
        return moved
    return torch.where(everything[..., None], room, moved)


def _sums(size: Tensor, moved: Tensor) -> Tensor:
    """(n, k) weighted sums of (n, k, d) with (n, d)."""
    return torch.bmm(size[:, None], moved.transpose(1, 2))[:, 0]
