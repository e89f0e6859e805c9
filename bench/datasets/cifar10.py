"""The only owner of the data set `cifar10`, and of how CIFAR's files are read."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustcl.bench.data import Splits
from robustcl.bench.official import Official, inside
from robustcl.models.errors import UserError
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
    """Both splits of the CIFAR that torchvision calls `kind`: uint8 (n, 3, 32, 32), rows from the top.

    torchvision knows the files and their MD5. They are pickles, and read here: torchvision would run what they ask for.
    """
    made = getattr(torchvision().datasets, kind)
    folder = inside(of.path, made.base_folder)
    of.check(folder, dict([*made.train_list, *made.test_list, (made.meta["filename"], made.meta["md5"])]))

    def split(files: Iterable[tuple[str, str]], name: str) -> Images:
        held = [_batch(folder / file) for file, _ in files]
        pixels = torch.from_numpy(np.concatenate([one["data"] for one in held]).reshape(-1, 3, 32, 32))
        labels = [label for one in held for label in one["labels" if "labels" in one else "fine_labels"]]
        return Images(pixels, torch.tensor(labels), classes=classes, name=f"{kind.lower()} {name}")

    return Splits(split(made.train_list, "train"), split(made.test_list, "test"))


class _Arrays(pickle.Unpickler):
    """Reads a pickle of plain things and arrays, which is what the official files are, and runs no other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which is never run")
        return super().find_class(module, name)


_KNOWN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def _batch(file: Path) -> dict[str, Any]:
    """What a batch holds. Errors: `UserError` where it is no pickle of arrays."""
    try:
        with file.open("rb") as opened:
            return dict(_Arrays(opened, encoding="latin1").load())
    except Exception as error:  # a damaged pickle can raise anything; what it raised stands in the line
        raise UserError(f"{file}: not readable ({error}), expected the official file") from None
