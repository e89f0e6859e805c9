"""The only owner of the data set `svhn`."""

from pathlib import Path

import numpy as np
import torch

from robustcl.bench.data import Splits
from robustcl.bench.official import Official
from robustcl.models.value import value
from robustcl.models.vision import torchvision
from robustcl.pretraining.images import Images


@value
class Svhn(Official):
    """SVHN (Netzer et al., 2011), cropped digits: 73,257 training and 26,032 test images, 32 x 32, 10 classes.

    Official files `<path>/train_32x32.mat` and `test_32x32.mat`; the 531,131 extra images are not used. Label 0 is the
    digit 0, which the files call 10. `index` counts through each file.
    """

    def read(self) -> Splits:
        return Splits(self._split("train"), self._split("test"))

    def _split(self, name: str) -> Images:
        files = torchvision().datasets.SVHN.split_list
        held = self.opened("SVHN", {file: md5 for _, file, md5 in (files["train"], files["test"])}, split=name)
        pixels = torch.from_numpy(np.ascontiguousarray(held.data))
        return Images(pixels, torch.from_numpy(held.labels), classes=10, name=f"svhn {name}")

    @staticmethod
    def fetch(folder: Path) -> None:
        for name in ("train", "test"):
            torchvision().datasets.SVHN(folder, split=name, download=True)
