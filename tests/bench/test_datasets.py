"""Data sets in their official formats: what is read from small files, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustcl.bench.data import DataSet, Splits, datasets, read_dataset, resized
from robustcl.bench.official import Official
from robustcl.models.errors import UserError
from robustcl.models.vision import torchvision
from tests.bench import official
from tests.bench.official import SPLITS, WRITERS, expected, label
from tests.bench.tiny import one_line

POINTS = {
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "stl10": (96, 3, 10),
    "svhn": (32, 3, 10),
    "mnist": (28, 1, 10),
}
OFFICIAL = [name for name, kind in datasets().items() if issubclass(kind, Official)]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataSet]:
    def made(name: str, **fields: Any) -> DataSet:
        folder = tmp_path / name
        if not folder.exists():
            WRITERS[name](folder, monkeypatch)
        return read_dataset({"name": name, "path": str(folder), **fields}, "data")

    return made


def test_every_official_data_set_is_tested() -> None:
    assert sorted(OFFICIAL) == sorted(WRITERS)


@pytest.mark.parametrize("name", POINTS)
def test_pixels_labels_and_index_are_those_of_the_files(write: Callable[..., DataSet], name: str) -> None:
    size, channels, classes = POINTS[name]
    for split, images in zip(("train", "test"), write(name).load(), strict=True):
        assert images.pixels.dtype == torch.uint8
        assert images.pixels.is_contiguous()
        assert torch.equal(images.pixels, expected(split, size, channels)), split
        assert images.labels.tolist() == [label(split, number, classes) for number in range(SPLITS[split])]
        assert images.index.tolist() == list(range(SPLITS[split]))
        assert images.classes == classes


@pytest.mark.parametrize("name", OFFICIAL)
def test_holdout_and_a_part_of_training(write: Callable[..., DataSet], name: str) -> None:
    whole, (train, held) = write(name).load(), write(name, holdout=3, train=4).load()
    n = len(whole.train)
    assert len(held) == n // 3
    assert torch.equal(held.pixels, whole.train.pixels[held.index])
    assert len(train) == 4
    assert not set(train.index.tolist()) & set(held.index.tolist())
    for images in (train, held):
        assert images.labels.tolist() == whole.train.labels[images.index].tolist()
    for field in ("train", "holdout"):
        with pytest.raises(UserError) as caught:
            write(name, **{field: n + 1}).load()
        assert one_line(caught.value).endswith(f"{field} = {n + 1}, expected at most its {n} training images")


@pytest.mark.parametrize("name", OFFICIAL)
def test_missing_files_are_one_line_with_the_command(tmp_path: Path, name: str) -> None:
    where = tmp_path / "my data"
    with pytest.raises(UserError) as caught:
        read_dataset({"name": name, "path": str(where)}, "data").load()
    said = one_line(caught.value)
    assert said.startswith(str(where))
    assert "no such file, expected " in said
    assert f"'robustcl fetch {name} '{where}'' downloads them" in said
    assert not where.exists()


def files(folder: Path) -> list[Path]:
    """The official files that a writer left."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", POINTS)
def test_another_file_than_the_official_is_refused(write: Callable[..., DataSet], name: str) -> None:
    data = write(name)
    for file in files(getattr(data, "path")):  # noqa: B009 (of data sets in files alone)
        held = file.read_bytes()
        file.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        with pytest.raises(UserError) as caught:
            data.load()
        assert one_line(caught.value).startswith(f"{file}: not the official file and not read (MD5 ")
        file.unlink()
        with pytest.raises(UserError) as caught:
            data.load()
        assert one_line(caught.value).startswith(f"{file}: no such file, expected ")
        file.write_bytes(held)
    assert isinstance(data.load(), Splits)


