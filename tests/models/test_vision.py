"""Tests of the import of torchvision: late, once, and where its compiled part does not load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustcl.models.errors import UserError
from robustcl.models.vision import torchvision

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
