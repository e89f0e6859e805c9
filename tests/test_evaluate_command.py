"""`robustcl evaluate`: a classifier from somebody's repository, into a run folder that the other commands read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robustcl
from robustcl.bench import reliability
from robustcl.bench.attacks import judges
from robustcl.bench.budget import blocks
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.pace import most
from robustcl.models.architecture import read_architecture
from robustcl.models.checkpoint import save_classifier, save_encoder
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.reports import drawing
from tests.models.official import torchvision
from tests.test_cli import Call

ROOT = Path(__file__).resolve().parent.parent

MODEL = """
from pathlib import Path

import torch
from torch import nn

def make(classes=10, scale=1.0):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))
    model[2].weight.data *= scale
    return model

other = lambda: make(scale=2.0)
wide = lambda: make(classes=7)
coloured = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 10))
flat = lambda: (lambda x: x.mean((1, 2, 3)))
meta = lambda: nn.Linear(64, 10, device="meta")
double = lambda: make().double()
bare = lambda: (lambda x: x.flatten(1)[:, :10])
def fails(): return lambda x: 1 / 0


class Stops(nn.Module):
    # As `make`, but for a stop at the 30th pass of it and its copies, unless a file is there.
    count = 0

    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        Stops.count += 1
        if Stops.count == 30 and not Path("go").exists():
            raise KeyboardInterrupt
        return self.net(x)
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    finders = list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.setattr(drawing, "save", lambda run, folder: [])  # most of the time, and tested elsewhere
    (tmp_path / "their_net.py").write_text(MODEL)
    return Call(monkeypatch, capsys)


FEW = ("--data", "digits", "--eps", "1/10", "--images", "24", "--attacks", "pgd-2,square")
ALONE = ("--data", "digits", "--eps", "1/10", "--attacks", "pgd-2,apgd-ce")
NAMES = ["pgd-2", "apgd-ce"]


def judged(call: Call, *words: str, target: str = "their_net.py:make") -> str:
    told = call("evaluate", target, *ALONE, *words)
    assert told.code == 0, told.err
    return told.out


def test_a_model_is_judged_as_robustcl_evaluate_judges_it(call: Call, tmp_path: Path) -> None:
    out = judged(call, "--images", "24", "--batch", "8")
    records = robustcl.frame("runs/evaluate-their_net-make")
    test = Digits().load().test.sample(24)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    threat = robustcl.Threat("1/10")
    same = robustcl.evaluate(
        model, test.floats(slice(None)), test.labels, threat=threat, attacks=NAMES, batch_size=8, index=test.index
    )
    columns = ["image", "answer", "right", "margin", "distance", "step", "passes"]
    pd.testing.assert_frame_equal(records[columns], same.records[columns], check_dtype=False)
    assert set(records["encoder"]) == {"their_net:make"}
    assert set(records["scheme"]) == {"as given"}
    assert set(records["method"]) == {"Sequential"}
    assert "| as given | their_net:make" in out
    assert f"{100 * same.clean.mean():.1f} [" in out
    report = call("report", "runs/evaluate-their_net-make")
    assert report.code == 0
    assert report.out == out


def test_the_second_time_answers_from_the_store(call: Call) -> None:
    first = judged(call, "--images", "24")
    told = call("evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-2,apgd-ce",
                "--images", "24")  # fmt: skip
    assert told.err == "", "nothing is estimated and nothing is judged"
    assert told.out == first


def test_an_interrupted_call_goes_on_from_its_batches(call: Call, tmp_path: Path) -> None:
    words = ("evaluate", "their_net.py:Stops", *ALONE, "--images", "40", "--batch", "20")
    told = call(*words)
    assert told.code == 130
    kept = list((tmp_path / "runs/evaluate-their_net-Stops/evaluate").glob(".*/progress/batches/*.npz"))
    assert kept, "at least a batch was through"
    (tmp_path / "go").touch()
    told = call(*words, "--seed", "1")
    assert told.code == 2
    assert "row 'their_net:Stops' was interrupted with seed 0, now 1; expected the same" in told.line
    assert call(*words).code == 0
    assert call(*words, "--runs", "whole").code == 0
    stopped, whole = (next((tmp_path / root).glob("evaluate/*/records.parquet")).read_bytes()
                      for root in ("runs/evaluate-their_net-Stops", "whole"))  # fmt: skip
    assert stopped == whole


