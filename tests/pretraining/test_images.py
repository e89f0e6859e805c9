"""Tests of image sets: every wrong input is refused in one line, and parts still say which images they hold."""

from typing import Any

import pytest
import torch

from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images


def given(**changed: Any) -> dict[str, Any]:
    pixels = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return {"pixels": pixels, "labels": torch.arange(6) % 3, "classes": 3, "name": "set"} | changed


def with_pixel(number: float) -> torch.Tensor:
    pixels: torch.Tensor = given()["pixels"]
    pixels[4, 0, 1, 1] = number
    return pixels


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pixels": torch.rand(6, 4, 4)}, r"images of shape \(6, 4, 4\), expected \(n, channels, height, width\)"),
    ({"pixels": torch.rand(0, 1, 4, 4), "labels": torch.zeros(0)}, "expected .*n > 0"),
    ({"pixels": torch.rand(6, 1, 4, 4).double()}, r"images of type torch\.float64, expected float32"),
    ({"pixels": torch.ones(6, 1, 4, 4, dtype=torch.int64)}, r"images of type torch\.int64"),
    ({"pixels": with_pixel(float("nan"))}, "NaN or infinity in image 4"),
    ({"pixels": with_pixel(float("inf"))}, "NaN or infinity in image 4"),
    ({"pixels": with_pixel(-0.5)}, r"expected \[0, 1\]; is the normalisation inside the model\?"),
    ({"pixels": with_pixel(1.5)}, r"images from .* to 1\.5, expected \[0, 1\]$"),
    ({"pixels": with_pixel(255.0)}, r"expected \[0, 1\]; are they 0 to 255\?"),
    ({"labels": torch.zeros(5)}, r"labels of shape \(5,\), expected \(6,\)"),
    ({"labels": torch.zeros(6, 1)}, r"labels of shape \(6, 1\), expected \(6,\)"),
    ({"labels": torch.tensor([0, 1, 2, 3, 0, 1])}, r"label 3, expected 0 to 2 \(3 classes\)"),
    ({"labels": torch.tensor([0, 1, 2, -1, 0, 1])}, "label -1, expected 0 to 2"),
    ({"index": torch.arange(5)}, r"index of shape \(5,\), expected 6 numbers, unique"),
    ({"index": torch.tensor([0, 1, 2, 3, 4, 4])}, "expected 6 numbers, unique"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_wrong_input_is_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Images(**given(**changed))
    assert str(caught.value).startswith("set: ")
    assert "\n" not in str(caught.value)


def test_the_ends_of_the_range_are_welcome() -> None:
    assert Images(**given(pixels=torch.ones(6, 1, 4, 4))).floats(slice(0, 1)).max() == 1


def test_bytes_become_floats_between_0_and_1() -> None:
    images = Images(**given(pixels=torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4) * 2 + 65))
    floats = images.floats(torch.tensor([5, 0]))
    assert floats.dtype == torch.float32
    assert floats[0, 0, 3, 3].item() == 1.0
    assert floats[1, 0, 0, 0].item() == pytest.approx(65 / 255)
    assert images.shape == (1, 4, 4)


def test_parts_keep_their_place_in_the_official_split() -> None:
    images = Images(**given(index=torch.tensor([10, 11, 12, 13, 14, 15])))
    part = images.take(torch.tensor([4, 1]))
    assert part.index.tolist() == [14, 11]
    assert part.labels.tolist() == [1, 1]
    assert torch.equal(part.pixels, images.pixels[[4, 1]])


def test_what_is_held_out_is_a_fixed_random_part_and_keeps_every_class() -> None:
    n, classes = 600, 10
    labels = torch.arange(n) % classes  # a set whose order cycles: each tenth image would be a whole class
    images = Images(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels, classes=classes, name="cyclic")
    rest, held = images.hold_out(10)
    assert (len(rest), len(held)) == (540, 60)
    assert sorted([*rest.index.tolist(), *held.index.tolist()]) == list(range(n))
    assert held.index.tolist() == sorted(held.index.tolist()) == images.hold_out(10)[1].index.tolist()
    assert rest.labels.bincount().min() > 40


def test_the_fingerprint_is_that_of_the_content() -> None:
    images = Images(**given())
    assert Images(**given(name="other")).fingerprint == images.fingerprint
    moved = images.take(torch.tensor([1, 0, 2, 3, 4, 5]))
    changed: list[dict[str, Any]] = [
        {"pixels": with_pixel(0.5)},
        {"labels": torch.zeros(6, dtype=torch.int64)},
        {"classes": 4},
        {"index": torch.arange(1, 7)},
    ]
    found = {images.fingerprint, moved.fingerprint, *(Images(**given(**change)).fingerprint for change in changed)}
    assert len(found) == 6


def test_a_sample_is_fixed_mixed_and_in_order() -> None:
    labels = torch.arange(300) // 100  # sorted by class, as image folders are
    whole = Images(torch.zeros(300, 1, 2, 2), labels, classes=3, name="sorted")
    part = whole.sample(60)
    assert part.index.tolist() == sorted(part.index.tolist()) == whole.sample(60).index.tolist()
    assert min(part.labels.bincount(minlength=3).tolist()) >= 10
    assert whole.sample(300) is whole
