"""The small residual encoder of the quick start, for 8x8 images."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from robustcl.models.architecture import WIDEST, Architecture, Body
from robustcl.models.blocks import Basic, Residual, convolution, stages
from robustcl.models.value import value

Count = Annotated[int, Field(gt=0, le=100)]


@value
class Tiny(Architecture):
    """A 3x3 stem of `stride` and one stage per entry of `blocks`, each twice as wide and half as large as the last.

    The defaults cost 0.13 MMAC for an image of 1x8x8 and answer 32 features; `stride=1` costs 0.53 MMAC, above the
    0.3 MMAC that a quick start on two CPU cores can afford.
    """

    width: int = Field(default=16, ge=1, le=WIDEST)
    blocks: tuple[Count, ...] = Field(default=(1, 1), min_length=1, max_length=8)
    stride: Literal[1, 2] = 2

    def build(self, channels: int) -> Body:
        stem = nn.Sequential(convolution(channels, self.width, 3, self.stride), nn.BatchNorm2d(self.width), nn.ReLU())
        widths = [self.width * 2**number for number in range(len(self.blocks))]
        return Residual(stem, stages(Basic, self.width, widths, self.blocks), nn.Identity(), widths[-1])
