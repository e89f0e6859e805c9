"""The only owner of k-means: greedy k-means++ on a part of the points, then Lloyd's steps on all, on their device.

Seeding is most of what k-means costs in libraries (K passes over all points, Arthur and Vassilvitskii, SODA 2007), and
where it begins matters little once it has seen some tens of points per cluster: what is found is as good, see
docs/benchmarks.md.
"""

import math

import torch
from torch import Tensor

PART = 60  # points per cluster that the seeding sees
STEPS = 300
LEAST, ROUGH = 1e-4, 1e-3  # steps end where one lowers the inertia by less than this share; on the part alone, earlier
_CHUNK = 1024  # points whose similarities to all centres stay in the cache


def kmeans(points: Tensor, k: int, generator: torch.Generator, restarts: int = 1) -> tuple[Tensor, float]:
    """Labels (n,) int64 from 0 to k - 1 of points (n, width), and the inertia: the sum of squared distances.

    The best of `restarts` runs. `generator` lies on the CPU, so that a device draws nothing of its own.
    """
    centred = points - points.mean(0)  # as far from the origin as they have to be: rounding grows with the distance
    runs = [_run(centred, k, generator) for _ in range(restarts)]
    return min(runs, key=lambda run: run[1])


def _run(points: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, float]:
    part = points
    if PART * k < len(points):
        part = points[torch.randperm(len(points), generator=generator)[: PART * k].to(points.device)]
    centres = _seeds(part, k, generator)
    if part is not points:
        centres = lloyd(part, centres, ROUGH)[0]
    return lloyd(points, centres)[1:]


def lloyd(points: Tensor, centres: Tensor, least: float = LEAST) -> tuple[Tensor, Tensor, float]:
    """Centres (k, width), labels (n,) and inertia where Lloyd's steps from these centres end.

    They end where a step lowers the inertia by less than the share `least`. A cluster that lost all of its points takes
    the point that is farthest from its own centre, as scikit-learn does.
    """
    squares, last = points.square().sum(1), math.inf
    labels, away = _nearest(points, squares, centres)
    for _ in range(STEPS):
        counts = labels.bincount(minlength=len(centres))
        centres = _sums(points, labels, len(centres)) / counts[:, None].clamp_min(1)
        empty = (counts == 0).nonzero().squeeze(1)
        centres[empty] = points[away.topk(len(empty)).indices]
        labels, away = _nearest(points, squares, centres)
        inertia = float(away.double().sum())
        if last - inertia <= least * inertia and not len(empty):
            break
        last = inertia
    return centres, labels, float(away.double().sum())


def _seeds(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """(k, width): points drawn with a chance that is their squared distance to the nearest drawn so far.

    Of 2 + log k candidates the one that lowers the inertia most is kept, as in scikit-learn.
    """
    squares, across, tries = points.square().sum(1), points.T.contiguous(), 2 + int(math.log(k))
    chances = torch.rand(k, tries, generator=generator, dtype=torch.float64).to(points.device)

    def distances(rows: Tensor) -> Tensor:  # (rows, n)
        return torch.addmm(squares + squares[rows, None], points[rows], across, alpha=-2).clamp_min_(0)

    chosen = (chances[0, :1] * len(points)).long()
    nearest = distances(chosen)[0]
    for number in range(1, k):
        sums = nearest.double().cumsum(0)
        drawn = torch.searchsorted(sums, chances[number] * sums[-1]).clamp_max_(len(points) - 1)
        lowered = torch.minimum(distances(drawn), nearest)
        best = lowered.sum(1).argmin()
        nearest = lowered[best]
        chosen = torch.cat([chosen, drawn[best][None]])
    return points[chosen]


def _nearest(points: Tensor, squares: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the nearest centre of each point, and the squared distance to it."""
    length = centres.square().sum(1) / -2  # what is nearest has the largest product less half of its length
    found = [torch.addmm(length, part, centres.T).max(1) for part in points.split(_CHUNK)]
    nearest, products = (torch.cat([getattr(part, name) for part in found]) for name in ("indices", "values"))
    return nearest, (squares - 2 * products).clamp_min_(0)


def _sums(points: Tensor, labels: Tensor, k: int) -> Tensor:
    """(k, width) the sum of the points of each cluster, added in the same order in every run."""
    if points.device.type == "cpu":
        return torch.zeros(k, points.shape[1], dtype=points.dtype).index_add_(0, labels, points)
    sums = torch.zeros(k, points.shape[1], dtype=points.dtype, device=points.device)
    for part, label in zip(points.split(_CHUNK * 16), labels.split(_CHUNK * 16), strict=True):
        member = label == torch.arange(k, device=points.device)[:, None]
        sums += member.to(points.dtype) @ part  # adding by index is in no fixed order there
    return sums
