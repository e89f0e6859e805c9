"""WideResNet-28 and 34 (Zagoruyko and Komodakis, BMVC 2016) as TRADES and RobustBench use it."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.architecture import Architecture, Body
from robustcl.models.blocks import Residual, convolution, stages
from robustcl.models.value import value


@value
class WideResNet(Architecture):
    """Three pre-activation stages of 16, 32 and 64 times `widen` channels; WRN-28-10 answers 640 features.

    Without dropout, as in adversarial training. TRADES' file also builds a fourth stage that its forward never
    calls: it is left out, so a checkpoint that has it must drop it.
    """

    depth: Literal[28, 34] = 28
    widen: int = Field(default=10, ge=1, le=100)

    def build(self, channels: int) -> Body:
        widths = [16 * self.widen * 2**number for number in range(3)]
        middle = stages(PreActivation, 16, widths, [(self.depth - 4) // 6] * 3)
        tail = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        return Residual(convolution(channels, 16, 3), middle, tail, widths[-1])


class PreActivation(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the raw input.
    """

    FOLDS = (("conv1", "bn2"),)  # the other norms follow a sum

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = convolution(channels, out, 3, stride)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = convolution(out, out, 3)
        same = stride == 1 and channels == out
        self.shortcut = None if same else convolution(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, out, h / stride, w / stride), sizes rounded up."""
        active = torch.relu(self.bn1(x))
        y: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))
