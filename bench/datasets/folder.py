"""The only owner of the data set `folder`: pictures of somebody's own, one folder per class."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from robustcl.bench.data import DataSet, Splits, open_image
from robustcl.models.errors import UserError
from robustcl.models.value import value
from robustcl.pretraining.images import Images


@value
class Folder(DataSet):
    """An image folder `<path>/train/<class>/*` and `<path>/test/<class>/*`; classes are the folders' names in order.

    `size` is the side to which every image is resized (bilinear); without it all must have one size.
    """

    path: Path
    size: int | None = Field(default=None, ge=1)

    def read(self) -> Splits:
        roots = [self.path / split for split in ("train", "test")]
        for root in roots:
            if not root.is_dir():
                raise UserError(f"{root}: no such folder, expected {self.path}/train and {self.path}/test")
        classes = sorted(folder.name for folder in roots[0].iterdir() if folder.is_dir())
        other = sorted(folder.name for folder in roots[1].iterdir() if folder.is_dir())
        if not classes or not set(other) <= set(classes):
            odd = sorted(set(other) - set(classes))
            raise UserError(f"{roots[1]}: classes {odd or 'missing'}, expected those of {roots[0]}")
        return Splits(*(self._split(root, classes) for root in roots))

    def _split(self, root: Path, classes: list[str]) -> Images:
        files = [(file, label) for label, name in enumerate(classes) for file in _images(root / name)]
        if not files:
            raise UserError(f"{root}: no images, expected {root}/<class>/*.png or *.jpg")
        pixels = [open_image(file, size=self.size) for file, _ in files]
        odd = next((f for (f, _), p in zip(files, pixels, strict=True) if p.shape != pixels[0].shape), None)
        if odd is not None:
            raise UserError(f"{odd}: of another size than {files[0][0]}, expected one size; set size = <side>")
        labels = torch.tensor([label for _, label in files])
        name = f"{self.path.name} {root.name}"
        return Images(torch.from_numpy(np.stack(pixels)), labels, classes=len(classes), name=name)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    kinds = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds)
