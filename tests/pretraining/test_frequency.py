"""Tests of the high- and low-frequency parts: the acceptance list, and equality with the shifted definition."""

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.pretraining.frequency import high_frequency, low_frequency


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def shifted(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """High and low part by the definition: a full transform, shifted, and a disc around (n / 2, n / 2)."""
    n = x.shape[-1]
    from_centre = (torch.arange(n, dtype=torch.float64) - n / 2) ** 2
    keep = (from_centre[:, None] + from_centre).sqrt() >= radius
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    parts = [torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))) for mask in (keep, ~keep)]
    assert max(float(part.imag.abs().max()) for part in parts) < 1e-12
    return parts[0].real, parts[1].real


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("radius", [0, 1, 2, 3.5, 8, 12, 16])
def test_equals_the_shifted_definition(side: int, radius: float) -> None:
    x = noise(3, 2, side, side)
    high, low = shifted(x, radius)
    torch.testing.assert_close(high_frequency(x, radius), high, rtol=0, atol=1e-12)
    torch.testing.assert_close(low_frequency(x, radius), low, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("radius", "removed"), [(2, 9), (4, 45), (6, 109), (8, 193), (10, 305), (12, 437), (16, 793)])
def test_removes_the_counted_frequencies_at_32_pixels(radius: int, removed: int) -> None:
    # A single bright pixel holds every frequency with weight 1.
    point = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    point[..., 5, 7] = 1
    size = torch.fft.fft2(high_frequency(point, radius)).abs()
    assert int((size < 1e-9).sum()) == removed
    assert int((size > 1 - 1e-9).sum()) == 1024 - removed


def test_the_parts_add_up_in_float32() -> None:
    x = noise(4, 3, 32, 32).float()
    torch.testing.assert_close(high_frequency(x, 8) + low_frequency(x, 8), x, rtol=0, atol=1e-6)


def test_a_constant_image_has_no_high_part() -> None:
    assert high_frequency(torch.full((1, 3, 32, 32), 0.7), 8).abs().max() < 1e-6


def test_radius_zero_keeps_everything() -> None:
    x = noise(2, 3, 32, 32)
    torch.testing.assert_close(high_frequency(x, 0), x, rtol=0, atol=1e-12)


def test_a_radius_beyond_the_corner_removes_everything() -> None:
    x = noise(2, 3, 32, 32)
    assert high_frequency(x, 32 / 2**0.5 + 1e-6).abs().max() < 1e-12
    assert high_frequency(x, 32 / 2**0.5 - 1e-6).abs().max() > 1e-4  # the one frequency of the corner


def test_is_linear() -> None:
    x, y = noise(2, 2, 3, 32, 32)
    mixed = 2 * high_frequency(x, 8) - 3 * high_frequency(y, 8)
    torch.testing.assert_close(high_frequency(2 * x - 3 * y, 8), mixed, rtol=0, atol=1e-12)


def test_images_and_channels_are_apart() -> None:
    x = noise(3, 3, 32, 32)
    alone = torch.stack([torch.stack([high_frequency(c[None, None], 8)[0, 0] for c in image]) for image in x])
    torch.testing.assert_close(high_frequency(x, 8), alone, rtol=0, atol=1e-12)


def test_the_high_part_has_mean_zero_and_is_not_clamped() -> None:
    high = high_frequency(noise(4, 3, 32, 32), 8)
    assert high.mean((2, 3)).abs().max() < 1e-12
    assert 0.4 < float((high < 0).double().mean()) < 0.6


@pytest.mark.parametrize("shape", [(2, 1, 8, 12), (2, 1, 7, 9), (2, 1, 8, 9)])
def test_other_shapes_part_as_well(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    high = high_frequency(x, 2)
    assert high.shape == x.shape
    torch.testing.assert_close(high + low_frequency(x, 2), x, rtol=0, atol=1e-12)
    # A projection: what is high stays high. A mask that is not symmetric about frequency 0 would not be one.
    torch.testing.assert_close(high_frequency(high, 2), high, rtol=0, atol=1e-12)


def test_half_precision_answers_in_float32() -> None:
    x = noise(2, 3, 8, 8).bfloat16()
    torch.testing.assert_close(high_frequency(x, 2), high_frequency(x.float(), 2), rtol=0, atol=0)


@pytest.mark.parametrize("radius", [-1, float("nan")])
def test_a_radius_below_zero_is_refused(radius: float) -> None:
    with pytest.raises(UserError, match=r"^frequency: radius (-1|nan), expected a number of at least 0$"):
        high_frequency(noise(1, 1, 8, 8), radius)
