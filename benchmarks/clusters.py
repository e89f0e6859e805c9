"""The only owner of the benchmark of k-means, which makes pseudo-labels, beside scikit-learn and faiss as they come."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks import peers
from benchmarks.ratio import Candidates, Ratio, compared, interleave
from robustcl.pretraining.kmeans import kmeans

SKLEARN, FAISS = "scikit-learn KMeans as it comes", "faiss Kmeans as it comes"
PARITY = 0.67  # faiss may take two thirds of our time

Inertias = dict[str, list[float]]


def compare(rounds: int) -> list[Ratio]:
    """The lines of goal 12."""
    return _compare(rounds, n=20_000, width=512, k=200)


def quick() -> list[Ratio]:
    """The same of fewer points."""
    return _compare(1, n=4_000, width=128, k=50)


def points(n: int, width: int) -> Tensor:
    """(n, width) of unit length, mostly not below 0, like features: a thousand modes with a falling spectrum."""
    source = torch.Generator().manual_seed(0)
    scale = (1 + torch.arange(width)) ** -0.5
    modes = torch.randn(1000, width, generator=source) * scale
    mixed = modes[torch.randint(1000, (n,), generator=source)] + 0.7 * scale * torch.randn(n, width, generator=source)
    return F.normalize(F.leaky_relu(mixed), dim=1)


def _compare(rounds: int, n: int, width: int, k: int) -> list[Ratio]:
    inertias: Inertias = {name: [] for name in ("ours", SKLEARN, FAISS)}
    what = f"k-means, {n:,} x {width}, K = {k}"
    times = interleave(_candidates(points(n, width), k, inertias), rounds)
    lines = [
        Ratio(number=12, what=what, peer=SKLEARN, goal=3, note=_note("sklearn")),
        Ratio(number=12, what=what, peer=FAISS, goal=PARITY, note=_note("faiss")),
    ]
    return compared(lines, times, "ours") + [_inertia(what, peer, inertias) for peer in (SKLEARN, FAISS)]


def _inertia(what: str, peer: str, inertias: Inertias) -> Ratio:
    """Our mean inertia over theirs: a number per seed on both sides, so a round more moves it."""
    means = [sum(found) / len(found) if found else 0 for found in (inertias["ours"], inertias[peer])]
    metric = f"inertia, ours over theirs, mean of {len(inertias['ours'])} seeds"
    found = (means[0] / means[1],) if means[1] else ()
    return Ratio(number=12, what=what, peer=peer, metric=metric, goal=1.001, ratios=found, kind="count")


def _candidates(x: Tensor, k: int, inertias: Inertias) -> Candidates:
    """One run each, from another seed in every round."""

    def ours() -> None:
        seed = len(inertias["ours"])
        inertias["ours"].append(kmeans(x, k, torch.Generator().manual_seed(seed))[1])

    made: dict[str, Callable[[], None]] = {"ours": ours}
    if peers.installed("sklearn"):
        made[SKLEARN] = _sklearn(x, k, inertias[SKLEARN])
    if peers.installed("faiss"):
        made[FAISS] = _faiss(x, k, inertias[FAISS])
    return made


def _sklearn(x: Tensor, k: int, inertias: list[float]) -> Callable[[], None]:
    module, array = peers.peer("sklearn.cluster"), x.numpy()

    def run() -> None:
        inertias.append(module.KMeans(k, random_state=len(inertias)).fit(array).inertia_)

    return run


def _faiss(x: Tensor, k: int, inertias: list[float]) -> Callable[[], None]:
    module, array = peers.peer("faiss"), x.numpy()
    module.omp_set_num_threads(1)

    def run() -> None:
        means = module.Kmeans(x.shape[1], k, seed=1 + len(inertias))
        means.train(array)
        distances, _ = means.index.search(array, 1)  # the labels, which its training does not give
        inertias.append(float(distances.sum(dtype="float64")))

    return run


def _note(name: str) -> str:
    return "" if peers.installed(name) else peers.absent(name)
