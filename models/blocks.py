"""The only owner of what the residual networks share: blocks, stages, initialisation and the body they make up."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from robustcl.models.architecture import Body

Block = Callable[[int, int, int], nn.Module]
"""(channels in, channels out, stride) to a block that halves the map where the stride is 2."""


def convolution(channels: int, out: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution without bias; the padding defaults to the one that keeps the size at stride 1."""
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(channels, out, kernel, stride, padding, bias=False)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(convolution(channels, out, 1, stride), nn.BatchNorm2d(out))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    FOLDS = (("conv1", "bn1"), ("conv2", "bn2"))  # see `folding`

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels, out, 3, stride)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = convolution(out, out, 3)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, out, h / stride, w / stride), sizes rounded up."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions at a quarter of the output's channels; the stride is on the 3x3, as is usual."""

    FOLDS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        inner = out // 4
        self.conv1 = convolution(channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, out, 1)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, out, h / stride, w / stride), sizes rounded up."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def stages(block: Block, channels: int, widths: Iterable[int], counts: Iterable[int]) -> nn.Sequential:
    """One stage per width, of `counts` blocks each; every stage but the first begins with stride 2."""
    made: list[nn.Module] = []
    for width, count in zip(widths, counts, strict=True):
        strides = [2 if made else 1] + [1] * (count - 1)
        blocks = [block(channels if number == 0 else width, width, stride) for number, stride in enumerate(strides)]
        made.append(nn.Sequential(*blocks))
        channels = width
    return nn.Sequential(*made)


class Residual(Body):
    """Stem, stages, tail and the mean over the map, with Kaiming-normal fan-out convolutions (He et al., ICCV 2015).

    Batch norms start at weight 1 and bias 0, which is PyTorch's default.
    """

    def __init__(self, stem: nn.Module, middle: nn.Sequential, tail: nn.Module, width: int) -> None:
        super().__init__()
        self.stem, self.stages, self.tail, self.width = stem, middle, tail, width
        self.map_width = next(part.in_channels for part in middle[-1].modules() if isinstance(part, nn.Conv2d))
        initialise(self)

    def trunk(self, images: Tensor) -> Tensor:
        """The stem and all stages but the last: the stem alone where there is one stage."""
        x: Tensor = self.stem(images)
        for stage in list(self.stages)[:-1]:
            x = stage(x)
        return x

    def top(self) -> nn.Module:
        """The last stage, the tail and the mean over the map."""
        return nn.Sequential(self.stages[-1], self.tail, Mean())

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) of any size that the strides leave a pixel of, to (n, width)."""
        x: Tensor = self.tail(self.stages(self.stem(images)))
        return x.mean((2, 3))


class Mean(nn.Module):
    """The mean over the map."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c)."""
        return x.mean((2, 3))


def initialise(module: nn.Module) -> None:
    """Draw every convolution below `module` anew, from torch's global generator; set its batch norms to their start."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:  # a network without memory has nothing to draw
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