def test_dry_run_estimates_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    told = call("evaluate", "their_net.py:make", *FEW, "--dry-run")
    assert told.code == 0
    assert "their_net:make on 24 images of digits, linf 1/10: pgd-2, square" in told.out
    passes = most(judges(["pgd-2", "square"], 10), 10, 24) + reliability.cost(24)
    assert f"at most {passes:,} passes: " in told.out
    assert "nothing was written" in told.out
    assert not (tmp_path / "runs").exists()


def test_the_first_line_of_a_run_is_an_estimate(call: Call) -> None:
    told = call(
        "evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", "--images", "9", "--attacks", "pgd-1"
    )
    first = told.err.splitlines()[0]
    assert first.startswith("their_net:make on 9 images of digits")
    assert f"at most {9 * 4 + reliability.cost(9):,} passes: " in first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--images", "12"], "images 24, now 12"),
        (["--images", "24", "--seed", "1"], "seed 0, now 1"),
        (["--images", "24", "--attacks", "pgd-4"], "judges pgd-2, apgd-ce, now pgd-4"),
    ],
)
def test_another_protocol_in_the_same_row_is_refused(call: Call, words: list[str], says: str) -> None:
    judged(call, "--images", "24")
    told = call("evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", *with_attacks(words))
    assert told.code == 2
    assert "row 'their_net:make' at linf 1/10 is there with " in told.line
    assert says in told.line
    assert "another --name or another --runs folder" in told.line


def with_attacks(words: list[str]) -> list[str]:
    return words if "--attacks" in words else [*words, "--attacks", "pgd-2,apgd-ce"]


