"""The only owner of the data set `npz`: arrays of somebody's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcl.bench.data import DataSet, Splits
from robustcl.models.arrays import read_arrays
from robustcl.models.errors import UserError
from robustcl.models.value import value
from robustcl.pretraining.images import Images


@value
class Npz(DataSet):
    """A `.npz` with `train_images`, `train_labels`, `test_images`, `test_labels` and optionally `<split>_index`.

    Images are uint8 or float32 in [0, 1], of shape (n, height, width) or (n, height, width, channels).
    """

    path: Path

    def read(self) -> Splits:
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
        return Splits(*(self._split(arrays, split, classes) for split in ("train", "test")))

    def _split(self, arrays: Mapping[str, Any], split: str, classes: int) -> Images:
        index = arrays.get(f"{split}_index")
        if index is not None and index.dtype.kind not in "iu":
            raise UserError(f"{self.path}: {split}_index of type {index.dtype}, expected integers")
        return Images(
            _channels_first(arrays[f"{split}_images"], str(self.path)),
            torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)),
            classes=classes,
            index=None if index is None else torch.from_numpy(index.astype(np.int64)),
            name=f"{self.path.stem} {split}",
        )


def _read_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected an .npz with train_images, train_labels and the same of test")
    try:
        return read_arrays(path)
    except ValueError as error:
        raise UserError(f"{path}: not a readable .npz ({error})") from None


def _channels_first(images: Any, where: str) -> Tensor:
    if images.ndim not in (3, 4) or images.dtype not in (np.uint8, np.float32):
        raise UserError(
            f"{where}: images of shape {images.shape} and type {images.dtype}, "
            "expected (n, height, width) or (n, height, width, channels), uint8 or float32"
        )
    whole = torch.from_numpy(np.ascontiguousarray(images))
    return whole[:, None] if whole.dim() == 3 else whole.permute(0, 3, 1, 2).contiguous()
