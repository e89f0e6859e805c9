"""RobustBench's model zoo: names and files, never a download, and its own clean accuracy as a cross-check."""

import importlib
import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import robustcl
from robustcl.bench.autoattack.reference import package
from robustcl.bench.offline import no_network
from robustcl.bench.zoo import load_zoo, robustbench
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images
from tests.bench.tiny import one_line
from tests.test_cli import Call

NAME = "Nobody2026Tiny"
installed = pytest.mark.skipif(importlib.util.find_spec("robustbench") is None, reason="needs the extra robustbench")


class Tiny(nn.Module):
    """What a member of the zoo looks like: raw images in, its normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.pool, self.last = nn.AvgPool2d(8), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10)."""
        logits: torch.Tensor = self.last(self.pool(x - self.get_buffer("mean")).flatten(1))
        return logits


class Pair(nn.Module):
    """What an ensemble of the zoo looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.models = nn.ModuleList([Tiny(), Tiny()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, 10)."""
        return torch.stack([model(x) for model in self.models]).mean(0)


def images(n: int = 40) -> Images:
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=g).to(torch.uint8)
    return Images(pixels, torch.randint(0, 10, (n,), generator=g), classes=10, name="random")


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Path]:
    """A folder of models with the weights of one that was registered for the test."""
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("needs the extra robustbench")
    package = robustbench()
    data, threat = package.model_zoo.enums.BenchmarkDataset.cifar_10, package.model_zoo.enums.ThreatModel.Linf
    held = package.model_zoo.model_dicts[data][threat]
    held[NAME] = {"model": Tiny, "gdrive_id": "nowhere"}
    held["Nobody2026Pair"] = {"model": Pair, "gdrive_id": ["nowhere", "neither"]}
    torch.manual_seed(0)
    (tmp_path / "cifar10" / "Linf").mkdir(parents=True)
    torch.save({f"module.{key}": part for key, part in Tiny().state_dict().items()}, tmp_path / path(NAME))
    yield tmp_path
    del held[NAME], held["Nobody2026Pair"]


def path(name: str) -> str:
    return f"cifar10/Linf/{name}.pt"


@pytest.mark.parametrize("target", [f"robustbench:{NAME}", f"robustbench:cifar10/Linf/{NAME}"])
def test_a_registered_model_loads_from_a_folder(zoo: Path, target: str) -> None:
    model = load_zoo(target, zoo, classes=10, norm="linf")
    assert isinstance(model, Tiny)
    assert not model.training
    held = torch.load(zoo / path(NAME))
    assert torch.equal(model.last.weight, held["module.last.weight"])


def test_an_ensemble_loads_from_its_files(zoo: Path) -> None:
    torch.manual_seed(1)
    pair = Pair()
    for number, part in enumerate(pair.models):
        torch.save(part.state_dict(), zoo / "cifar10" / "Linf" / f"Nobody2026Pair.pt_m{number}.pt")
    model = load_zoo("robustbench:Nobody2026Pair", zoo, classes=10, norm="linf")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), pair(x))


def test_robustbench_finds_the_same_clean_accuracy(zoo: Path) -> None:
    held = images()
    model = load_zoo(f"robustbench:{NAME}", zoo, classes=10, norm="linf")
    ours = robustcl.evaluate(model, held.pixels, held.labels, threat=robustcl.Threat("8/255"), attacks=["pgd-1"])
    theirs = robustbench().utils.clean_accuracy(model, held.floats(slice(None)), held.labels, batch_size=16)
    assert ours.clean.mean() == pytest.approx(theirs)
    assert 0 < theirs < 1


@pytest.mark.parametrize(
    ("target", "classes", "norm", "says"),
    [
        (f"robustbench:{NAME}x", 10, "linf", f"did you mean '{NAME}'?"),
        ("robustbench:cifar11/Linf/a", 10, "linf", "unknown data set 'cifar11', expected one of cifar10, cifar100, im"),
        ("robustbench:cifar10/L7/a", 10, "linf", "unknown threat 'L7', expected one of L2, Linf, corruptions"),
        (
            f"robustbench:{NAME}",
            7,
            "linf",
            "unclear with 7 classes and linf, expected a full name such as robustbench:",
        ),
        ("robustbench:imagenet/Linf/Standard_R50", 1000, "linf", "expected the weights of Standard_R50 there (the hub"),
        (f"robustbench:{NAME}", 10, "l1", "unclear with 10 classes and l1"),
        ("robustbench:Carmon2019Unlabeled", 10, "linf", "cifar10/Linf/Carmon2019Unlabeled.pt: no such file, expected"),
        ("robustbench:Nobody2026Pair", 10, "linf", "cifar10/Linf/Nobody2026Pair.pt_m0.pt: no such file, expected the "),
    ],
)
def test_what_is_not_there_is_one_line(zoo: Path, target: str, classes: int, norm: str, says: str) -> None:
    (zoo / "imagenet" / "Linf").mkdir(parents=True)
    (zoo / "imagenet" / "Linf" / "Standard_R50.pt").touch()  # which their code would not even read
    with pytest.raises(UserError) as caught:
        load_zoo(target, zoo, classes=classes, norm=norm)
    assert says in one_line(caught.value)


def test_other_weights_and_damaged_files_are_one_line(zoo: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), zoo / path(NAME))
    with pytest.raises(UserError, match=f"{NAME}.pt: not the weights of {NAME}") as caught:
        load_zoo(f"robustbench:{NAME}", zoo, classes=10, norm="linf")
    one_line(caught.value)
    (zoo / path(NAME)).write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(UserError, match="not the weights of"):
        load_zoo(f"robustbench:{NAME}", zoo, classes=10, norm="linf")


def test_a_folder_is_asked_for() -> None:
    with pytest.raises(UserError, match="expected --models FOLDER"):
        load_zoo("robustbench:Carmon2019Unlabeled", None, classes=10, norm="linf")


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "robustbench" else find(name))
    with pytest.raises(UserError) as caught:
        load_zoo("robustbench:Carmon2019Unlabeled", tmp_path, classes=10, norm="linf")
    assert "python -m pip install 'robustcl[robustbench]'" in one_line(caught.value)


@installed
def test_the_adapter_leaves_nothing_behind() -> None:
    before = package()
    robustbench()
    assert package() == before
    assert importlib.util.find_spec("autoattack") is None or "autoattack" in before
    assert "autoattack" not in sys.modules or "autoattack" in before


def test_the_network_is_shut_and_opened_again() -> None:
    door = socket.create_connection
    with no_network(), pytest.raises(UserError, match="offline: something tried to reach"):
        socket.create_connection(("example.invalid", 80))
    assert socket.create_connection is door


def test_a_model_of_the_zoo_is_a_row(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    held = images(20)
    pixels = held.pixels.permute(0, 2, 3, 1).numpy()
    arrays: dict[str, Any] = {"train_images": pixels, "test_images": pixels}
    arrays |= {f"{split}_labels": np.arange(20) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "cifar.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    words = ("--data", "npz:cifar.npz", "--eps", "8/255", "--attacks", "pgd-1", "--models", zoo)
    told = Call(monkeypatch, capsys)("evaluate", f"robustbench:{NAME}", *words)
    assert told.code == 0, told.err
    assert f"| as given | {NAME}" in told.out
    assert "evaluate: cifar, linf 8/255" in told.out
