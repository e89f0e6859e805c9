"""The only owner of small files in the official formats of data sets, and of their checksums in place of the real ones.

Every image is black but for one point, at `point(split, number)`, so that swapped axes and another order show.
"""

import gzip
import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustcl.bench.datasets import mnist
from robustcl.models.vision import torchvision

SPLITS = {"train": 10, "test": 6, "unlabelled": 5}
Bytes = NDArray[np.uint8]


def point(split: str, number: int) -> tuple[int, int, int, int]:
    """(channel, row, column, value) of the one point of an image."""
    start = list(SPLITS).index(split) * 7
    return number % 3, (start + number) % 23, (start + 3 * number + 11) % 28, 100 + start + number


def label(split: str, number: int, classes: int = 10) -> int:
    """The label of an image."""
    return (7 * number + len(split)) % classes


def expected(split: str, size: int, channels: int = 3) -> Tensor:
    """The images of a split as `Images` hold them: uint8 (n, channels, size, size)."""
    made = torch.zeros(SPLITS[split], channels, size, size, dtype=torch.uint8)
    for number in range(SPLITS[split]):
        channel, row, column, value = point(split, number)
        made[number, channel % channels, row, column] = value
    return made


def flat(split: str, size: int, place: Callable[[int, int, int], int], channels: int = 3) -> Bytes:
    """The images as rows of bytes, where `place` says at which byte channel, row and column stand."""
    made = np.zeros((SPLITS[split], channels * size * size), dtype=np.uint8)
    for number in range(SPLITS[split]):
        channel, row, column, value = point(split, number)
        made[number, place(channel % channels, row, column)] = value
    return made


class Python2(pickle._Pickler):
    """Writes `bytes` as the strings of Python 2 (opcode T), which is what the official files hold."""

    def save_string(self, held: bytes) -> None:
        """Its opcode, its length, itself."""
        getattr(self, "write")(b"T" + len(held).to_bytes(4, "little") + held)  # noqa: B009 (typeshed has it not)

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, bytes: save_string}


def python2(held: dict[bytes, Any]) -> bytes:
    """A pickle as Python 2 wrote it."""
    buffer = io.BytesIO()
    Python2(buffer, protocol=2).dump(held)
    return buffer.getvalue()


def cifar(folder: Path, patch: pytest.MonkeyPatch, fine: bool) -> Path:
    """The python version: pickled batches of rows of 3,072 bytes, red, green, blue, each row by row."""
    kind = torchvision().datasets.CIFAR100 if fine else torchvision().datasets.CIFAR10
    below = folder / kind.base_folder
    below.mkdir(parents=True)
    rows = {split: flat(split, 32, lambda c, r, k: 1024 * c + 32 * r + k) for split in ("train", "test")}
    classes, key = (100, b"fine_labels") if fine else (10, b"labels")
    parts = {"train": [file for file, _ in kind.train_list], "test": [file for file, _ in kind.test_list]}
    for split, files in parts.items():
        numbers = np.array_split(np.arange(SPLITS[split]), len(files))
        for file, of in zip(files, numbers, strict=True):
            labels = [label(split, int(number), classes) for number in of]
            coarse = {b"coarse_labels": [0] * len(of)} if fine else {}
            held = {b"data": rows[split][of], key: labels, **coarse, b"batch_label": b"", b"filenames": [b""] * len(of)}
            (below / file).write_bytes(python2(held))
    (below / kind.meta["filename"]).write_bytes(python2({kind.meta["key"].encode(): [b"a"] * classes}))
    for name in ("train_list", "test_list"):
        patch.setattr(kind, name, [[file, digest(below / file)] for file, _ in getattr(kind, name)])
    patch.setattr(kind, "meta", kind.meta | {"md5": digest(below / kind.meta["filename"])})
    return folder


