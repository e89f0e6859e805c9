"""`robustcl check --sequential`: decisions, restarts, the baseline's protocol, and one clean line for every mistake."""

import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from robustcl import cli
from robustcl.bench import evaluate
from robustcl.bench.datasets.digits import Digits
from robustcl.reports import drawing
from robustcl.reports.baseline import read_baseline
from tests.test_cli import Call

MODEL = """
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from robustcl.bench.datasets.digits import Digits


def model(noise=0.0, scale=1.0):
    train = Digits().load().train
    x, y = train.floats(slice(None)).flatten(1), train.labels
    fitted = LogisticRegression(C=0.1, max_iter=200).fit(x.numpy(), y.numpy())
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.manual_seed(0)
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(fitted.coef_) + noise * torch.randn(10, 64))
        net[1].bias.copy_(torch.from_numpy(fitted.intercept_))
    return net


def again():
    return model(noise=0.002)


def worse():
    return model(noise=0.3)


class Odd(nn.Module):
    def __init__(self, divisor):
        super().__init__()
        self.net, self.divisor = model(), divisor

    def forward(self, x):
        return self.net(x) / self.divisor


def nan():
    return Odd(float("nan"))


class Vanishing(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, x):
        return self.net((x * 4).round() / 4)  # of no gradient: attacks see nothing


def masked():
    return Vanishing()
"""
EVALUATE = ("evaluate", "net.py:model", "--data", "digits", "--eps", "1/20", "--name", "net",
            "--attacks", "pgd-1,pgd-3")  # fmt: skip
SEQUENTIAL = ("--baseline", "base.parquet", "--sequential", "--margin", "5", "--block", "64")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and a baseline of the first, blessed as a user would."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("base")
        patch.chdir(folder)
        patch.delenv("CI", raising=False)
        patch.setattr(drawing, "save", lambda run, folder: [])  # most of the time, and tested elsewhere
        Path("net.py").write_text(MODEL)
        for words in (EVALUATE, ("bless", "runs/evaluate-net", "--baseline", "base.parquet")):
            patch.setattr(sys, "argv", ["robustcl", *words])
            cli.main()
    return folder


@pytest.fixture
def call(base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    for name in ("net.py", "base.parquet"):
        shutil.copy(base / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return Call(monkeypatch, capsys)


def test_the_same_model_is_ok_after_a_part_of_the_images(call: Call) -> None:
    told = call("check", "net.py:model", *SEQUENTIAL)
    assert told.code == 0, told.err
    assert "OK: of 3 rows 3 lost at most 5 points" in told.out
    assert "attacked 128 of 360 images (36%), in a fixed random order" in told.out
    assert "64 of 360 images attacked; drop in points: SA +0.0 [" in told.err
    assert call("check", "net.py:again", *SEQUENTIAL).code == 0


def test_a_worse_model_is_a_regression_before_all_images_are_attacked(call: Call, tmp_path: Path) -> None:
    told = call("check", "net.py:worse", *SEQUENTIAL, "--junit", "out/check.xml", "--markdown", "out/check.md")
    assert told.code == 1
    assert "REGRESSION" in told.out
    assert "360 of 360" not in told.err
    assert "### robustcl check: REGRESSION" in (tmp_path / "out/check.md").read_text()
    assert int(ElementTree.parse(tmp_path / "out/check.xml").getroot().attrib["failures"]) >= 1


def test_a_lost_clean_accuracy_is_seen_before_anything_is_attacked(call: Call) -> None:
    told = call("check", "net.py:worse", "--baseline", "base.parquet", "--sequential", "--margin", "1")
    assert told.code == 1
    assert "attacked 0 of 360 images" in told.out
    assert "not attacked, as a regression is certain without: net as given RA (PGD-1)" in told.out.replace("\n  ", " ")


def test_what_cannot_be_told_says_how_many_images_could(call: Call) -> None:
    told = call(
        "check", "net.py:again", "--baseline", "base.parquet", "--sequential", "--margin", "0.2", "--block", "180"
    )
    assert told.code == 3
    assert "attacked 360 of 360 images (100%)" in told.out
    assert "CANNOT TELL: takes" in told.out


def test_images_have_the_records_that_they_have_without_blocks(call: Call) -> None:
    call("check", "net.py:model", *SEQUENTIAL, "--runs", "seen", "--judge", "pgd-3")
    parts = [pd.read_parquet(path) for path in sorted(Path("seen/block").glob("*/records.parquet"))]
    seen = pd.concat(parts).astype({"judge": str})
    (whole,) = (row for row in read_baseline("base.parquet").rows if row.judge == "pgd-3")
    right = seen[seen["judge"] == "pgd-3"].set_index("image")["right"]
    before = pd.Series(whole.right, index=whole.image).loc[right.index]
    np.testing.assert_array_equal(right.to_numpy(), before.to_numpy())
    assert 0 < len(right) < 360


def test_an_interrupted_check_goes_on_with_its_blocks(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    whole, stop = evaluate.judge, True

    def stops(model: object, images: object, trial: object) -> pd.DataFrame:
        found = whole(model, images, trial)  # type: ignore[arg-type]
        judged.append(len(found))
        if stop and len(judged) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr("robustcl.bench.judged.judge", stops)
    assert call("check", "net.py:model", *SEQUENTIAL).code == 130
    assert len(list(Path("runs/check-net-model/block").glob("[!.]*"))) == 1
    stop = False
    judged.clear()
    told = call("check", "net.py:model", *SEQUENTIAL)
    assert told.code == 0
    assert len(judged) == 1, "of two blocks one was there"
    judged.clear()
    assert call("check", "net.py:model", *SEQUENTIAL).out == told.out
    assert not judged


def test_masked_gradients_are_never_ok(call: Call) -> None:
    told = call("check", "net.py:masked", *SEQUENTIAL)
    assert told.code == 3
    assert "CANNOT TELL: the number now is unreliable" in told.out


def test_answers_that_are_no_numbers_end_with_their_code(call: Call) -> None:
    assert call("check", "net.py:nan", *SEQUENTIAL).code == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["net.py:model", "--baseline", "none.parquet", "--sequential"], "none.parquet: no such file"),
        (["runs", "--baseline", "base.parquet", "--data", "digits"], "--data given, expected --sequential"),
        (["net.py:model", *SEQUENTIAL, "--data", "npz:other.npz"], "are not the 360 of the baseline"),
        (["net.py:gone", *SEQUENTIAL], "net.py: no function 'gone'"),
        (["net.py:model", *SEQUENTIAL, "--encoder", "nett"], "did you mean 'net'"),
        (["net.py:model", *SEQUENTIAL, "--judge", "clean"], "no row under attack"),
        (["net.py:model", "--baseline", "base.parquet", "--sequential", "--margin", "-1"], "margin: -1 points"),
        ([".", *SEQUENTIAL], "finetune/<key>/classifier.safetensors"),
    ],
)
def test_mistakes_are_one_line(call: Call, words: list[str], says: str) -> None:
    test = Digits().load().test
    pixels = test.pixels.numpy().copy()
    pixels[0] += 1
    labels = test.labels.numpy()
    np.savez("other.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    told = call("check", *words)
    assert told.code == 2, told.err
    assert says in told.line
    assert not Path("runs/check-net-model").exists()
