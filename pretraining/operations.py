"""The only owner of the augmentations that a recipe is made of: pure functions of images and of uniform numbers.

Each takes a batch (n, c, h, w) in [0, 1] and `draws` uniform numbers per image, and equals torchvision's for tensors,
called on each image with the same parameters.
"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.errors import UserError
from robustcl.models.value import value

Interpolation = Literal["bilinear", "bicubic"]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Aspect = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@value
class RandomResizedCrop:
    """A window of a random share `scale` of the area and a random aspect `ratio`, resized to the size of the image.

    Ten tries at a window that fits, then the largest central one, as in torchvision. Antialiasing is torchvision's
    default for tensors, so `bicubic` has a = -0.5, Pillow's. Bicubic overshoots: the result is clipped to [0, 1],
    which torchvision leaves to the caller and Pillow's 8 bits did for ACL.
    """

    draws: ClassVar[int] = 22

    name: Literal["crop"] = "crop"
    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Aspect, Aspect] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _ordered(self) -> "RandomResizedCrop":
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise ValueError(f"scale {self.scale} and ratio {self.ratio}, expected the smaller number first")
        return self

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, c, h, w) and (n, 22) uniform to (n, c, h, w)."""
        height, width = images.shape[-2:]
        top, left, rows, columns = self.windows(height, width, numbers)
        down = _resampling(top, rows, height, self.interpolation)
        across = _resampling(left, columns, width, self.interpolation)
        made = down[:, None] @ images @ across[:, None].transpose(2, 3)
        return made.clamp(0, 1) if self.interpolation == "bicubic" else made

    def windows(self, height: int, width: int, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n,) top, left, height and width of the windows, whole pixels as floats, from (n, 22) uniform numbers."""
        area = height * width * _between(numbers[:, :10], *self.scale)
        aspect = _between(numbers[:, 10:20], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        columns, rows = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
        first = fits.int().argmax(1, keepdim=True)  # 0 where none fits
        found = fits.any(1)
        central = max(self.ratio[0], min(self.ratio[1], width / height))
        whole = (min(height, round(width / central)), min(width, round(height * central)))
        rows = torch.where(found, rows.gather(1, first).squeeze(1), whole[0])
        columns = torch.where(found, columns.gather(1, first).squeeze(1), whole[1])
        top = torch.where(found, _whole(numbers[:, 20], height - rows + 1), (height - rows).div(2).floor())
        left = torch.where(found, _whole(numbers[:, 21], width - columns + 1), (width - columns).div(2).floor())
        return top, left, rows, columns


@value
class PadCrop:
    """A random window of the image's own size out of the image with `padding` black pixels around it."""

    draws: ClassVar[int] = 2

    name: Literal["pad-crop"] = "pad-crop"
    padding: PositiveInt = 4

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, c, h, w) and (n, 2) uniform to (n, c, h, w)."""
        n, c, height, width = images.shape
        start = _whole(numbers, 2 * self.padding + 1).long()
        rows = start[:, :1] + torch.arange(height, device=images.device)
        columns = start[:, 1:] + torch.arange(width, device=images.device)
        padded = F.pad(images, (self.padding,) * 4)
        padded = padded.gather(2, rows[:, None, :, None].expand(n, c, height, padded.shape[3]))
        return padded.gather(3, columns[:, None, None, :].expand(n, c, height, width))


@value
class Flip:
    """Left becomes right with probability `p`."""

    draws: ClassVar[int] = 1

    name: Literal["flip"] = "flip"
    p: Probability = 0.5

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, c, h, w) and (n, 1) uniform to (n, c, h, w)."""
        return torch.where(_column(numbers[:, 0] < self.p), images.flip(3), images)


@value
class ColorJitter:
    """With probability `p`, brightness, contrast, saturation and hue change, in a random order for each image.

    Factors are uniform in [max(0, 1 - s), 1 + s], the hue's shift in [-hue, hue] turns. Brightness, contrast and
    saturation clip to [0, 1] as they go. Images of one channel have no saturation and no hue to change.
    """

    draws: ClassVar[int] = 9

    name: Literal["jitter"] = "jitter"
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: float = Field(default=0.1, ge=0, le=0.5)
    p: Probability = 0.8

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 1 or 3, h, w) and (n, 9) uniform to (n, 1 or 3, h, w)."""
        applied = numbers[:, 0] < self.p
        # A factor of 1 leaves an image in [0, 1] exactly as it is.
        strengths = (self.brightness, self.contrast, self.saturation if images.shape[1] > 1 else 0.0)
        factors = torch.stack([_factor(numbers[:, 1 + at], strength) for at, strength in enumerate(strengths)], dim=1)
        factors = torch.where(applied[:, None], factors, 1.0)
        shift = _between(numbers[:, 4], -self.hue, self.hue)
        order = numbers[:, 5:].argsort(1)  # (n, 4): which of brightness 0, contrast 1, saturation 2, hue 3 comes when
        for now in order.unbind(1):
            images = _blend(images, now, factors)
            if self.hue and images.shape[1] > 1:
                images = _some(_hue, images, applied & (now == 3), shift)
        return images


@value
class Grayscale:
    """With probability `p`, all channels become the luminance."""

    draws: ClassVar[int] = 1

    name: Literal["gray"] = "gray"
    p: Probability = 0.2

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 1 or 3, h, w) and (n, 1) uniform to (n, 1 or 3, h, w)."""
        return torch.where(_column(numbers[:, 0] < self.p), _gray(images), images)


