"""The only owner of what a data set is: a frozen value that loads `Images` with their splits. Nothing is downloaded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.plugin import find, names
from robustcl.models.value import read, value
from robustcl.pretraining.images import Images

PACKAGE = "robustcl.bench.datasets"


class Splits(NamedTuple):
    """The training images, for pretraining and finetuning, and the test images, for judging alone."""

    train: Images
    test: Images


@value
class DataSet(ABC):
    """A data set as a value: where it is, and which part of it is used; one file per data set in `bench/datasets`.

    With `train` the training split is a fixed random part of so many images. With `holdout`, for tuning, no test image
    is judged: one training image in `holdout`, always the same ones, is held out and judged in their place.
    """

    train: int | None = Field(default=None, ge=2)
    holdout: int | None = Field(default=None, ge=2)

    @abstractmethod
    def read(self) -> Splits:
        """Both splits whole, on the CPU; `index` is the position in the official split.

        Errors: `UserError` where files are missing or not what they should be.
        """

    def unlabelled(self) -> Images | None:
        """Images without labels (all of one class) that encoders are pretrained on in place of the training split.

        None where the data set has none or does not ask for them. Apart from `load`, since they can be many times the
        images that are finetuned and judged on. Errors: as `read`.
        """
        return None

    def load(self) -> Splits:
        """Both splits, on the CPU, of the parts that were asked for. Errors: as `read`; more asked than there is."""
        train, test = self.read()
        if train.classes < 2:
            raise UserError(f"{train.name}: one class, expected at least 2: nothing can be told apart")
        if self.holdout is not None:
            self._check("holdout", self.holdout, train)
            train, test = train.hold_out(self.holdout)
        if self.train is not None:
            self._check("train", self.train, train)
            train = train.sample(self.train)
        if train.shape != test.shape:
            raise UserError(f"{test.name}: images of shape {test.shape}, expected {train.shape} as in training")
        return Splits(train, test)

    def _check(self, field: str, asked: int, train: Images) -> None:
        if asked > len(train):
            raise UserError(f"{train.name}: {field} = {asked}, expected at most its {len(train)} training images")


def datasets() -> dict[str, type[DataSet]]:
    """The data sets by name."""
    return {name: find(PACKAGE, "data set", name, DataSet, "data") for name in names(PACKAGE)}


def read_dataset(table: Mapping[str, Any], where: str) -> DataSet:
    """The data set of a table such as `{name = "npz", path = "cifar10.npz"}`."""
    kind = find(PACKAGE, "data set", table.get("name"), DataSet, where)
    return read(kind, {key: entry for key, entry in table.items() if key != "name"}, where)


def open_image(file: Path, mode: str | None = None, size: int | None = None) -> NDArray[np.uint8]:
    """A picture as uint8 (channels, height, width): of the Pillow `mode` L or RGB, by default what the file is.

    With `size` it is resized to a square. Errors: `UserError` where the file is no readable picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert(mode or ("L" if opened.mode in ("L", "1") else "RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):  # Pillow's words for a broken file
        raise UserError(f"{file}: not a readable image") from None
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return _channels_first(np.asarray(image))


def resized(pixels: Tensor, size: int) -> Tensor:
    """uint8 (n, 1 or 3, height, width) to (n, ..., size, size), as torchvision's `Resize` does to a Pillow image.

    That is bilinear with a support that grows with the reduction, in Pillow's own integer arithmetic: the same bytes
    on every machine.
    """
    from PIL import Image

    made = np.empty((len(pixels), pixels.shape[1], size, size), dtype=np.uint8)
    for row, image in enumerate(pixels.numpy()):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)).squeeze(2 if len(image) == 1 else ()))
        made[row] = _channels_first(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
    return torch.from_numpy(made)


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width) or (height, width, channels) to (channels, height, width)."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
