"""Data sets: what they hold, and every bad file as one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustcl.bench.data import datasets, read_dataset
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.datasets.folder import Folder
from robustcl.bench.datasets.npz import Npz
from robustcl.models.errors import UserError
from tests.bench.tiny import one_line


def test_digits_are_the_real_ones_and_disjoint() -> None:
    from sklearn.datasets import load_digits

    held = load_digits()
    train, test = Digits().load()
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == test.shape == (1, 8, 8)
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(1797))
    for part in (train, test):
        assert part.classes == 10
        assert part.pixels.dtype == torch.uint8
        assert part.labels.tolist() == held.target[part.index.numpy()].tolist()
        given = torch.from_numpy(held.images[part.index.numpy()]).float() / 16
        assert (part.floats(slice(None))[:, 0] - given).abs().max() <= 0.5 / 255 + 1e-6
    assert set(test.labels.tolist()) == set(range(10))
    pixels = {part.numpy().tobytes() for part in train.pixels}
    assert not any(part.numpy().tobytes() in pixels for part in test.pixels)


def arrays(**changes: Any) -> dict[str, Any]:
    g = np.random.default_rng(0)
    held: dict[str, Any] = {
        "train_images": g.integers(0, 256, (12, 5, 6, 3), dtype=np.uint8),
        "train_labels": np.arange(12) % 4,
        "test_images": g.integers(0, 256, (8, 5, 6, 3), dtype=np.uint8),
        "test_labels": np.arange(8) % 4,
    }
    return {name: part for name, part in (held | changes).items() if part is not None}


def save(folder: Path, **changes: Any) -> Path:
    path = folder / "some.npz"
    np.savez_compressed(path, **arrays(**changes))
    return path


def test_npz_is_read_channels_first(tmp_path: Path) -> None:
    train, test = Npz(path=save(tmp_path, test_index=np.arange(8) * 3)).load()
    held = arrays()
    assert train.shape == test.shape == (3, 5, 6)
    assert train.classes == test.classes == 4
    assert torch.equal(train.pixels[2, 1], torch.from_numpy(held["train_images"][2, :, :, 1]))
    assert test.index.tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert train.index.tolist() == list(range(12))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_npz_of_grey_images(tmp_path: Path, kind: Any) -> None:
    pixels = (np.random.default_rng(0).random((12, 5, 5)) * (255 if kind == np.uint8 else 1)).astype(kind)
    train, test = Npz(path=save(tmp_path, train_images=pixels, test_images=pixels[:8])).load()
    assert train.shape == test.shape == (1, 5, 5)
    assert np.array_equal(test.pixels.numpy()[:, 0], pixels[:8])


def test_a_holdout_judges_on_training_images_that_are_not_trained_on(tmp_path: Path) -> None:
    path = save(tmp_path, train_index=np.arange(12) + 100, test_images=arrays()["test_images"] * 0)
    train, held = Npz(path=path, holdout=4).load()
    assert len(held) == 3
    assert sorted([*train.index.tolist(), *held.index.tolist()]) == list(range(100, 112))
    assert torch.equal(held.pixels, Npz(path=path).load().train.pixels[held.index - 100])
    fewer, same = Npz(path=path, holdout=4, train=5).load()
    assert len(fewer) == 5
    assert same.fingerprint == held.fingerprint
    with pytest.raises(UserError, match=r"holdout = 13, expected at most its 12 training images"):
        Npz(path=path, holdout=13).load()


NAN = np.full((12, 5, 6, 3), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_labels": None}, "missing array test_labels, found "),
        ({"train_images": None}, "missing array train_images"),
        ({"train_images": arrays()["train_images"].astype(np.float64) / 255}, "type float64"),
        ({"train_images": arrays()["train_images"].astype(np.int32)}, "type int32"),
        ({"train_images": arrays()["train_images"].astype(np.float32)}, "are they 0 to 255?"),
        ({"train_images": arrays()["train_images"].astype(np.float32) / 255 - 1}, "is the normalisation inside"),
        ({"train_images": NAN}, "NaN or infinity in image 0"),
        ({"train_images": np.zeros((12, 90), dtype=np.uint8)}, "images of shape (12, 90)"),
        (
            {"train_images": arrays()["train_images"].transpose(0, 3, 1, 2)},
            "some test: images of shape (3, 5, 6), expected",
        ),
        (
            {"train_images": arrays()["train_images"][:0], "train_labels": np.arange(0)},
            "labels of type int64 and shape",
        ),
        ({"train_images": arrays()["train_images"][:9]}, "labels of shape (12,), expected (9,)"),
        ({"train_labels": np.arange(12) / 4}, "labels of type float64"),
        ({"train_labels": np.eye(12, dtype=np.int64)}, "labels of type int64 and shape (12, 12)"),
        ({"test_labels": np.arange(8)[:, None]}, "labels of type int64 and shape (8, 1)"),
        ({"train_labels": np.arange(12) - 1}, "label -1, expected 0 to"),
        ({"test_index": np.zeros(8, dtype=np.int64)}, "expected 8 numbers, unique"),
        ({"train_labels": np.array([{}] * 12)}, "not a readable .npz"),
    ],
)
def test_a_bad_npz_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        Npz(path=save(tmp_path, **changes)).load()
    assert says in one_line(caught.value)


def flip(content: bytes) -> bytes:
    return content[:200] + bytes(byte ^ 0xFF for byte in content[200:260]) + content[260:]


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"hello" * 9, flip])
def test_a_damaged_npz_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = save(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        Npz(path=path).load()
    assert f"{path}: not a readable .npz" in one_line(caught.value)


def test_a_lone_array_and_no_file_are_one_line(tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    for name, says in (("one.npz", "not a readable .npz"), ("none.npz", "no such file"), (".", "no such file")):
        with pytest.raises(UserError) as caught:
            Npz(path=tmp_path / name).load()
        assert says in one_line(caught.value)


def folder(root: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    g = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
                Image.fromarray(g.integers(0, 256, shape, dtype=np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_an_image_folder_is_read_in_order(tmp_path: Path, mode: str, channels: int) -> None:
    train, test = Folder(path=folder(tmp_path, mode=mode)).load()
    assert (len(train), len(test)) == (6, 4)
    assert train.shape == test.shape == (channels, 5, 6)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1], "ant is before cat"
    first = np.asarray(Image.open(tmp_path / "train" / "ant" / "0.png")).reshape(5, 6, channels)
    assert np.array_equal(train.pixels[0].permute(1, 2, 0).numpy(), first)
    assert Folder(path=tmp_path, size=4).load().test.shape == (channels, 4, 4)


def other_size(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "9.png")


def other_split(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "test" / "cat" / "0.png")
    Image.new("RGB", (9, 9)).save(root / "test" / "cat" / "1.png")
    for number in range(2):
        Image.new("RGB", (9, 9)).save(root / "test" / "ant" / f"{number}.png")


def truncated(root: Path) -> None:
    path = root / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def corrupt(root: Path) -> None:
    path = root / "train" / "cat" / "1.png"
    content = bytearray(path.read_bytes())
    content[45:60] = bytes(15)
    path.write_bytes(content)


def text(root: Path) -> None:
    (root / "test" / "cat" / "1.png").write_text("not an image")


def new_class(root: Path) -> None:
    (root / "test" / "dog").mkdir()


def no_split(root: Path) -> None:
    (root / "test").rename(root / "val")


def no_images(root: Path) -> None:
    for path in (root / "test").glob("*/*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (other_size, "of another size than"),
        (other_split, "shape"),
        (truncated, "1.png: not a readable image"),
        (corrupt, "1.png: not a readable image"),
        (text, "1.png: not a readable image"),
        (new_class, "classes ['dog'], expected those of"),
        (no_split, "test: no such folder, expected"),
        (no_images, "test: no images, expected"),
    ],
)
def test_a_bad_image_folder_is_one_line(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(folder(tmp_path))
    with pytest.raises(UserError) as caught:
        Folder(path=tmp_path).load()
    assert says in one_line(caught.value)


@pytest.mark.parametrize("name", ["digit", "npy", 3, None, [], {}])
def test_an_unknown_data_set_is_one_line(name: Any) -> None:
    with pytest.raises(UserError) as caught:
        read_dataset({"name": name}, "tiny.data")
    said = one_line(caught.value)
    assert said.startswith(f"tiny.data: unknown data set '{name}', expected one of ")
    assert name != "digit" or said.endswith("did you mean 'digits'?")


def test_every_data_set_says_what_it_is() -> None:
    for name, kind in datasets().items():
        assert kind.__doc__, name
        assert not kind.__doc__.startswith(f"{kind.__name__}("), name