class Trap:
    """Something that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_foreign_pickle_is_not_executed(write: Callable[..., DataSet], tmp_path: Path, name: str) -> None:
    data, mark = write(name), tmp_path / "executed"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap works"
    mark.unlink()
    for file in files(tmp_path / name):
        held = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap(mark)))
        with pytest.raises(UserError, match="not the official file and not read"):
            data.load()
        file.write_bytes(held)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cifar10", "stl10", "tiny_imagenet"])
def test_the_folder_inside_will_do_too(write: Callable[..., DataSet], tmp_path: Path, name: str) -> None:
    images = write(name).load().test
    (inner,) = (tmp_path / name).iterdir()
    assert read_dataset({"name": name, "path": str(inner)}, "data").load().test.fingerprint == images.fingerprint


def test_mnist_is_read_packed_and_from_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = official.idx(tmp_path / "plain", monkeypatch, packed=True)
    data = read_dataset({"name": "mnist", "path": str(folder)}, "data")
    assert torch.equal(data.load().test.pixels, expected("test", 28, 1))
    packed = folder / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"labels-idx1-ubyte\.gz: not readable"):
        data.load()


def test_svhn_calls_the_digit_0_by_0(write: Callable[..., DataSet]) -> None:
    train = write("svhn").load().train
    assert 0 in train.labels.tolist()


def test_stl10_at_both_sizes(write: Callable[..., DataSet]) -> None:
    native, small = write("stl10").load(), write("stl10", size=32).load()
    resize = torchvision().transforms.Resize(32)
    for large, images in zip(native, small, strict=True):
        assert images.shape == (3, 32, 32)
        assert images.labels.tolist() == large.labels.tolist()
        pictures = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in large.pixels]
        rows = np.stack([np.asarray(resize(picture)) for picture in pictures])
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), rows), "as torchvision resizes by default"
        assert images.pixels.any(), "the points still show"


def test_stl10_has_images_without_labels_when_they_are_asked_for(write: Callable[..., DataSet]) -> None:
    assert write("stl10").unlabelled() is None
    images = write("stl10", pretrain="unlabelled").unlabelled()
    assert images is not None
    assert torch.equal(images.pixels, expected("unlabelled", 96))
    assert (images.classes, images.index.tolist()) == (1, list(range(5)))
    small = write("stl10", pretrain="unlabelled", size=32)
    assert small.load().train.shape == (3, 32, 32)
    found = small.unlabelled()
    assert found is not None
    assert torch.equal(found.pixels, resized(images.pixels, 32))
    with pytest.raises(UserError, match="did you mean 'unlabelled'"):
        write("stl10", pretrain="unlabeled")


@pytest.mark.parametrize("name", [name for name in datasets() if name != "stl10"])
def test_no_other_data_set_has_such_images(name: str) -> None:
    path = {} if name == "digits" else {"path": "nowhere"}
    assert read_dataset({"name": name, **path}, "data").unlabelled() is None


def test_tiny_imagenet_is_read_in_order(write: Callable[..., DataSet], tmp_path: Path) -> None:
    train, test = write("tiny_imagenet").load()
    assert train.shape == test.shape == (3, 64, 64)
    assert train.classes == test.classes == 3
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert test.labels.tolist() == [1, 1, 2, 0], "the classes are sorted, n01 is 0"
    assert test.index.tolist() == [0, 1, 2, 3]
    red, green, _ = train.pixels[:8].float().mean((2, 3)).T
    assert [round(float(mean) / 20) for mean in red] == [2, 2, 2, 5, 5, 5, 8, 8]
    assert [abs(round(float(mean) / 10)) for mean in green] == [0, 1, 5, 0, 1, 5, 0, 1], "0, 2, 10, not 0, 10, 2"
    assert train.pixels[8].float().std() < 1, "a grey picture is RGB of three equal channels"
    blue = test.pixels[:, 2].float()
    assert (blue[:, :30].mean((1, 2)) > 200).all(), "the upper half"
    assert (blue[:, 34:].mean((1, 2)) < 40).all()
    assert write("tiny_imagenet", size=32).load().test.shape == (3, 32, 32)


def unknown_class(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn04\n")


def no_class(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\nval_1.JPEG n01\n")


def no_picture(root: Path) -> None:
    (root / "val" / "images" / "val_1.JPEG").unlink()


def empty_class(root: Path) -> None:
    for picture in (root / "train" / "n02" / "images").iterdir():
        picture.unlink()


def no_annotations(root: Path) -> None:
    (root / "val" / "val_annotations.txt").unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (unknown_class, "val_annotations.txt: line 1 is wrong, expected"),
        (no_class, "val_annotations.txt: line 2 is wrong, expected"),
        (no_picture, "val_1.JPEG: not a readable image"),
        (empty_class, "n02/images: no such file, expected *.JPEG in"),
        (no_annotations, "val_annotations.txt: no such file, expected wnids.txt, train/<class>/images/*.JPEG, val/"),
    ],
)
def test_a_bad_tiny_imagenet_is_one_line(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(official.tiny_imagenet(tmp_path) / "tiny-imagenet-200")
    with pytest.raises(UserError) as caught:
        read_dataset({"name": "tiny_imagenet", "path": str(tmp_path)}, "data").load()
    assert says in one_line(caught.value)


def test_digits_have_parts_too() -> None:
    whole = read_dataset({"name": "digits"}, "data").load().train
    train, held = read_dataset({"name": "digits", "holdout": 7, "train": 100}, "data").load()
    assert len(held) == len(whole) // 7
    assert set(held.index.tolist()) < set(whole.index.tolist()) - set(train.index.tolist())
    assert len(train) == 100
