"""Tests of the import of torchvision: late, once, and where its compiled part does not load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustcl.models.errors import UserError
from robustcl.models.vision import MEAN, STD, features_of, torchvision, weights_file

# What the real package does at import: it registers more about operators that its compiled part declares.
STRICT = "import torch\ntorch.library.register_fake('torchvision::nms')(lambda dets, scores, iou: dets)\n"


def run(code: str, *first: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(folder) for folder in (*first, Path.cwd()))
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a torchvision that was built for another torch."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STRICT)
    (package / "_C.so").write_bytes(b"built for another torch")
    return tmp_path


def test_gives_a_working_torchvision_again_and_again() -> None:
    vision = torchvision()
    assert vision is torchvision()
    image, _ = vision.datasets.FakeData(size=1, image_size=(3, 4, 4), transform=vision.transforms.ToTensor())[0]
    assert image.shape == (3, 4, 4)


def test_a_pair_that_does_not_fit_fails_without_us(broken: Path) -> None:
    done = run("import torchvision", broken)
    assert "operator torchvision::nms does not exist" in done.stderr


def test_a_pair_that_does_not_fit_imports_with_us(broken: Path) -> None:
    code = "from robustcl.models.vision import torchvision\nassert torchvision() is torchvision()"
    done = run(code, broken)
    assert done.returncode == 0, done.stderr


def test_missing_torchvision_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="torchvision: not installed"):
        torchvision()


def test_features_are_those_before_the_classifier(tmp_path: Path) -> None:
    network = torchvision().models.mobilenet_v3_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "network.pth")
    features = features_of("mobilenet_v3_small", tmp_path / "network.pth", 32, channels=1)
    grey = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    with torch.no_grad():
        expected = network((grey.repeat(1, 3, 1, 1) - mean) / std)
        assert torch.equal(network.classifier[-1](features(grey)), expected)
        assert features(torch.rand(2, 3, 8, 8)).shape == (2, 1024), "images of any size"


@pytest.mark.parametrize(
    ("name", "held", "channels", "says"),
    [
        ("mobilenet_v3", {}, 3, "unknown network 'mobilenet_v3'"),
        ("squeezenet1_1", {}, 3, "ends in no linear classifier"),
        ("mobilenet_v3_small", {"a": torch.ones(1)}, 3, "expected all of them and no other"),
        ("mobilenet_v3_small", {"model": {}}, 3, "holds nothing, expected tensors by name"),
        ("mobilenet_v3_small", {}, 2, "images of 2 channels, expected 1 or 3"),
        ("mobilenet_v3_small", None, 3, "not a file of weights"),
    ],
)
def test_networks_that_do_not_fit_are_one_line(
    tmp_path: Path, name: str, held: object, channels: int, says: str
) -> None:
    path = tmp_path / "network.pth"
    torch.save(held, path) if held is not None else path.write_bytes(b"no weights")
    with pytest.raises(UserError) as caught:
        features_of(name, path, 32, channels)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_official_weights_are_taken_from_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="never downloaded by robustcl, expected it; get it from https://") as caught:
        weights_file("mobilenet_v3_small", "IMAGENET1K_V1", "suite.labels.x")
    assert str(caught.value).startswith("suite.labels.x: ")
    name = str(caught.value).rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).write_bytes(b"")
    assert weights_file("mobilenet_v3_small", "IMAGENET1K_V1", "x") == tmp_path / "hub" / "checkpoints" / name
    assert weights_file("mobilenet_v3_small", "mine.pth", "x") == Path("mine.pth")
