"""The only owner of the data set `cifar100`."""

from pathlib import Path

from robustcl.bench.data import Splits
from robustcl.bench.datasets.cifar10 import read_cifar
from robustcl.bench.official import Official
from robustcl.models.value import value
from robustcl.models.vision import torchvision


@value
class Cifar100(Official):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 training and 10,000 test images, 32 x 32, 100 classes (the fine labels).

    Official files (python version) in `<path>/cifar-100-python`. `index` counts through `train` and through `test`.
    """

    def read(self) -> Splits:
        return read_cifar(self, "CIFAR100", classes=100)

    @staticmethod
    def fetch(folder: Path) -> None:
        torchvision().datasets.CIFAR100(folder, download=True)
