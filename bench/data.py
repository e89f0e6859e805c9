"""The only owner of data sets: a name to `Images` with their splits. Nothing is downloaded."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from robustcl.models.errors import UserError, unknown
from robustcl.models.value import read, value
from robustcl.pretraining.images import Images


class Splits(NamedTuple):
    """The training images, for pretraining and finetuning, and the test images, for judging alone."""

    train: Images
    test: Images


@value
class DataSet(ABC):
    """A data set as a value: where it is, and how it is read."""

    @abstractmethod
    def load(self) -> Splits:
        """Both splits, on the CPU. Errors: `UserError` where files are missing or not what they should be."""


@value
class Digits(DataSet):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey (UCI, Alpaydin and Kaynak 1998); they come with the package.

    Every fifth image is a test image (360 of them, `index` is the position in the whole set), the others train.
    """

    def load(self) -> Splits:
        from sklearn.datasets import load_digits

        held = load_digits()
        # 17 grey levels, 0 to 16
        pixels = torch.from_numpy(np.rint(held.images * (255 / 16)).astype(np.uint8))[:, None]
        labels, index = torch.from_numpy(held.target), torch.arange(len(held.target))
        whole = Images(pixels, labels, classes=10, index=index, name="digits")
        test = index % 5 == 0
        return Splits(whole.take(~test), whole.take(test))


@value
class Npz(DataSet):
    """A `.npz` with `train_images`, `train_labels`, `test_images`, `test_labels` and optionally `<split>_index`.

    Images are uint8 or float32 in [0, 1], of shape (n, height, width) or (n, height, width, channels). With `train`
    the training split is a fixed random part of so many images. With `holdout`, for tuning, no test image is judged:
    each `holdout`-th training image is held out of training and judged in their place.
    """

    path: Path
    train: int | None = Field(default=None, ge=2)
    holdout: int | None = Field(default=None, ge=2)

    def load(self) -> Splits:
        arrays = _read_npz(self.path)
        missing = {f"{split}_{part}" for split in ("train", "test") for part in ("images", "labels")} - set(arrays)
        if missing:
            raise UserError(f"{self.path}: missing array {sorted(missing)[0]}, found {', '.join(sorted(arrays))}")
        labels = [arrays["train_labels"], arrays["test_labels"]]
        odd = next((part for part in labels if part.dtype.kind not in "iu" or part.ndim != 1 or not len(part)), None)
        if odd is not None:
            shape = f"type {odd.dtype} and shape {odd.shape}"
            raise UserError(f"{self.path}: labels of {shape}, expected integers from 0, of shape (n,)")
        classes = int(max(part.max() for part in labels)) + 1
        train, test = (self._split(arrays, split, classes) for split in ("train", "test"))
        if self.holdout is not None:
            if self.holdout > len(train):
                raise UserError(
                    f"{self.path}: holdout = {self.holdout}, expected at most its {len(train)} training images"
                )
            train, test = train.hold_out(self.holdout)
        if self.train is not None:
            if self.train > len(train):
                raise UserError(f"{self.path}: train = {self.train}, expected at most its {len(train)} training images")
            train = train.sample(self.train)
        if train.shape != test.shape:
            raise UserError(f"{self.path}: test images of shape {test.shape}, expected {train.shape} as in training")
        return Splits(train, test)

    def _split(self, arrays: Mapping[str, Any], split: str, classes: int) -> Images:
        index = arrays.get(f"{split}_index")
        return Images(
            _channels_first(arrays[f"{split}_images"], str(self.path)),
            torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)),
            classes=classes,
            index=None if index is None else torch.from_numpy(index.astype(np.int64)),
            name=f"{self.path.stem} {split}",
        )


@value
class Folder(DataSet):
    """An image folder `<path>/train/<class>/*` and `<path>/test/<class>/*`; classes are the folders' names in order.

    `size` is the side to which every image is resized (bilinear); without it all must have one size.
    """

    path: Path
    size: int | None = Field(default=None, ge=1)

    def load(self) -> Splits:
        roots = [self.path / split for split in ("train", "test")]
        for root in roots:
            if not root.is_dir():
                raise UserError(f"{root}: no such folder, expected {self.path}/train and {self.path}/test")
        classes = sorted(folder.name for folder in roots[0].iterdir() if folder.is_dir())
        other = sorted(folder.name for folder in roots[1].iterdir() if folder.is_dir())
        if not classes or not set(other) <= set(classes):
            odd = sorted(set(other) - set(classes))
            raise UserError(f"{roots[1]}: classes {odd or 'missing'}, expected those of {roots[0]}")
        train, test = (self._split(root, classes) for root in roots)
        if train.shape != test.shape:
            raise UserError(f"{roots[1]}: images of shape {test.shape}, expected {train.shape} as in {roots[0]}")
        return Splits(train, test)

    def _split(self, root: Path, classes: list[str]) -> Images:
        files = [(file, label) for label, name in enumerate(classes) for file in _images(root / name)]
        if not files:
            raise UserError(f"{root}: no images, expected {root}/<class>/*.png or *.jpg")
        pixels = [_open(file, self.size) for file, _ in files]
        odd = next((f for (f, _), p in zip(files, pixels, strict=True) if p.shape != pixels[0].shape), None)
        if odd is not None:
            raise UserError(f"{odd}: of another size than {files[0][0]}, expected one size; set size = <side>")
        labels = torch.tensor([label for _, label in files])
        return Images(torch.stack(pixels), labels, classes=len(classes), name=f"{self.path.name} {root.name}")


def datasets() -> dict[str, type[DataSet]]:
    """The data sets by name."""
    return {"digits": Digits, "npz": Npz, "folder": Folder}


def read_dataset(table: Mapping[str, Any], where: str) -> DataSet:
    """The data set of a table such as `{name = "npz", path = "cifar10.npz"}`."""
    known, name = datasets(), str(table.get("name"))
    if name not in known:
        raise unknown(where, "data set", name, known)
    return read(known[name], {key: entry for key, entry in table.items() if key != "name"}, where)


def _read_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected an .npz with train_images, train_labels and the same of test")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:  # TypeError: a lone .npy
        raise UserError(f"{path}: not a readable .npz ({str(error).splitlines()[0][:100]})") from None


def _channels_first(images: Any, where: str) -> Tensor:
    if images.ndim not in (3, 4) or images.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{where}: images of shape {images.shape} and type {images.dtype}, "
            "expected (n, height, width) or (n, height, width, channels), uint8 or float32"
        )
    whole = torch.from_numpy(np.ascontiguousarray(images))
    return whole[:, None] if whole.dim() == 3 else whole.permute(0, 3, 1, 2).contiguous()


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    kinds = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds)


def _open(file: Path, size: int | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            grey = opened.mode in ("L", "1")
            image = opened.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):  # Pillow's words for a broken file
        raise UserError(f"{file}: not a readable image") from None
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if grey else pixels.permute(2, 0, 1)
