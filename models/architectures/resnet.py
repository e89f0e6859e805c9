"""ResNet-18, 34 and 50 (He et al., CVPR 2016) with the three stems of the field."""

from typing import Literal

from pydantic import Field
from torch import nn

from robustcl.models.architecture import WIDEST, Architecture, Body
from robustcl.models.blocks import Basic, Block, Bottleneck, Residual, convolution, stages
from robustcl.models.value import value

Stem = Literal["3x3", "3x3-pad2", "7x7"]


@value
class ResNet(Architecture):
    """Four stages of `width` times 1, 2, 4 and 8 channels; ResNet-18 at width 64 answers 512 features.

    `stem`: `3x3` keeps 32x32 maps (AdvCL, ACL, RoCL); `3x3-pad2` makes them 34x34 (DeACL, solo-learn), and weights
    trained with the one are not right in the other although they fit; `7x7` is ImageNet's, with its max-pool, used at
    96x96 and above (DynACL, AIR on STL-10).
    """

    depth: Literal[18, 34, 50] = 18
    width: int = Field(default=64, ge=1, le=WIDEST)
    stem: Stem = "3x3"

    def build(self, channels: int) -> Body:
        block: Block = Bottleneck if self.depth == 50 else Basic
        counts = (2, 2, 2, 2) if self.depth == 18 else (3, 4, 6, 3)
        expansion = 4 if self.depth == 50 else 1
        widths = [self.width * expansion * 2**number for number in range(4)]
        middle = stages(block, self.width, widths, counts)
        return Residual(_stem(self.stem, channels, self.width), middle, nn.Identity(), widths[-1])


def _stem(kind: Stem, channels: int, width: int) -> nn.Sequential:
    if kind == "7x7":
        first = convolution(channels, width, 7, stride=2)
        return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    first = convolution(channels, width, 3, padding=2 if kind == "3x3-pad2" else 1)
    return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU())
