"""The only owner of `Images`: an image set in memory with labels, index and fingerprint, and its batches."""

import functools
import hashlib

import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.seeding import generator

MOST = 2**15  # classes: labels and answers of records are int16


class Images:
    """Images (n, channels, height, width) as uint8, or as float32 in [0, 1]; labels (n,); `index` (n,).

    `index` is the position in the official split, so that a part of a set still says which images it holds.
    Errors: `UserError` for another shape or range, NaN, and labels outside the classes.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, *, classes: int, index: Tensor | None = None, name: str) -> None:
        check_pixels(pixels, name)
        if classes > MOST:
            raise UserError(f"{name}: {classes} classes, expected at most {MOST}, which is what records hold")
        if labels.shape != (len(pixels),):
            raise UserError(f"{name}: labels of shape {tuple(labels.shape)}, expected ({len(pixels)},)")
        labels = _integers(labels, name, "labels").to(torch.int64)
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            raise UserError(f"{name}: label {int(labels[wrong][0])}, expected 0 to {classes - 1} ({classes} classes)")
        self.pixels, self.labels, self.classes, self.name = pixels, labels, classes, name
        self.index = torch.arange(len(pixels)) if index is None else _integers(index, name, "index").to(torch.int64)
        if self.index.shape != labels.shape or len(self.index.unique()) != len(labels):
            raise UserError(f"{name}: index of shape {tuple(self.index.shape)}, expected {len(labels)} numbers, unique")
        if int(self.index.min()) < 0 or int(self.index.max()) >= 2**31:
            raise UserError(f"{name}: index from {int(self.index.min())}, expected positions from 0 to 2147483647")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of pixels, labels and index: the identity of the content."""
        found = hashlib.sha256(str((tuple(self.pixels.shape), self.pixels.dtype, self.classes)).encode())
        for part in (self.pixels, self.labels, self.index):
            found.update(part.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def floats(self, rows: Tensor | slice) -> Tensor:
        """(len(rows), channels, height, width) float32 in [0, 1]."""
        pixels = self.pixels[rows]
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    def take(self, rows: Tensor | slice) -> "Images":
        """The images in these rows, with their place in the official split."""
        part = (self.pixels[rows], self.labels[rows])
        return Images(*part, classes=self.classes, index=self.index[rows], name=self.name)

    def sample(self, n: int) -> "Images":
        """`n` images at random, always the same ones, in their old order; sets that are sorted by class stay mixed."""
        if n >= len(self):
            return self
        return self.take(torch.randperm(len(self), generator=generator(0, "sample"))[:n].sort().values)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`."""
        part = (self.pixels.to(device), self.labels.to(device))
        return Images(*part, classes=self.classes, index=self.index.to(device), name=self.name)

    def hold_out(self, every: int) -> tuple["Images", "Images"]:
        """All but one image in `every`, and that part: always the same ones, at random, to choose on.

        At random, since a set whose order cycles through its classes would lose a whole one to each `every`-th image.
        """
        drawn = torch.randperm(len(self), generator=generator(0, "hold out"))[: len(self) // every]
        held = torch.zeros(len(self), dtype=torch.bool).index_fill_(0, drawn, True)
        return self.take(~held), self.take(held)


def _integers(given: Tensor, name: str, what: str) -> Tensor:
    if given.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise UserError(f"{name}: {what} of type {given.dtype}, expected integers from 0")
    return given


def check_pixels(pixels: Tensor, name: str) -> None:
    """Errors: `UserError` for images of another shape, type or range than those of `Images`, and for none."""
    if pixels.dim() != 4 or 0 in pixels.shape:
        raise UserError(f"{name}: images of shape {tuple(pixels.shape)}, expected (n, channels, height, width), n > 0")
    if pixels.dtype == torch.uint8:
        return
    if pixels.dtype != torch.float32:
        raise UserError(f"{name}: images of type {pixels.dtype}, expected float32 in [0, 1] or uint8")
    if not torch.isfinite(pixels).all():
        where = int((~torch.isfinite(pixels)).flatten(1).any(1).nonzero()[0])
        raise UserError(f"{name}: NaN or infinity in image {where}, expected numbers in [0, 1]")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        hint = "; is the normalisation inside the model?" if low < 0 else "; are they 0 to 255?" if high > 2 else ""
        raise UserError(f"{name}: images from {low:.4g} to {high:.4g}, expected [0, 1]{hint}")