def test_other_weights_are_refused_under_the_same_name_and_a_row_under_another(call: Call) -> None:
    judged(call, "--images", "24", "--runs", "both")
    again = ("evaluate", "their_net.py:other", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-2,apgd-ce")
    told = call(*again, "--images", "24", "--runs", "both", "--name", "their_net:make")
    assert told.code == 2
    assert "with weights " in told.line
    told = call(*again, "--images", "24", "--runs", "both")
    assert told.code == 0
    assert "| their_net:make" in told.out
    assert "| their_net:other" in told.out


def test_the_folder_of_a_suite_is_refused(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "suite.json").write_text(json.dumps({"schema": 1, "suite": "quickstart", "cells": []}))
    told = call("evaluate", "their_net.py:make", *FEW, "--runs", str(folder))
    assert told.code == 2
    assert "written by suite 'quickstart', expected 'evaluate'" in told.line


def test_several_radii_are_a_sweep_with_a_table_each(call: Call) -> None:
    out = judged(call, "--images", "30", "--eps", "1/20")
    assert out.index("linf 1/20") < out.index("linf 1/10")
    records = robustcl.frame("runs/evaluate-their_net-make")
    small, large = (records[(records["eps"] == eps) & (records["judge"] != "clean")] for eps in ("1/20", "1/10"))
    broken = small[~small["right"]]
    assert len(broken) > 0
    taken = large.merge(broken[["image", "judge"]], on=["image", "judge"])
    assert not taken["right"].any()
    assert set(taken["passes"]) == {0}, "what a smaller ball broke costs nothing in a larger one"
    told = call("evaluate", "their_net.py:make", *ALONE, "--images", "30")
    assert told.code == 2
    assert "smaller eps 1/20, now none" in told.line


def test_adversarial_images_are_kept_and_judged_again(call: Call) -> None:
    judged(call, "--images", "30", "--save-adversarial", "a.npz", "--runs", "first")
    again = ("evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", "--images", "30")
    told = call(*again, "--attacks", "saved:a.npz", "--runs", "second")
    assert told.code == 0, told.err
    first, second = (robustcl.frame(folder) for folder in ("first", "second"))
    worst = first.groupby("image")["right"].all()
    assert second.groupby("image")["right"].all().equals(worst)
    assert 0 < worst.sum() < first.groupby("image")["right"].first().sum()
    first_again = ("evaluate", "their_net.py:make", *ALONE, "--images", "30", "--save-adversarial", "a.npz")
    assert call(*first_again, "--runs", "first").code == 0
    judged(call, "--images", "30", "--seed", "1", "--save-adversarial", "a.npz", "--runs", "third")
    for _ in range(2):  # a file of another judgement, then none
        told = call(*first_again, "--runs", "first")
        assert told.code == 2
        assert "a.npz: evaluate their_net:make at 1/10 is there without its adversarial images" in told.line
        Path("a.npz").unlink(missing_ok=True)


@pytest.mark.parametrize("more", [["--eps", "1/20"], ["--budget", "1m"]])
def test_adversarial_images_are_of_one_radius_and_of_all_images(call: Call, more: list[str]) -> None:
    told = call("evaluate", "their_net.py:make", *FEW, "--save-adversarial", "a.npz", *more)
    assert told.code == 2
    assert "--save-adversarial a.npz: expected a file in a folder, one radius and no --budget" in told.line


def test_a_budget_goes_on_where_it_stopped(call: Call) -> None:
    first = judged(call, "--batch", "20", "--budget", "0.001s")
    assert "20 of 360 images, budget <1 s" in " ".join(first.split())
    images = Digits().load().test
    one = robustcl.frame("runs/evaluate-their_net-make")
    assert sorted(one["image"].unique()) == blocks(images, 20)[0].index.tolist()
    told = call("evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-2,apgd-ce",
                "--batch", "20", "--budget", "1h")  # fmt: skip
    assert "360 of 360 images, budget 60 min" in " ".join(told.out.split())
    assert "block 1 of 18" not in told.err, "what is there is not judged again"
    assert "block 2 of 18" in told.err
    whole = robustcl.frame("runs/evaluate-their_net-make")
    columns = ["image", "judge", "answer", "margin", "step"]
    held = whole.loc[whole["image"].isin(one["image"]), columns].reset_index(drop=True)
    assert held.astype(str).equals(one[columns].reset_index(drop=True).astype(str))
    assert whole["image"].nunique() == 360


def test_a_budget_counts_small_blocks_unless_told_otherwise(call: Call) -> None:
    words = ("evaluate", "their_net.py:make", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-2")
    assert "in blocks of 32 images" in call(*words, "--budget", "1h", "--dry-run").out
    assert "in blocks of 64 images" in call(*words, "--budget", "1h", "--batch", "64", "--dry-run").out
    told = call(*words, "--attacks", "apgd-ce", "--images", "4", "--engine", "reference")
    assert "batch 256; pyautoattack" in " ".join(told.out.split())


def test_a_budget_has_the_records_of_no_budget_where_batches_play_no_part(call: Call) -> None:
    words = (
        "evaluate",
        "their_net.py:make",
        "--data",
        "digits",
        "--eps",
        "1/10",
        "--attacks",
        "pgd-3",
        "--images",
        "30",
    )
    call(*words, "--runs", "one")
    call(*words, "--runs", "other", "--budget", "1h", "--batch", "7")
    one, other = (robustcl.frame(folder).drop(columns=["protocol", "stage"]) for folder in ("one", "other"))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("their_net.py:mak", "no function 'mak'; did you mean 'make'?"),
        ("their_net.py:wide", "answers with 7 logits, expected 10, the classes of the data"),
        ("their_net.py:coloured", "fails on an image of shape (1, 8, 8): RuntimeError: "),
        ("their_net.py:flat", "answers of shape (1,), expected logits of shape (n, classes)"),
        ("their_net.py:double", "parameters of type torch.float64, expected float32"),
        ("their_net.py:meta", "cannot be moved to cpu: NotImplementedError: Cannot copy out of meta tensor"),
        ("their_net.py:fails", "ZeroDivisionError: division by zero ("),
        ("no.safetensors", "no.safetensors: no such file, expected a checkpoint written by robustcl"),
        ("net.pt", "net.pt: not a factory, expected path/to/file.py:name or package.module:name (or the file of an"),
        ("robustbench:Wong2020Fast", "expected --models FOLDER"),
    ],
)
def test_a_wrong_model_is_one_line(call: Call, target: str, says: str) -> None:
    told = call("evaluate", target, *FEW)
    assert told.code == 2
    assert says in told.line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "digit", "--eps", "1/10"], "did you mean 'digits'?"),
        (["--data", "mnist.npz", "--eps", "1/10"], "did you mean 'npz:mnist.npz'?"),
        (["--data", "npz:nothing.npz", "--eps", "1/10"], "nothing.npz: no such file"),
        (["--data", "{name = ", "--eps", "1/10"], "not a TOML table"),
        (["--data", "digits", "--eps", "0.0314"], "did you mean '8/255'?"),
        (
            ["--data", "digits", "--eps", "1/10", "--norm", "l3"],
            "robustcl: --norm: 'l3' is wrong, expected 'linf', 'l2'",
        ),
        (["--data", "npz", "--eps", "1/10"], "--data npz: expected where it lies, such as --data npz:cifar10.npz"),
        (
            ["--data", "cifar10", "--eps", "1/10"],
            "such as --data cifar10:data; 'robustcl fetch cifar10 data' downloads",
        ),
        (["--data", "digits", "--eps", "1/10", "--images", "999"], "expected at most the 360 test images"),
        (["--data", "digits", "--eps", "1/10", "--attacks", "pdg-20"], "did you mean 'pgd-20'?"),
        (["--data", "digits", "--eps", "1/10", "--budget", "20"], "such as 20m"),
        (["--data", "digits", "--eps", "1/10", "--set", "judge.images=3"], "expected data.<key>=<value>"),
        (["--data", "digits", "--eps", "1/10", "--device", "cuda:99"], "--device cuda:99: not available"),
        (["--data", "digits", "--eps", "1/10", "--profile", "robustssl"], "expected --scheme with it"),
        (["--data", "digits", "--eps", "1/10", "--scheme", "SLF", "--budget", "1m"], "expected neither --budget"),
    ],
)
def test_a_wrong_word_is_one_line(call: Call, words: list[str], says: str) -> None:
    told = call("evaluate", "their_net.py:make", *words)
    assert told.code == 2
    assert says in told.line


