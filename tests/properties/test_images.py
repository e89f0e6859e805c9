"""Images and labels of every shape and type: a set, or one clean line; nothing is guessed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcl.bench.datasets.npz import Npz
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images
from tests.properties.lines import answer

SIDES = st.integers(0, 5)
DTYPES = st.sampled_from(
    [torch.uint8, torch.float16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool, torch.complex64]
)
NUMBERS = st.sampled_from(["uint8", "float16", "float32", "float64", "int32", "int64", "bool", "complex64", "U3"])
LABELS = st.integers(-2, 5) | st.sampled_from([2**31, 2**40, -(2**40)])


@given(st.lists(SIDES, min_size=1, max_size=5), DTYPES, st.lists(LABELS, max_size=5), DTYPES, st.integers(0, 4))
def test_images_are_a_set_or_refused_in_one_line(
    shape: list[int], dtype: torch.dtype, labels: list[int], kind: torch.dtype, classes: int
) -> None:
    given_labels = torch.tensor(labels, dtype=torch.int64).to(kind)
    held = answer(lambda: Images(torch.zeros(shape, dtype=dtype), given_labels, classes=classes, name="odd"))
    if held is not None:
        assert dtype in (torch.uint8, torch.float32)
        assert 0 not in shape
        assert len(held) == shape[0] == len(labels)
        assert 0 <= int(held.labels.min()) <= int(held.labels.max()) < classes
        assert held.floats(slice(None)).dtype == torch.float32
        assert len(held.fingerprint) == 16


@given(st.floats(width=32), st.sampled_from([1, 2, 3, 4]))
def test_one_odd_number_in_an_image_is_refused(number: float, channels: int) -> None:
    pixels = torch.full((2, channels, 3, 4), 0.5)
    pixels[1, 0, 2, 3] = number
    held = answer(lambda: Images(pixels, torch.zeros(2, dtype=torch.int64), classes=1, name="odd"))
    assert (held is not None) == (0 <= number <= 1)


@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 2**31))
def test_parts_of_a_set_keep_their_place(n: int, asked: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(50, generator=g)[:n]
    whole = Images(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n), classes=n, index=index, name="whole")
    part = answer(lambda: whole.sample(asked))
    assert (part is not None) == (asked > 0)
    if part is not None:
        assert set(part.index.tolist()) <= set(index.tolist())
        assert len(part) == min(n, asked)


@given(
    st.lists(st.integers(0, 4), min_size=0, max_size=5),
    NUMBERS,
    st.lists(st.integers(0, 4), min_size=0, max_size=2),
    NUMBERS,
    LABELS,
)
def test_an_npz_is_a_data_set_or_refused_in_one_line(
    shape: list[int], kind: str, other: list[int], label_kind: str, label: int
) -> None:
    arrays: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for split in ("train", "test"):
            arrays[f"{split}_images"] = np.zeros(shape).astype(kind)
            arrays[f"{split}_labels"] = np.full(other or shape[:1], label).astype(label_kind)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "odd.npz"
        np.savez(path, **arrays)
        held = answer(lambda: Npz(path=path).load())
    if held is not None:
        assert len(shape) in (3, 4)
        assert kind in ("uint8", "float32")
        assert held.train.classes >= 2


@pytest.mark.parametrize("label", [2**62, 2**31])
def test_a_label_that_asks_for_all_memory_is_refused(tmp_path: Path, label: int) -> None:
    pixels = np.zeros((2, 2, 2), dtype=np.uint8)
    labels = {"train_labels": np.array([0, label]), "test_labels": np.array([0, 1])}
    np.savez(tmp_path / "odd.npz", train_images=pixels, test_images=pixels, **labels)
    with pytest.raises(UserError, match=f"{label + 1} classes, expected at most 32768"):
        Npz(path=tmp_path / "odd.npz").load()


def test_one_class_is_no_data_set_to_judge_on(tmp_path: Path) -> None:
    pixels, labels = np.zeros((2, 2, 2), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    arrays = {"train_images": pixels, "train_labels": labels, "test_images": pixels, "test_labels": labels}
    np.savez(tmp_path / "one.npz", **arrays)
    with pytest.raises(UserError, match="one class, expected at least 2"):
        Npz(path=tmp_path / "one.npz").load()
