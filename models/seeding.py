"""The only owner of where random numbers come from: every draw is keyed by (seed, purpose, image or iteration)."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustcl.models.share import Share


def derive(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose: equal arguments give equal seeds, on every machine and in every process."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one purpose."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))


class Draws(Protocol):
    """Where an ascent takes its random start from: rows of uniform numbers, one row per image."""

    def uniform(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) float32 in [0, 1)."""
        ...


class BatchDraws:
    """Draws for a whole batch from one generator, as training does: one key per iteration."""

    def __init__(self, source: torch.Generator) -> None:
        self.source = source

    def uniform(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) float32 in [0, 1), on the generator's device."""
        return torch.rand(rows, columns, generator=self.source, device=self.source.device)


class PartDraws:
    """The part of one process of the draws for a whole batch, which do not depend on who holds which images."""

    def __init__(self, whole: Draws, share: Share) -> None:
        self.whole, self.share = whole, share

    def uniform(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) float32 in [0, 1); the rows are those of one or several views of the part."""
        views = rows // self.share.sizes[self.share.rank]
        return self.share.take(self.whole.uniform(views * self.share.n, columns))


class ImageDraws:
    """Draws keyed by image, as judging does: the same for an image in every batch, order, shard and device."""

    def __init__(self, images: Sequence[int], seed: int, *purpose: str | int) -> None:
        self.sources = [generator(seed, *purpose, image) for image in images]

    def uniform(self, rows: int, columns: int) -> Tensor:
        """(rows, columns) float32 in [0, 1), on the CPU; row i belongs to image i."""
        if rows != len(self.sources):
            raise ValueError(f"draws: {rows} rows asked for {len(self.sources)} images")
        drawn = [torch.rand(columns, generator=source) for source in self.sources]
        return torch.stack(drawn) if drawn else torch.empty(0, columns)
