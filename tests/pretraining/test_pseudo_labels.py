"""Tests of ClusterFit: blobs are found, labels are the same again, and files that are wrong are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images
from robustcl.pretraining.pseudo_labels import ClusterFit, balance, cluster, features, load_labels, save_labels


def blobs(n: int = 30) -> Images:
    """Three prototypes with a little noise."""
    g = torch.Generator().manual_seed(0)
    prototypes, labels = torch.rand(3, 1, 8, 8, generator=g).round(), torch.arange(n) % 3
    pixels = (prototypes[labels] + 0.02 * torch.randn(n, 1, 8, 8, generator=g)).clamp(0, 1)
    return Images(pixels, labels, classes=3, name="blobs")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(Tiny(width=4), (1, 8, 8), seed=1)


def test_blobs_are_found(encoder: Encoder) -> None:
    labels = cluster(encoder, blobs(), ClusterFit(k=(3,)), seed=0)[3]
    assert len({(int(a), int(b)) for a, b in zip(labels, blobs().labels, strict=True)}) == 3
    assert len(labels.unique()) == 3


def test_labels_are_the_same_again(encoder: Encoder) -> None:
    fit = ClusterFit(k=(2, 5, 7), restarts=2)
    first, again = (cluster(encoder, blobs(), fit, seed=3) for _ in range(2))
    assert list(first) == [2, 5, 7]
    assert all(torch.equal(part, again[k]) for k, part in first.items())
    alone = cluster(encoder, blobs(), ClusterFit(k=(5,), restarts=2), seed=3)
    assert torch.equal(alone[5], first[5])  # each K has a key of its own


def test_features_are_those_of_eval_mode_whatever_the_batch(encoder: Encoder) -> None:
    encoder.train()
    whole, parts = features(encoder, blobs()), features(encoder, blobs(), batch=7)
    with torch.no_grad():
        assert torch.allclose(whole, encoder.eval()(blobs().floats(slice(None))), atol=1e-5)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert not encoder.training


def test_lengths_play_no_part_unless_they_are_left() -> None:
    # Two directions and, along each, two lengths: unit length sees the directions, raw features the lengths.
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 0.0], [0.0, 9.0]]).repeat(3, 1)
    images = Images(torch.arange(12).view(12, 1, 1, 1) / 12, torch.zeros(12).long(), classes=1, name="points")

    def network(x: torch.Tensor) -> torch.Tensor:
        return points[(x.flatten() * 12).round().long()]

    unit = cluster(network, images, ClusterFit(k=(2,)), seed=0)[2]
    assert len({tuple(row) for row in unit.view(3, 4).tolist()}) == 1
    assert unit[0] == unit[2] != unit[1] == unit[3]
    raw = cluster(network, images, ClusterFit(k=(3,), normalise=False), seed=0)[3]
    assert raw[0] == raw[1]  # both near the origin
    assert len({int(raw[0]), int(raw[2]), int(raw[3])}) == 3


@pytest.mark.parametrize(("k", "named"), [((3, 31), "[31]"), ((1,), "[1]"), ((0, 2, -4), "[0, -4]"), ((), "no K")])
def test_a_wrong_k_is_one_line(encoder: Encoder, k: tuple[int, ...], named: str) -> None:
    with pytest.raises(UserError) as caught:
        cluster(encoder, blobs(), ClusterFit(k=k), seed=0)
    assert str(caught.value) == f"labels.k: {named}, expected numbers from 2 to 30 (the training images)"


def test_balance_says_how_even_the_clusters_are() -> None:
    labels = {2: torch.tensor([0, 1] * 4), 4: torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])}
    assert balance(labels) == {
        "2": {"smallest": 4, "largest": 4, "entropy": 1.0, "most": 1.0},
        "4": {"smallest": 0, "largest": 4, "entropy": 1.5, "most": 2.0, "warning": "1 of 4 clusters is empty"},
    }


@pytest.mark.parametrize(
    ("k", "counts", "says"),
    [
        (3, [9, 1, 1], None),
        (4, [6, 2, 2, 1], "one cluster holds 6 of 11 images"),
        (4, [5, 2, 2, 1], None),
        (5, [6, 2, 0, 0, 1], "2 of 5 clusters are empty; one cluster holds 6 of 9 images"),
        (2, [4, 0], "1 of 2 clusters is empty"),
    ],
)
def test_labels_that_teach_little_have_a_warning(k: int, counts: list[int], says: str | None) -> None:
    labels = torch.arange(k).repeat_interleave(torch.tensor(counts))
    assert balance({k: labels})[str(k)].get("warning") == says


def test_images_without_a_label_are_in_no_cluster() -> None:
    assert balance({2: torch.tensor([-1, 0, 1, 1, -1])}) == {
        "2": {"smallest": 1, "largest": 2, "entropy": 0.918, "most": 1.0}
    }


def test_any_callable_gives_features() -> None:
    labels = cluster(lambda x: x.flatten(1), blobs(), ClusterFit(k=(3,)), seed=0)[3]
    assert len({(int(a), int(b)) for a, b in zip(labels, blobs().labels, strict=True)}) == 3


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda x: x, "features of shape (30, 1, 8, 8), expected (30, width)"),
        (lambda x: x.flatten(1)[:4], "features of shape (4, 64), expected (30, width)"),
        (lambda x: x.flatten(1) / 0, "NaN or infinite"),
    ],
)
def test_features_that_are_none_are_one_line(network: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        cluster(network, blobs(), ClusterFit(k=(3,)), seed=0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_round_trip(tmp_path: Path) -> None:
    labels = {3: torch.tensor([0, 1, 2, 2]), 10: torch.tensor([9, 0, 5, 3])}
    save_labels(tmp_path / "labels.npz", labels)
    found = load_labels(tmp_path / "labels.npz", 4)
    assert found.keys() == labels.keys()
    assert all(torch.equal(part, labels[k]) and part.dtype == torch.int64 for k, part in found.items())
    with np.load(tmp_path / "labels.npz") as file:
        assert {name: str(file[name].dtype) for name in file.files} == {"k_3": "int32", "k_10": "int32"}


@pytest.mark.parametrize(
    "arrays",
    [
        {"k_3": np.array([0, 1, 2])},
        {"k_3": np.array([0, 1, 2, 3])},
        {"k_3": np.array([0, 1, 2, -2])},
        {"k_1": np.zeros(4, int)},
        {"labels": np.zeros(4, int)},
        {"k_3": np.zeros((4, 1), int)},
        {"k_3": np.array([0.5, 1, 2, 1])},
    ],
    ids=str,
)
def test_wrong_labels_are_one_line(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="expected k_<K> with 4 labels below K") as caught:
        load_labels(path, 4)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "labels.npz"
    save_labels(path, {3: torch.arange(300) % 3})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"not a readable \.npz of labels") as caught:
        load_labels(path, 300)
    assert "\n" not in str(caught.value)


def test_foreign_and_missing_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        load_labels(path, 4)
    objects: Any = np.array([{"pickled": 1}], dtype=object)
    np.savez(path, k_3=objects)
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        load_labels(path, 4)
    np.savez(path)
    with pytest.raises(UserError, match="holds no labels"):
        load_labels(path, 4)
    np.save(tmp_path / "labels.npy", np.zeros(4, int))
    with pytest.raises(UserError, match=r"not a readable \.npz"):
        load_labels(tmp_path / "labels.npy", 4)