def stl10(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """The binary version: 27,648 bytes an image, red, green, blue, each column by column; labels from 1."""
    kind = torchvision().datasets.STL10
    below = folder / kind.base_folder
    below.mkdir(parents=True)
    for split, file in (("train", "train"), ("test", "test"), ("unlabelled", "unlabeled")):
        flat(split, 96, lambda c, r, k: 9216 * c + 96 * k + r).tofile(below / f"{file}_X.bin")
        if split != "unlabelled":
            labels = [1 + label(split, number) for number in range(SPLITS[split])]
            np.array(labels, dtype=np.uint8).tofile(below / f"{file}_y.bin")
    for name in ("train_list", "test_list"):
        patch.setattr(kind, name, [[file, digest(below / file)] for file, _ in getattr(kind, name)])
    return folder


def svhn(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """MATLAB files: X of shape (row, column, channel, image), y of shape (n, 1), where the digit 0 is 10."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    kind = torchvision().datasets.SVHN
    files = dict(kind.split_list)
    for split in ("train", "test"):
        pixels = np.zeros((32, 32, 3, SPLITS[split]), dtype=np.uint8)
        for number in range(SPLITS[split]):
            channel, row, column, value = point(split, number)
            pixels[row, column, channel, number] = value
        labels = [[label(split, number) or 10] for number in range(SPLITS[split])]
        url, file, _ = files[split]
        savemat(folder / file, {"X": pixels, "y": np.array(labels, dtype=np.uint8)})
        files[split] = [url, file, digest(folder / file)]
    patch.setattr(kind, "split_list", files)
    return folder


def idx(folder: Path, patch: pytest.MonkeyPatch, packed: bool) -> Path:
    """IDX files: a big-endian head with the shape, then the bytes, row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for split, file in (("train", "train"), ("test", "t10k")):
        n = SPLITS[split]
        pixels = flat(split, 28, lambda c, r, k: 28 * r + k, channels=1)
        labels = bytes(label(split, number) for number in range(n))
        contents = {
            f"{file}-images-idx3-ubyte": b"\0\0\x08\x03"
            + np.array([n, 28, 28], dtype=">i4").tobytes()
            + pixels.tobytes(),
            f"{file}-labels-idx1-ubyte": b"\0\0\x08\x01" + np.array([n], dtype=">i4").tobytes() + labels,
        }
        for name, content in contents.items():
            checksums[name] = md5(content)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    patch.setattr(mnist, "CHECKSUMS", checksums)
    return folder


WNIDS = ("n03", "n01", "n02")  # as in the official file, not in order


def tiny_imagenet(folder: Path, side: int = 64) -> Path:
    """The unpacked archive: pictures of three classes, the last training one grey, annotations with boxes."""
    below = folder / "tiny-imagenet-200"
    (below / "val" / "images").mkdir(parents=True)
    (below / "wnids.txt").write_text("".join(f"{name}\n" for name in WNIDS))
    for number, name in enumerate(("n01", "n02", "n03")):
        (below / "train" / name / "images").mkdir(parents=True)
        for picture in (0, 2, 10):
            colour = (40 + 60 * number, 5 * picture, 0)
            image = Image.new("RGB", (side, side), colour) if (number, picture) != (2, 10) else grey(side)
            image.save(below / "train" / name / "images" / f"{name}_{picture}.JPEG", quality=95)
    lines = []
    for number, name in enumerate(("n02", "n02", "n03", "n01")):
        half(side, 60 * number).save(below / "val" / "images" / f"val_{number}.JPEG", quality=95)
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t{side - 1}\t{side - 1}\n")
    (below / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def grey(side: int) -> Image.Image:
    """A grey picture."""
    return Image.new("L", (side, side), 90)


def half(side: int, red: int) -> Image.Image:
    """A picture whose upper half is blue, with so much red all over."""
    made = Image.new("RGB", (side, side), (red, 0, 0))
    made.paste((red, 0, 250), (0, 0, side, side // 2))
    return made


def digest(file: Path) -> str:
    """The MD5 of a file."""
    return md5(file.read_bytes())


def md5(content: bytes) -> str:
    """The MD5 of a content."""
    return hashlib.md5(content).hexdigest()


WRITERS: Mapping[str, Callable[[Path, pytest.MonkeyPatch], Path]] = {
    "cifar10": lambda folder, patch: cifar(folder, patch, fine=False),
    "cifar100": lambda folder, patch: cifar(folder, patch, fine=True),
    "stl10": stl10,
    "svhn": svhn,
    "mnist": lambda folder, patch: idx(folder / "MNIST" / "raw", patch, packed=False).parent.parent,
    "tiny_imagenet": lambda folder, patch: tiny_imagenet(folder),
}
"""What writes each official data set into a folder."""