@pytest.mark.parametrize("data", ["npz:few.npz", "{name = 'npz', path = 'few.npz'}", "npz --set data.path=few.npz"])
def test_data_are_named_in_any_form(call: Call, data: str) -> None:
    train, test = Digits().load()
    arrays = {"train": train.take(slice(0, 20)), "test": test.take(slice(0, 12))}
    held: dict[str, Any] = {f"{split}_images": of.pixels[:, 0].numpy() for split, of in arrays.items()}
    held |= {f"{split}_labels": of.labels.numpy() for split, of in arrays.items()}
    np.savez("few.npz", **held)
    words = data.split(" --") if " --" in data else [data]
    more = [part for word in words[1:] for part in f"--{word}".split(" ")]
    told = call("evaluate", "their_net.py:bare", "--data", words[0], *more, "--eps", "1/10", "--attacks", "pgd-1")
    assert told.code == 0, told.err
    assert "evaluate: few, linf 1/10 (0.1), n = 12 images" in told.out


def test_a_classifier_of_ours_needs_no_factory(call: Call, tmp_path: Path) -> None:
    encoder = Encoder(read_architecture({"name": "tiny", "width": 2, "blocks": [1]}, "encoder"), (1, 8, 8))
    save_classifier(tmp_path / "mine.safetensors", Classifier(encoder, nn.Linear(encoder.width, 10)))
    told = call(
        "evaluate", "mine.safetensors", "--data", "digits", "--eps", "1/10", "--images", "8", "--attacks", "pgd-1"
    )
    assert told.code == 0
    assert "| as given | mine " in told.out


