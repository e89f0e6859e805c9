"""Tests of where random numbers come from: keyed, and for images independent of how they are batched."""

import pytest
import torch
from torch import Tensor

from robustcl.models.seeding import BatchDraws, ImageDraws, derive, generator


def drawn(images: list[int], times: int = 2) -> list[Tensor]:
    source = ImageDraws(images, 3, "attack", "pgd")
    return [source.uniform(len(images), 7) for _ in range(times)]


def test_draws_of_an_image_do_not_depend_on_its_batch() -> None:
    whole = drawn([4, 9, 2, 7])
    for images in ([9], [2, 4], [7, 2, 9, 4], [4, 100, 9]):
        for number, part in enumerate(drawn(images)):
            for row, image in zip(part, images, strict=True):
                if image != 100:
                    assert torch.equal(row, whole[number][[4, 9, 2, 7].index(image)])


def test_draws_differ_between_images_times_seeds_and_purposes() -> None:
    first, second = drawn([4, 9])
    others = [ImageDraws([4], 4, "attack", "pgd"), ImageDraws([4], 3, "attack", "apgd")]
    rows = [*first, *second, *(other.uniform(1, 7)[0] for other in others)]
    assert len({tuple(row.tolist()) for row in rows}) == 6


def test_draws_are_uniform_numbers_for_as_many_rows_as_images() -> None:
    sample = ImageDraws(range(100), 0, "x").uniform(100, 50)
    assert sample.dtype == torch.float32
    assert sample.ge(0).all()
    assert sample.lt(1).all()
    assert sample.mean().item() == pytest.approx(0.5, abs=0.02)
    assert ImageDraws([], 0, "x").uniform(0, 5).shape == (0, 5)
    with pytest.raises(ValueError, match="2 rows asked for 3 images"):
        ImageDraws([1, 2, 3], 0, "x").uniform(2, 5)


def test_derived_seeds_are_stable_and_tell_purposes_apart() -> None:
    assert derive(0, "encoder") == 5837546378471655500
    assert len({derive(0, "a"), derive(1, "a"), derive(0, "b"), derive(0, "a", 1), derive(0, "a", 2), derive(0)}) == 6
    assert 0 <= derive(0, "a") < 2**63


def test_batch_draws_follow_their_generator() -> None:
    one, two = BatchDraws(generator(1, "x", 5)), BatchDraws(generator(1, "x", 5))
    first = one.uniform(3, 4)
    assert torch.equal(first, two.uniform(3, 4))
    assert not torch.equal(first, one.uniform(3, 4))
