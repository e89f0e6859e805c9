"""The only owner of where the fast attacks draw from: a generator per image, or the package's draws, batch by batch."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustcl.bench.autoattack import reference
from robustcl.bench.autoattack.ball import l1_change
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

    def waste(self, at: Tensor, shape: Shape) -> None:
        """Normal numbers that the package draws and does not use."""
        ...

    def query(self, at: Tensor, shared: int, own: int) -> Tensor:
        """(m, shared + own) float32 in [0, 1): `shared` are those that the package draws once for a whole batch."""
        ...

    def l1_back(self, x: Tensor, change: Tensor, radius: float) -> Tensor:
        """What has to be added to `change` (m, ...) so that `x` stays in the box and within `radius` in l1."""
        ...


class Keyed:
    """Every image draws from a generator of its own: the same numbers in every batch, order, shard and process."""

    def __init__(self, images: Sequence[int], device: torch.device, seed: int, purpose: str) -> None:
        self.sources = [generator(seed, purpose, image) for image in images]
        self.device = device
        self.block, self.next = torch.empty(len(images), 0, device=device), 0
        self.at: Tensor | None = None  # whose rows of the block are in `left`
        self.left = self.block

    def uniform(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 in [0, 1)."""
        return self._each(at, lambda source: torch.rand(shape, generator=source))

    def normal(self, at: Tensor, shape: Shape) -> Tensor:
        """(m, *shape) float32 standard normal."""
        return self._each(at, lambda source: torch.randn(shape, generator=source))

    def waste(self, at: Tensor, shape: Shape) -> None:
        """Nothing: what nobody uses need not be drawn."""

    def l1_back(self, x: Tensor, change: Tensor, radius: float) -> Tensor:
        """By our own projection."""
        return l1_change(x, change, radius) - change

    def query(self, at: Tensor, shared: int, own: int) -> Tensor:
        """(m, shared + own) float32 in [0, 1), drawn in blocks, one tiny draw per image and query being slow.

        The images of a cohort go in step, so that the n-th query of an image finds the same numbers whoever is left.
        """
        count = shared + own
        if self.next + count > self.block.shape[1]:
            self.block = torch.empty(len(self.sources), _BLOCK * count, device=self.device)
            self.block[at] = self.uniform(at, (_BLOCK * count,))
            self.next, self.at = 0, None
        if self.at is not at:
            self.at, self.left = at, self.block.index_select(0, at)
        self.next += count
        return self.left[:, self.next - count : self.next]

    def _each(self, at: Tensor, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(self.sources[place]) for place in at.tolist()]).to(self.device)


class Replay:
    """The draws of the released package on a CPU, which seeds torch's generator anew for each of its batches.

    With them goes its l1 projection: the other one is as near, and rounds otherwise.
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

    def waste(self, at: Tensor, shape: Shape) -> None:
        """As many as the package."""
        self.normal(at, shape)

    def l1_back(self, x: Tensor, change: Tensor, radius: float) -> Tensor:
        """By the package's projection: its attacks count pixels whose change is its rounding error."""
        back: Tensor = reference.l1_projection()(x, change, radius)
        return back

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
