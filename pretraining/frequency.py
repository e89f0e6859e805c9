"""The only owner of the high- and low-frequency parts of images (AdvCL, Fan et al., NeurIPS 2021, eq. 8)."""

import functools

import torch
from torch import Tensor

from robustcl.models.errors import UserError


def high_frequency(images: Tensor, radius: float) -> Tensor:
    """The part of each channel (n, c, h, w) whose frequency is at least `radius`, in cycles per image side.

    Not clamped: without its mean an image is negative in about half of its pixels, and AdvCL trains on it as it is.
    """
    return _filter(images, radius, high=True)


def low_frequency(images: Tensor, radius: float) -> Tensor:
    """The part of each channel (n, c, h, w) whose frequency is below `radius`: images minus `high_frequency`.

    The paper's two indicators both hold at exactly `radius`; its code parts them as here, and so both add up.
    """
    return _filter(images, radius, high=False)


def _filter(images: Tensor, radius: float, high: bool) -> Tensor:
    if not radius >= 0:
        raise UserError(f"frequency: radius {radius}, expected a number of at least 0")
    height, width = images.shape[-2:]
    mask = _mask(height, width, float(radius), images.device)
    # The transform has no half precision.
    spectrum = torch.fft.rfft2(images if images.dtype == torch.float64 else images.float())
    spectrum.mul_((mask if high else ~mask).to(spectrum.real.dtype))
    part: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return part


@functools.lru_cache(maxsize=32)
def _mask(height: int, width: int, radius: float, device: torch.device) -> Tensor:
    """(height, width // 2 + 1) bool in the order of `rfft2`: where the frequency is at least `radius`.

    The code measures from (h / 2, w / 2) after a shift, which is frequency 0 for even sizes alone. For odd sizes we
    measure from frequency 0 too: off centre the mask would not be symmetric and its image not real.
    """
    y = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64).round()
    x = torch.fft.rfftfreq(width, 1 / width, dtype=torch.float64).round()
    kept: Tensor = y[:, None] ** 2 + x**2 >= radius**2
    return kept.to(device)
