"""The only owner of ClusterFit (Yan et al., CVPR 2020; AdvCL section 4.2): pseudo-labels from clustered features.

Labels are made once, before pretraining, on un-augmented training images, and stay fixed for the whole run.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.arrays import read_arrays
from robustcl.models.errors import UserError
from robustcl.models.seeding import generator
from robustcl.models.value import value
from robustcl.pretraining.images import Images
from robustcl.pretraining.kmeans import kmeans

Network = Callable[[Tensor], Tensor]
Labels = dict[int, Tensor]
"""K -> (n,) int64 labels from 0 to K - 1, in the order of the images."""


@value
class ClusterFit:
    """One independent k-means (k-means++, `restarts` starts, Euclidean) for each K.

    Features are made of unit length, as AdvCL's paper says; `normalise` false leaves them, as released DynACL++ does.
    """

    version: ClassVar[int] = 2  # our own k-means, which begins and ends elsewhere than scikit-learn's

    k: tuple[int, ...] = (10,)
    restarts: int = Field(default=10, ge=1)
    normalise: bool = True


def features(network: Network, images: Images, batch: int = 512) -> Tensor:
    """(n, width) features of the un-augmented images; a module in eval mode, an encoder on its first route.

    Errors: `UserError` where `network` answers anything but (n, width) finite numbers.
    """
    if isinstance(network, nn.Module):
        network.eval()
    parts = []
    with torch.no_grad():
        for at in range(0, len(images), batch):
            asked = images.floats(slice(at, at + batch))
            part = network(asked)
            if part.dim() != 2 or len(part) != len(asked):
                raise UserError(f"labels: features of shape {tuple(part.shape)}, expected ({len(asked)}, width)")
            parts.append(part.float())
    found = torch.cat(parts)
    if not torch.isfinite(found).all():
        raise UserError("labels: features that are NaN or infinite, expected numbers")
    return found


def cluster(network: Network, images: Images, fit: ClusterFit, seed: int) -> Labels:
    """Cluster labels for each K, from an encoder or any callable (n, channels, height, width) -> (n, width).

    Errors: `UserError` for a K outside 2 to n, and for features of another shape.
    """
    check_k(fit, len(images))
    found = features(network, images)
    points = F.normalize(found, dim=1) if fit.normalise else found
    labels = {}
    for k in fit.k:
        labels[k] = kmeans(points, k, generator(seed, "k-means", k), fit.restarts)[0].cpu()
    return labels


def check_k(fit: ClusterFit, n: int) -> None:
    """Errors: `UserError` where a K is outside 2 to n, the number of images."""
    wrong = [k for k in fit.k if not 2 <= k <= n]
    if wrong or not fit.k:
        raise UserError(f"labels.k: {wrong or 'no K'}, expected numbers from 2 to {n} (the training images)")


def balance(labels: Mapping[int, Tensor]) -> dict[str, dict[str, Any]]:
    """For each K the smallest and largest cluster, and the entropy of the labels in bits beside its maximum.

    A `warning` stands beside them where a cluster is empty, or where one holds more than half of the images for K of at
    least 4: such labels teach little. Images without a label (-1) are in no cluster.
    """
    report: dict[str, dict[str, Any]] = {}
    for k, part in labels.items():
        counts = part[part >= 0].bincount(minlength=k).double()
        share = counts[counts > 0] / counts.sum()
        entropy = 0.0 - float((share * share.log2()).sum())
        sizes = {"smallest": int(counts.min()), "largest": int(counts.max())}
        report[str(k)] = {**sizes, "entropy": round(entropy, 3), "most": round(math.log2(k), 3)}
        empty = int((counts == 0).sum())
        odd = [f"{empty} of {k} clusters {'is' if empty == 1 else 'are'} empty"] if empty else []
        if k >= 4 and counts.max() > len(part) / 2:
            odd.append(f"one cluster holds {int(counts.max())} of {len(part)} images")
        if odd:
            report[str(k)]["warning"] = "; ".join(odd)
    return report


def save_labels(path: Path, labels: Mapping[int, Tensor]) -> None:
    """Write labels as a plain `.npz` with one int32 array `k_<K>` for each K."""
    arrays: dict[str, Any] = {f"k_{k}": part.numpy().astype(np.int32) for k, part in labels.items()}
    np.savez(path, **arrays)


def load_labels(path: Path, n: int) -> Labels:
    """Read labels for `n` images. Errors: `UserError` for a missing, truncated or foreign file and wrong labels."""
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise UserError(f"{path}: not a readable .npz of labels ({error})") from None
    labels = {}
    for name, array in arrays.items():
        k = int(name[2:]) if re.fullmatch(r"k_[0-9]{1,9}", name) else 0
        if k < 2 or array.dtype.kind not in "iu" or array.shape != (n,) or array.min() < -1 or array.max() >= k:
            raise UserError(f"{path}: array '{name}' of shape {array.shape}, expected k_<K> with {n} labels below K")
        labels[k] = torch.from_numpy(array.astype(np.int64))
    if not labels:
        raise UserError(f"{path}: holds no labels, expected arrays k_<K> with {n} labels below K")
    return labels
