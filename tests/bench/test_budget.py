"""Time: a fixed random order in blocks, whole blocks alone, at least one; and what a measured pace makes of passes."""

import pandas as pd
import pytest
import torch
from torch import nn

import robustcl
from robustcl.bench.budget import Check, blocks, read_budget, within
from robustcl.bench.pace import Pace, duration, measure, most, span
from robustcl.bench.pgd import PGD
from robustcl.models.errors import UserError
from tests.bench.tiny import images_for, network, one_line


class Clock:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_blocks_are_a_fixed_random_order_of_all_images() -> None:
    images = images_for(network(), 50)
    first, again = blocks(images, 16), blocks(images, 16)
    assert [len(block) for block in first] == [16, 16, 16, 2]
    held = [block.index.tolist() for block in first]
    assert held == [block.index.tolist() for block in again]
    assert sorted(image for block in held for image in block) == images.index.tolist()
    assert all(block == sorted(block) for block in held), "inside a block in their own order"
    assert held[0] != images.index[:16].tolist()


@pytest.mark.parametrize(
    ("seconds", "made"), [(0.5, [0]), (10, [0]), (10.5, [0]), (20.5, [0, 1]), (1000, [0, 1, 2, 3])]
)
def test_whole_blocks_alone_count_and_one_in_any_case(seconds: float, made: list[int]) -> None:
    clock, begun = Clock(), list[int]()

    def work(part: int, check: Check) -> int:
        begun.append(part)
        for _ in range(10):
            clock.now += 1
            check()
        return part

    assert within(seconds, range(4), work, clock) == made
    assert len(begun) <= len(made) + 1


def test_other_errors_are_not_the_end_of_time() -> None:
    def work(part: int, check: Check) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        within(1, range(2), work)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("20 min", 1200), ("1.5h", 5400)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-3m", "0m", "1d", "soon"])
def test_what_is_no_time_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_budget(text)
    assert "expected a number with s, m or h, such as 20m" in one_line(caught.value)


def test_a_budget_in_python_judges_a_part_as_without_one() -> None:
    model = network()
    images = images_for(model, 30)
    threat = robustcl.Threat("8/255")
    given = {"threat": threat, "attacks": ["pgd-3"], "batch_size": 8, "index": images.index}
    whole = robustcl.evaluate(model, images.pixels, images.labels, **given)  # type: ignore[arg-type]
    part = robustcl.evaluate(model, images.pixels, images.labels, budget=1e-9, **given)  # type: ignore[arg-type]
    every = robustcl.evaluate(model, images.pixels, images.labels, budget=1e9, **given)  # type: ignore[arg-type]
    assert list(part.order) == blocks(images, 8)[0].index.tolist()
    assert "8 of 30 images in random order, budget <1 s" in " ".join(str(part).split())
    assert list(every.order) == images.index.tolist()
    assert every.robust["pgd-3"].tolist() == whole.robust["pgd-3"].tolist()
    held = whole.records[whole.records["image"].isin(part.order)].sort_values(["image", "attack"])
    found = part.records.sort_values(["image", "attack"])
    pd.testing.assert_frame_equal(held.reset_index(drop=True), found.reset_index(drop=True), rtol=1e-4)
    with pytest.raises(UserError, match="budget -1, expected seconds above 0"):
        robustcl.evaluate(model, images.pixels, images.labels, budget=-1, **given)  # type: ignore[arg-type]


def test_a_pace_is_measured_and_bounds_passes() -> None:
    images = torch.rand(8, 1, 4, 4)
    pace = measure(network(), images)
    assert pace.forward > 0
    assert pace.gradient > 0
    cut = measure(lambda x: x.detach().flatten(1), images)  # a model without a gradient has a pace too
    assert cut.gradient > 0
    known = Pace(forward=1.0, gradient=3.0)
    assert (known.fastest(10), known.seconds(10)) == (10.0, 15.0)
    assert known.least(images=5, judges=2) == 35.0
    assert most({"a": [PGD(steps=2)], "b": [PGD(steps=1, restarts=2)]}, classes=10, images=3) == 3 * (1 + 5 + 6)


def test_a_slow_model_is_estimated_slower() -> None:
    images = torch.rand(8, 3, 16, 16)
    quick, slow = nn.Flatten(), nn.Sequential(*[nn.Conv2d(3, 3, 9, padding=4) for _ in range(60)], nn.Flatten())
    assert measure(slow, images).seconds(10) > 2 * measure(quick, images).seconds(10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "<1 s"),
        (40, "40 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (1200, "20 min"),
        (5400, "1.5 h"),
        (200_000, "2.3 days"),
    ],
)
def test_times_are_told(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert span(seconds, seconds) == text


def test_a_range_is_told() -> None:
    assert span(30, 7200) == "30 s to 2 h"
