"""The only owner of the data set `stl10`."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustcl.bench.data import Splits, resized
from robustcl.bench.official import Official
from robustcl.models.value import value
from robustcl.models.vision import torchvision
from robustcl.pretraining.images import Images

_SIDE = 96


@value
class Stl10(Official):
    """STL-10 (Coates et al., AISTATS 2011): 5,000 training, 8,000 test and 100,000 unlabelled images, 96 x 96.

    Official files (binary) in `<path>/stl10_binary`; 10 classes in torchvision's order (airplane, bird, car, cat, ...).
    `size` is the side that images are given: 96 as they are, 32 for transfer from CIFAR (as AdvCL and RobustSSL do).
    With `pretrain = "unlabelled"` encoders are pretrained on the unlabelled split, as DynACL and AIR do; finetuning
    and judging are on the labelled ones in any case. `index` counts through each of the three files of images.
    """

    size: int = Field(default=_SIDE, ge=1)
    pretrain: Literal["train", "unlabelled"] = "train"

    def read(self) -> Splits:
        train, test = self._split("train"), self._split("test")
        named = [
            Images(self._pixels(held.data), torch.from_numpy(held.labels), classes=10, name=f"stl10 {held.split}")
            for held in (train, test)
        ]
        return Splits(*named)

    def unlabelled(self) -> Images | None:
        if self.pretrain == "train":
            return None
        pixels = self._pixels(self._split("unlabeled").data)
        return Images(pixels, torch.zeros(len(pixels), dtype=torch.int64), classes=1, name="stl10 unlabelled")

    def _split(self, name: str) -> Any:
        kind = torchvision().datasets.STL10
        return self.opened("STL10", dict([*kind.train_list, *kind.test_list]), kind.base_folder, split=name)

    def _pixels(self, held: Any) -> Tensor:
        # The files hold columns; torchvision's array is a transposed view of them.
        pixels = torch.from_numpy(held)
        return pixels.contiguous() if self.size == _SIDE else resized(pixels, self.size)

    @staticmethod
    def fetch(folder: Path) -> None:
        torchvision().datasets.STL10(folder, download=True)
