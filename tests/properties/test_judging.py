"""Judging over class counts, batch sizes, dtypes and empty sets."""

from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustcl
from robustcl.bench.autoattack.attacks import Square
from robustcl.bench.judge import Attack
from robustcl.bench.pgd import PGD
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from tests.properties.lines import answer

EPS = Threat("1/10")
N = 6


def judged(model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> pd.DataFrame:
    """The records, in eval mode and without checks."""
    return robustcl.evaluate(model, x, y, threat=EPS, checks=False, **more).records


def linear(classes: int, size: int = 9, seed: int = 0) -> nn.Module:
    """A linear classifier (n, 1, 3, 3) -> (n, classes)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn(part.shape, generator=g))
    return model.eval()


def images(n: int = N, seed: int = 1) -> Tensor:
    """Grey images (n, 1, 3, 3) in [0, 1]."""
    return torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=8)
@given(st.sampled_from([2, 3, 4, 10, 99, 1000]), st.integers(0, 2**31))
def test_every_class_count_from_two_on_is_judged(classes: int, seed: int) -> None:
    model, x = linear(classes, seed=seed), images()
    y = model(x).argmax(1)
    attacks = ["pgd-2"] if classes < 3 else ["pgd-2", "apgd-dlr"]
    records = judged(model, x, y, attacks=attacks)
    assert records["answer"].between(0, classes - 1).all()
    assert records.loc[records["judge"] == "clean", "right"].all()


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_one_line(classes: int) -> None:
    model = (
        nn.Sequential(nn.Flatten(), nn.AvgPool1d(9))
        if classes
        else nn.Sequential(nn.Flatten(), nn.Unflatten(1, (9, 1)))
    )
    with pytest.raises(UserError, match="at least 2 classes"):
        judged(model, images(), torch.zeros(N, dtype=torch.int64))


@pytest.mark.parametrize("attack", [PGD(steps=3), "apgd-ce", "fab", Square(queries=40)], ids=str)
def test_batches_of_every_size_give_the_same_verdicts(attack: str | Attack) -> None:
    model, x = linear(4), images()
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    found = [judged(model, x, y, attacks=[attack], batch_size=size) for size in (1, N - 1, N, N + 1, 10**6)]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)


@given(
    st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]),
    st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool]),
    st.lists(st.integers(-1, 4), min_size=0, max_size=N),
)
def test_images_and_labels_of_any_type_are_judged_or_one_line(
    dtype: torch.dtype, kind: torch.dtype, labels: list[int]
) -> None:
    x, y = (images() * 255 if dtype == torch.uint8 else images()).to(dtype), torch.tensor(labels).to(kind)
    records = answer(lambda: judged(linear(4), x, y, attacks=["pgd-1"]))
    if records is not None:
        assert dtype in (torch.uint8, torch.float32)
        assert len(labels) == N
        assert set(records["label"]) <= {0, 1, 2, 3}


@pytest.mark.parametrize("shape", [(0, 1, 3, 3), (N, 0, 3, 3), (N, 1, 0, 3), (0,), (), (N, 9), (N, 1, 3, 3, 1)])
def test_an_empty_or_a_flat_set_is_one_line_everywhere(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    y = torch.zeros(shape[:1], dtype=torch.int64)
    with pytest.raises(UserError, match="images of shape"):
        judged(linear(4), x, y, attacks=["pgd-1"])
    with pytest.raises(UserError, match="images of shape"):
        robustcl.pretrain("simclr", x)
    with pytest.raises(UserError, match="images of shape"):
        robustcl.pretrain("supervised", x, labels=y)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_need_not_be_square_nor_coloured(channels: int) -> None:
    x = torch.rand(N, channels, 3, 5, generator=torch.Generator().manual_seed(0))
    model = linear(4, channels * 15)
    assert judged(model, x, model(x).argmax(1), attacks=["pgd-2", "square"])["right"].any()
