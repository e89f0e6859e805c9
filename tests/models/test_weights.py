"""Tests of reading other people's weights: tensors come back, code never runs, and each other file is one line."""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.weights import read_weights, state_dict

HELD = {"a": torch.arange(200.0)}


class Evil:
    """Would make a file if a pickle of it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        state_dict(read_weights(path), path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(zipped: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": HELD, "epoch": 3}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    nest, tensors = state_dict(read_weights(tmp_path / "x.pth"), tmp_path / "x.pth")
    assert (nest, list(tensors)) == ("state_dict", ["a"])
    assert torch.equal(tensors["a"], HELD["a"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "x.pth", tmp_path / "ran"
    torch.save({"state_dict": HELD, "extra": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"needs code to be read \((posix|nt).system\), which robustcl never runs; .*docs/importing.md")
    assert not mark.exists()
    with path.open("wb") as file:
        pickle.dump(Evil(mark), file)
    refused(path, "torch.save did not write")
    assert not mark.exists()


def test_the_names_that_a_pickle_needs_are_said(tmp_path: Path) -> None:
    torch.save({"state_dict": HELD, "hyper_parameters": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", r"needs code to be read \(argparse.Namespace\)")
    with torch.serialization.safe_globals([argparse.Namespace]):  # as the documentation says
        assert state_dict(read_weights(tmp_path / "x.pth"), tmp_path / "x.pth")[0] == "state_dict"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_one_line(zipped: bool, tmp_path: Path) -> None:
    torch.save(HELD, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "x.pth").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "y.pth").write_bytes(whole[: int(len(whole) * share)])
        refused(tmp_path / "y.pth", "truncated or not a file of weights")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html><title>Drive</title></html>", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of git-lfs"),
        (b"hello, world", "truncated or not a file of weights"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{'cut", "truncated or not a safetensors file"),
    ],
)
def test_what_is_no_file_of_weights_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", message)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "holds nothing"),
        ({"state_dict": {}}, "holds nothing"),
        (torch.zeros(3), "holds a Tensor"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is sparse or has no numbers"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is sparse or has no numbers"),
        ({"a" * 1000: torch.zeros(2)}, "a name of 1000 characters"),
        ({"a\nb": torch.zeros(2)}, r"a name of 3 characters \('a\\nb'"),
        ([1, 2], "holds a list"),
        ({"epoch": 3, "a": torch.ones(1)}, "'epoch' is no tensor"),
    ],
)
def test_a_file_without_tensors_by_name_is_one_line(held: Any, message: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", message)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "x.pth", "no such file")


def test_tensors_are_found_however_deep_they_lie() -> None:
    held: dict[str, Tensor] = HELD
    assert state_dict({"model": {"state_dict": held}}, Path("x"))[0] == "model.state_dict"