def test_an_encoder_is_finetuned_first(call: Call, tmp_path: Path) -> None:
    encoder = Encoder(read_architecture({"name": "tiny", "width": 2, "blocks": [1]}, "encoder"), (1, 8, 8))
    save_encoder(tmp_path / "body.safetensors", encoder, "normal")
    words = ("evaluate", "body.safetensors", "--data", "digits", "--eps", "1/10", "--images", "8", "--attacks", "pgd-1")
    told = call(*words)
    assert told.code == 2
    assert "holds an encoder, expected --scheme with it" in told.line
    told = call(*words, "--scheme", "SLF", "--dry-run", "--set", "finetune.SLF.training.epochs=2")
    assert told.code == 0
    assert "import body" in told.out
    assert re.search(rf"^finetune body SLF +to make +{2 * 1437:,} ", told.out, re.MULTILINE)
    assert "evaluate body SLF at 1/10" in told.out


def test_what_a_layout_has_otherwise_is_set(call: Call, tmp_path: Path) -> None:
    grey = {name: part[:, :1] if name == "conv1.weight" else part for name, part in torchvision()[1].items()}
    torch.save(grey, tmp_path / "grey.pth")
    words = ("evaluate", "grey.pth", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-1", "--scheme", "SLF")
    told = call(*words, "--dry-run")
    assert told.code == 2
    assert "expected 1 numbers each; set mean and std" in told.line
    own = ("--set", "pretrain.grey.mean=[0.5]", "--set", "pretrain.grey.std=[0.5]")
    told = call(*words, *own, "--dry-run")
    assert told.code == 0, told.err
    assert "import grey" in told.out
    told = call(*words, *own, "--set", "pretrain.grey.steam=3x3")
    assert "unknown key 'steam'" in told.line


def test_from_a_fresh_shell_inside_a_repository(tmp_path: Path) -> None:
    """Its `models`, `utils`, `data`, `bench` and even `queue` are there, and nothing but its own file sees them."""
    bomb = "raise SystemExit('this module was not asked for')\n"
    files = {
        "models/__init__.py": "from models.net import Net\n",
        "models/net.py": "from torch import nn\nfrom utils import hidden\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, 10))\n",
        "utils.py": "hidden = 5\n",
        **{f"{name}/__init__.py": bomb for name in ("bench", "reports", "pretraining", "data")},
        **{f"{name}.py": bomb for name in ("queue", "typer", "pandas", "robustcl", "autoattack", "csv")},
        "scripts/load.py": "from models import Net\nfrom utils import hidden\n\n\ndef build():\n    return Net()\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    words = ["evaluate", "scripts/load.py:build", "--data", "digits", "--eps", "8/255", "--images", "8"]
    code = "import sys; sys.argv[0] = 'robustcl'; from robustcl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words, "--attacks", "pgd-2,apgd-ce"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| as given | load:build" in done.stdout
    records = robustcl.frame(tmp_path / "runs" / "evaluate-load-build")
    assert set(records["method"]) == {"Net"}
    assert records["image"].nunique() == 8


def test_the_module_form_keeps_the_working_folder_out(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('this is the typer of the reader')\n")
    done = subprocess.run(
        [sys.executable, "-m", "robustcl", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"robustcl {robustcl.__version__}\n", done.stderr
