"""The only owner of Square's windows: their sides, images as flat rows, places in them, the bumps of l2 and l1."""

import math
from bisect import bisect_left

import torch
from torch import Tensor

_SHARE = 0.8  # of an image's pixels are in the first windows
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the last queries before the share is halved


class Grid:
    """Images (n, c, h, w) as flat rows (n, d), pixel by pixel where `last`, else channel by channel."""

    def __init__(self, shape: tuple[int, int, int], *, last: bool, device: torch.device) -> None:
        self.channels, self.height, self.width = self.shape = shape
        self.last, self.device = last, device
        self.size = math.prod(shape)
        pixels = self.height * self.width
        self.strides = (1, self.width * shape[0], shape[0]) if last else (pixels, self.width, 1)

    def flat(self, images: Tensor) -> Tensor:
        """(n, c, h, w) to (n, d), a copy where the order differs."""
        return (images.permute(0, 2, 3, 1) if self.last else images).reshape(len(images), self.size)

    def images(self, flat: Tensor) -> Tensor:
        """(n, d) to a view (n, c, h, w)."""
        return flat.as_strided((len(flat), *self.shape), (self.size, *self.strides))

    def side(self, query: int, least: int) -> int:
        """The side of the windows of a query (from 0): at least `least`, at most the image's shorter side."""
        share = _SHARE / 2 ** bisect_left(_HALVED, query)
        side = max(round(math.sqrt(share * self.height * self.width)), least)
        return min(side + (least > 1 and side % 2 == 0), self.height, self.width)

    def window(self, side: int) -> Tensor:
        """(side^2 * c,) places of the topmost, leftmost window in a flat image, pixel by pixel."""
        channel, row, column = self.strides
        line = torch.arange(side, device=self.device)
        channels = torch.arange(self.channels, device=self.device) * channel
        return ((line * row)[:, None, None] + (line * column)[:, None] + channels).flatten()

    def moved(self, row: Tensor, column: Tensor) -> Tensor:
        """How far in a flat image a window lies that is moved by so many pixels."""
        _, along, across = self.strides
        return torch.add(column if across == 1 else column * across, row, alpha=along)


def bumps(side: int, order: int, device: torch.device) -> Tensor:
    """(2, side, side) a hill above a hollow, and the same transposed; of length 1 in the norm of `order` (1 or 2)."""
    above = _hill(side // 2, side, order, device)
    below = _hill(side - side // 2, side, order, device)
    bump = torch.cat([above, -below])
    bump = bump / torch.linalg.vector_norm(bump, order)
    return torch.stack([bump, bump.T])


def _hill(rows: int, columns: int, order: int, device: torch.device) -> Tensor:
    """Ring around ring falls by 1/k^2 in l2 and by 1/k^4 in l1; of length 1."""
    high, wide = ((torch.arange(size, device=device) - size // 2).abs() for size in (rows, columns))
    ring = torch.maximum(high[:, None], wide[None, :])
    rings = torch.arange(1, max(rows, columns) // 2 + 2, device=device)
    heights = (1.0 / rings ** (4 if order == 1 else 2)).flip(0).cumsum(0).flip(0)
    hill: Tensor = heights[ring]
    return hill / torch.linalg.vector_norm(hill, order)
