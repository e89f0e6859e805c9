"""The only owner of the data set `mnist`, and of how IDX files are read."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustcl.bench.data import Splits
from robustcl.bench.official import Official, inside
from robustcl.models.errors import UserError
from robustcl.models.value import value
from robustcl.models.vision import torchvision
from robustcl.pretraining.images import Images

# MD5 of the unpacked files; torchvision knows those of the packed ones alone, and does not compare them when it reads.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@value
class Mnist(Official):
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 test images, 28 x 28 grey, 10 classes.

    Official IDX files, packed (`.gz`) or not, in `<path>/MNIST/raw` or in `path` itself. `index` counts through each.
    """

    def read(self) -> Splits:
        return Splits(self._split("train", "train"), self._split("t10k", "test"))

    def _split(self, file: str, name: str) -> Images:
        pixels, labels = (self._idx(f"{file}-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
        return Images(pixels[:, None], labels, classes=10, name=f"mnist {name}")

    def _idx(self, name: str) -> Tensor:
        """The uint8 array of one file: (n, 28, 28) or (n,)."""
        raw = inside(self.path, "MNIST") / "raw"
        folder = raw if raw.is_dir() else self.path
        packed = not (folder / name).is_file()
        file = folder / f"{name}.gz" if packed else folder / name
        if not file.is_file():
            raise self.missing(folder / name, CHECKSUMS)
        try:
            content = gzip.decompress(file.read_bytes()) if packed else file.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: not readable ({error}), expected the official file") from None
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != CHECKSUMS[name]:
            raise self.another(file, found, CHECKSUMS[name])
        # Two zeros, 8 for uint8, the number of dimensions, and each of them as a big-endian int32.
        dimensions = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4)
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).reshape(
            *shape.tolist()
        )

    @staticmethod
    def fetch(folder: Path) -> None:
        torchvision().datasets.MNIST(folder, download=True)
