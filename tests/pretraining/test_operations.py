"""Tests of the augmentations against torchvision, image by image with the same parameters."""

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from robustcl.models.vision import torchvision
from robustcl.pretraining.operations import (
    ColorJitter,
    Flip,
    Grayscale,
    Interpolation,
    PadCrop,
    RandomResizedCrop,
    _hue,
)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def transforms() -> Any:
    return torchvision().transforms


def resized(transforms: Any, x: Tensor, window: tuple[int, ...], interpolation: str) -> Tensor:
    """torchvision's crop of one image, as it is by default for tensors."""
    mode = transforms.InterpolationMode(interpolation)
    crop = transforms.functional.resized_crop
    made: Tensor = crop(x, *window, list(x.shape[-2:]), interpolation=mode, antialias=True)
    return made


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(100, 3, 32, 32), (100, 1, 8, 8), (30, 2, 24, 17)])
def test_crop_equals_torchvision(transforms: Any, shape: tuple[int, ...], interpolation: Interpolation) -> None:
    x, numbers = uniform(*shape), uniform(shape[0], 22, seed=1)
    op = RandomResizedCrop(interpolation=interpolation)
    height, width = shape[2:]
    windows = [tuple(map(int, window)) for window in torch.stack(op.windows(height, width, numbers), 1).tolist()]
    theirs = torch.stack([resized(transforms, *pair, interpolation) for pair in zip(x, windows, strict=True)])
    assert len(set(windows)) > shape[0] // 2
    assert bool((theirs > 1).any()) == (interpolation == "bicubic")  # overshoots, and we clip
    torch.testing.assert_close(op(x, numbers), theirs.clamp(0, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_of_the_whole_image_is_the_image(interpolation: Interpolation) -> None:
    x = uniform(4, 3, 9, 9)
    op = RandomResizedCrop(scale=(1, 1), ratio=(1, 1), interpolation=interpolation)
    torch.testing.assert_close(op(x, uniform(4, 22)), x, rtol=0, atol=1e-6)


def test_windows_are_distributed_as_torchvisions(transforms: Any) -> None:
    op = RandomResizedCrop(scale=(0.2, 1))
    ours = torch.stack(op.windows(32, 32, uniform(3000, 22)), 1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        image, draw = torch.zeros(3, 32, 32), transforms.RandomResizedCrop.get_params
        theirs = torch.tensor([draw(image, list(op.scale), list(op.ratio)) for _ in range(3000)])
    assert (ours == ours.round()).all()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 32).all()
    for a, b in zip(ours.unbind(1), theirs.unbind(1), strict=True):
        assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > 1e-3
    area = [windows[:, 2] * windows[:, 3] for windows in (ours, theirs)]
    assert stats.ks_2samp(area[0].numpy(), area[1].numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "ratio"), [((32, 32), (2.0, 2.5)), ((32, 32), (0.4, 0.5)), ((20, 31), (0.3, 0.4)), ((31, 20), (3, 4))]
)
def test_the_way_out_after_ten_tries_is_torchvisions(
    transforms: Any, size: tuple[int, int], ratio: tuple[float, float]
) -> None:
    # A window of the whole area and another aspect than the image's never fits.
    op = RandomResizedCrop(scale=(1, 1), ratio=ratio)
    ours = torch.stack(op.windows(size[0], size[1], uniform(5, 22)), 1)
    theirs = transforms.RandomResizedCrop.get_params(torch.zeros(3, *size), [1, 1], list(ratio))
    assert ours.tolist() == [list(map(float, theirs))] * 5


@pytest.mark.parametrize("highest", [0.0, 1 - 2**-24])
def test_the_ends_of_the_numbers_stay_inside(highest: float) -> None:
    numbers = torch.full((1, 22), highest)
    top, left, rows, columns = RandomResizedCrop(ratio=(1, 1)).windows(32, 32, numbers)
    assert 0 <= float(top) <= 32 - float(rows)
    assert 0 <= float(left) <= 32 - float(columns)
    x = uniform(1, 1, 8, 8)
    place = 0 if highest == 0 else 4
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    assert torch.equal(PadCrop(padding=2)(x, numbers[:, :2]), padded[..., place : place + 8, place : place + 8])


def test_pad_crop_is_a_window_of_the_padded_image() -> None:
    x, numbers = uniform(400, 2, 5, 6), uniform(400, 2, seed=1)
    seen = PadCrop(padding=1)(x, numbers)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    counts = torch.zeros(3, 3, dtype=torch.long)
    for image, whole, (y, z) in zip(seen, padded, (numbers * 3).long().tolist(), strict=True):
        assert torch.equal(image, whole[:, y : y + 5, z : z + 6])
        counts[y, z] += 1
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


def test_flip_mirrors_left_and_right() -> None:
    x = uniform(2, 3, 4, 5)
    seen = Flip(p=0.5)(x, torch.tensor([[0.49], [0.5]]))
    assert torch.equal(seen[0], x[0].flip(2))
    assert torch.equal(seen[1], x[1])


def test_grayscale_equals_torchvision(transforms: Any) -> None:
    x = uniform(2, 3, 8, 8)
    seen = Grayscale(p=0.2)(x, torch.tensor([[0.19], [0.2]]))
    torch.testing.assert_close(seen[0], transforms.functional.rgb_to_grayscale(x[0], 3), rtol=0, atol=1e-6)
    assert torch.equal(seen[1], x[1])
    assert torch.equal(Grayscale(p=1)(x[:, :1], torch.zeros(2, 1)), x[:, :1])


def jittered(transforms: Any, op: ColorJitter, x: Tensor, numbers: list[float]) -> Tensor:
    """One image through torchvision's four functions, in the order that the last four numbers say."""
    if numbers[0] >= op.p:
        return x

    def factor(at: int, strength: float) -> float:
        low = max(0.0, 1 - strength)
        return low + (1 + strength - low) * numbers[at]

    f = transforms.functional
    changes = [
        lambda x: f.adjust_brightness(x, factor(1, op.brightness)),
        lambda x: f.adjust_contrast(x, factor(2, op.contrast)),
        lambda x: f.adjust_saturation(x, factor(3, op.saturation)),
        lambda x: f.adjust_hue(x, op.hue * (2 * numbers[4] - 1)),
    ]
    for now in sorted(range(4), key=lambda change: numbers[5 + change]):
        x = changes[now](x)
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "op",
    [
        ColorJitter(),
        ColorJitter(brightness=1.5, contrast=1.5, saturation=1.5, hue=0.5, p=1),
        ColorJitter(brightness=0.8, contrast=0, saturation=0, hue=0, p=1),
        ColorJitter(brightness=0, contrast=0.8, saturation=0, hue=0, p=1),
        ColorJitter(brightness=0, contrast=0, saturation=0.8, hue=0, p=1),
        ColorJitter(brightness=0, contrast=0, saturation=0, hue=0.5, p=1),
    ],
    ids=["usual", "strong", "brightness", "contrast", "saturation", "hue"],
)
def test_jitter_equals_torchvision_in_its_random_order(transforms: Any, op: ColorJitter, channels: int) -> None:
    x, numbers = uniform(200, channels, 6, 6), uniform(200, 9, seed=1)
    x[:20] = (x[:20] * 3).round() / 3  # ties between channels, greys, black and white
    theirs = torch.stack([jittered(transforms, op, *pair) for pair in zip(x, numbers.tolist(), strict=True)])
    torch.testing.assert_close(op(x, numbers), theirs, rtol=0, atol=1e-5)
    left = numbers[:, 0] >= op.p
    assert torch.equal(op(x, numbers)[left], x[left])


def test_the_order_of_the_jitter_matters_in_these_tests() -> None:
    x, numbers = uniform(1, 3, 6, 6), uniform(1, 9, seed=1)
    numbers[0, 0] = 0
    other = numbers.clone()
    other[:, 5:] = other[:, 5:].flip(1)
    assert (ColorJitter()(x, numbers) - ColorJitter()(x, other)).abs().max() > 1e-3


@pytest.mark.parametrize("shift", [-0.5, -0.17, 0.0, 1 / 3, 0.5])
def test_hue_equals_torchvision(transforms: Any, shift: float) -> None:
    x = torch.cartesian_prod(*[torch.linspace(0, 1, 6)] * 3).T.reshape(1, 3, 12, 18)
    theirs = transforms.functional.adjust_hue(x, shift)
    torch.testing.assert_close(_hue(x, torch.tensor([shift])), theirs, rtol=0, atol=1e-5)


def test_one_channel_has_no_saturation_and_no_hue() -> None:
    x = uniform(50, 1, 8, 8)
    assert torch.equal(ColorJitter(brightness=0, contrast=0, saturation=0.9, hue=0.5, p=1)(x, uniform(50, 9)), x)
