"""The only owner of Square's windows: their sides, images as flat rows, places in them."""

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
        """(c, side^2) places of the topmost, leftmost window in a flat image."""
        channel, row, column = self.strides
        line, channels = (torch.arange(n, device=self.device) for n in (side, self.channels))
        pixels = (line * row)[:, None] + line * column
        return channels[:, None] * channel + pixels.flatten()

    def moved(self, row: Tensor, column: Tensor) -> Tensor:
        """How far in a flat image a window lies that is moved by so many pixels."""
        _, along, across = self.strides
        return torch.add(column if across == 1 else column * across, row, alpha=along)
