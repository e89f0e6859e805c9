"""The only owner of the data set `tiny_imagenet`."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from robustcl.bench.data import Splits, open_image
from robustcl.bench.fetch import Archive
from robustcl.bench.official import Official, inside
from robustcl.models.errors import UserError
from robustcl.models.naming import is_file_name
from robustcl.models.value import value
from robustcl.pretraining.images import Images

ARCHIVE = Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    folder="tiny-imagenet-200",
)


@value
class TinyImagenet(Official):
    """Tiny-ImageNet (CS231n, Stanford): 100,000 training images and 10,000 of `val` to test on, 64 x 64, 200 classes.

    Official files in `<path>/tiny-imagenet-200`, as they are in the archive; the labels of its `test` are not public.
    Classes are the names in wnids.txt, sorted, which is how image folders are read elsewhere: published classifiers
    answer in this order. Grey pictures, of which there are some, are read as RGB. `size` is the side that images are
    given. `index` of the training split counts classes in order and pictures by their number; of the test split it
    counts the lines of val_annotations.txt.
    """

    size: int = Field(default=64, ge=1)

    def read(self) -> Splits:
        home = inside(self.path, ARCHIVE.folder)
        known = sorted(self._lines(home / "wnids.txt"))
        strange = next((name for name in known if not is_file_name(name)), None)
        if strange is not None:
            raise UserError(f"{home / 'wnids.txt'}: '{strange}' is no class, expected names such as n01443537")
        classes = {name: label for label, name in enumerate(known)}
        train = [(file, label) for name, label in classes.items() for file in self._pictures(home / "train" / name)]
        fields = [line.split("\t") for line in self._lines(home / "val" / "val_annotations.txt")]
        wrong = [len(of) < 2 or of[1] not in classes or not is_file_name(of[0]) for of in fields]
        odd = next((number for number, is_wrong in enumerate(wrong, 1) if is_wrong), None)
        if odd is not None:
            raise UserError(
                f"{home / 'val' / 'val_annotations.txt'}: line {odd} is wrong, expected a picture and a class of "
                "wnids.txt, with a tab between them"
            )
        test = [(home / "val" / "images" / of[0], classes[of[1]]) for of in fields]
        return Splits(self._images(train, len(classes), "train"), self._images(test, len(classes), "val"))

    def _pictures(self, folder: Path) -> list[Path]:
        """The pictures of a class, `<name>_<number>.JPEG`, by their number."""
        found = list((folder / "images").glob("*.JPEG"))
        if not found:
            raise self.missing(folder / "images", ["*.JPEG"])
        return sorted(found, key=lambda file: (int(re.sub(r".*_|\D", "", file.stem) or 0), file.name))

    def _lines(self, file: Path) -> list[str]:
        if not file.is_file():
            raise self.missing(file, ["wnids.txt", "train/<class>/images/*.JPEG", "val/val_annotations.txt"])
        try:
            return file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{file}: not text, expected the official file") from None

    def _images(self, held: Sequence[tuple[Path, int]], classes: int, name: str) -> Images:
        pixels = np.empty((len(held), 3, self.size, self.size), dtype=np.uint8)
        for row, (file, _) in enumerate(held):
            pixels[row] = open_image(file, "RGB", self.size)
        labels = torch.tensor([label for _, label in held])
        return Images(torch.from_numpy(pixels), labels, classes=classes, name=f"tiny_imagenet {name}")

    @staticmethod
    def fetch(folder: Path) -> None:
        ARCHIVE.fetch(folder)
