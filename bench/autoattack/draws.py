"""The only owner of where the fast attacks draw from: a generator per image, or the package's draws, batch by batch."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustcl.models.seeding import generator

Shape = tuple[int, ...]
_BLOCK = 128  # queries whose numbers an image draws at once


class Source(Protocol):
    """Numbers for some images of a cohort: `at` (m,) are their places in it, in ascending order, on any device.

    Whoever draws names exactly the images that the released attack would draw for at this point: its draws depend on
    how many images of a batch are left.
    """

    def uniform(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 in [0, 1), on the device of the images."""
        ...

    def normal(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 standard normal, on the device of the images."""
        ...

    def query(self, at: Tensor, shared: int, own: int) -> Tensor:
        """(m, shared + own) float32 in [0, 1): `shared` are those that the package draws once for a whole batch."""
        ...


class Keyed:
    """Every image draws from a generator of its own: the same numbers in every batch, order, shard and process."""

    def __init__(self, images: Sequence[int], device: torch.device, seed: int, purpose: str) -> None:
        self.sources = [generator(seed, purpose, image) for image in images]
        self.device = device
        self.block, self.next = torch.empty(len(images), 0, device=device), 0

    def uniform(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 in [0, 1)."""
        return self._each(at, lambda source: torch.rand(shape, generator=source))

    def normal(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 standard normal."""
        return self._each(at, lambda source: torch.randn(shape, generator=source))

    def query(self, at: Tensor, shared: int, own: int) -> Tensor:
        """(m, shared + own) float32 in [0, 1), drawn in blocks, one tiny draw per image and query being slow.

        The images of a cohort go in step, so that the n-th query of an image finds the same numbers whoever is left.
        """
        count = shared + own
        if self.next + count > self.block.shape[1]:
            self.block = torch.empty(len(self.sources), _BLOCK * count, device=self.device)
            self.block[at] = self.uniform(at, (_BLOCK * count,))
            self.next = 0
        self.next += count
        return self.block[at, self.next - count : self.next]

    def _each(self, at: Tensor, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(self.sources[place]) for place in at.tolist()]).to(self.device)


class Replay:
    """The draws of the released package on a CPU, which seeds torch's generator anew for each of its batches.

    Place i of the cohort belongs to its batch i // `batch`.
    """

    def __init__(self, images: Sequence[int], device: torch.device, seed: int, batch: int) -> None:
        self.sources = [torch.Generator().manual_seed(seed) for _ in range(-(-len(images) // batch))]
        self.batch, self.device = batch, device

    def uniform(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 in [0, 1)."""
        return self._each(at, lambda source, n: torch.rand((n, *shape), generator=source))

    def normal(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 standard normal."""
        return self._each(at, lambda source, n: torch.randn((n, *shape), generator=source))

    def query(self, at: Tensor, shared: int, own: int) -> Tensor:
        """(m, shared + own) float32 in [0, 1): one draw for the batch, then its images' own."""

        def draw(source: torch.Generator, n: int) -> Tensor:
            common = torch.rand(shared, generator=source).expand(n, shared)
            return torch.cat([common, torch.rand((n, own), generator=source)], 1) if own else common

        return self._each(at, draw)

    def _each(self, at: Tensor, draw: Callable[[torch.Generator, int], Tensor]) -> Tensor:
        counts = torch.bincount(at // self.batch, minlength=len(self.sources)).tolist()
        parts = [draw(source, n) for source, n in zip(self.sources, counts, strict=True) if n]
        return torch.cat(parts).to(self.device)
