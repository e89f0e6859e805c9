"""The only owner of the data set `cifar10`, and of how CIFAR's files are read."""

from pathlib import Path

import numpy as np
import torch

from robustcl.bench.data import Splits
from robustcl.bench.official import Official
from robustcl.models.value import value
from robustcl.models.vision import torchvision
from robustcl.pretraining.images import Images


@value
class Cifar10(Official):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images, 32 x 32, 10 classes.

    Official files (python version) in `<path>/cifar-10-batches-py`. `index` counts through data_batch_1 to
    data_batch_5, and through test_batch.
    """

    def read(self) -> Splits:
        return read_cifar(self, "CIFAR10", classes=10)

    @staticmethod
    def fetch(folder: Path) -> None:
        torchvision().datasets.CIFAR10(folder, download=True)


def read_cifar(of: Official, kind: str, classes: int) -> Splits:
    """Both splits of a CIFAR by torchvision's class `kind`: uint8 (n, 3, 32, 32), rows from the top."""
    made = getattr(torchvision().datasets, kind)
    checksums = dict([*made.train_list, *made.test_list, (made.meta["filename"], made.meta["md5"])])

    def split(name: str) -> Images:
        held = of.opened(kind, checksums, made.base_folder, train=name == "train")
        pixels = torch.from_numpy(np.ascontiguousarray(held.data.transpose(0, 3, 1, 2)))
        return Images(pixels, torch.tensor(held.targets), classes=classes, name=f"{kind.lower()} {name}")

    return Splits(split("train"), split("test"))