Operation = Annotated[RandomResizedCrop | PadCrop | Flip | ColorJitter | Grayscale, Field(discriminator="name")]


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers


def _factor(numbers: Tensor, strength: float) -> Tensor:
    return _between(numbers, max(0.0, 1 - strength), 1 + strength)


def _whole(numbers: Tensor, count: Tensor | int) -> Tensor:
    """Uniform whole numbers in [0, count), as floats. At most 1 - 2^-24 each, no product rounds up to `count`."""
    return (numbers * count).floor()


def _column(per_image: Tensor) -> Tensor:
    return per_image.view(-1, 1, 1, 1)


def _resampling(start: Tensor, length: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """(n, size, size): row i weighs the pixels that pixel i of the resized window is made of.

    A window is never larger than the image, so this never shrinks and antialiasing never widens the kernel; what it
    does is to cut the kernel off at the window's edge and to normalise what is left.
    """
    pixel = torch.arange(size, device=start.device) + 0.5
    centre = length[:, None] / size * pixel  # within the window
    place = pixel - start[:, None]
    away = (place[:, None, :] - centre[:, :, None]).abs()
    weights = (1 - away).clamp_min(0) if interpolation == "bilinear" else _bicubic(away)
    inside = (place > 0) & (place < length[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(2, keepdim=True)


def _bicubic(away: Tensor) -> Tensor:
    """Keys' kernel at a = -0.5."""
    near, far = (1.5 * away - 2.5) * away**2 + 1, ((-0.5 * away + 2.5) * away - 4) * away + 2
    return torch.where(away < 1, near, torch.where(away < 2, far, 0.0))


def _gray(images: Tensor) -> Tensor:
    """(n, 1, h, w) luminance."""
    if images.shape[1] == 1:
        return images
    if images.shape[1] != 3:
        raise UserError(f"views: images of {images.shape[1]} channels, expected 1 or 3 to change their colour")
    r, g, b = images.split(1, dim=1)
    gray: Tensor = 0.2989 * r
    return gray.add_(g, alpha=0.587).add_(b, alpha=0.114)


def _blend(images: Tensor, now: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast or saturation of each image, whichever `now` (n,) says; nothing where it says hue.

    All three mix the image with a base, in `factors` (n, 3): with black, its mean luminance, its luminance. Full-size
    intermediates are what this costs, so there is one.
    """
    gray = _gray(images)
    factor = F.pad(factors, (0, 1), value=1.0).gather(1, now[:, None]).squeeze(1)
    mean = _column((1 - factor) * (now == 1)) * gray.mean((1, 2, 3), keepdim=True)
    base = torch.addcmul(mean, gray, _column((1 - factor) * (now == 2)))
    return torch.addcmul(base, images, _column(factor)).clamp_(0, 1)


def _some(change: Callable[[Tensor, Tensor], Tensor], images: Tensor, which: Tensor, amount: Tensor) -> Tensor:
    """`change` on the images that `which` (n,) names: on the CPU on those alone, elsewhere on all without waiting.

    On all, too, where it is compiled: how many there are would break the fused kernel in two.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(_column(which), change(images, amount), images)
    rows = which.nonzero().squeeze(1)
    return images.index_copy(0, rows, change(images[rows], amount[rows]))


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """(n, 3, h, w) with the hue moved by `shift` (n,) turns, in closed form: channel x is V - C clip(2 - |k - 2|).

    V is the largest channel, C the range, k = (x + 6 hue) mod 6 with x = 5, 3, 1 for red, green, blue.
    """
    r, g, b = images.split(1, dim=1)
    most, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = most - least
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(most == r, (g - b) / safe, torch.where(most == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    offset = torch.tensor([5 / 6, 3 / 6, 1 / 6], device=images.device).view(1, 3, 1, 1)
    # One turn more keeps it positive, where `frac` is the remainder, and much faster than `%` is.
    turns = sixths / 6 + _column(shift + 1) + offset
    clipped = turns.frac_().mul_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return clipped.mul_(-chroma).add_(most)
