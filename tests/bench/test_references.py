"""[reference] of a suite: classifiers from outside beside its own encoders, in workers too, known by their weights."""

import json
import sys
from pathlib import Path

import pytest

import robustcl
from robustcl.bench.runner import make, prepare
from robustcl.models.errors import UserError
from robustcl.reports.report import report
from tests.bench.tiny import Quiet, one_line, write_suite

FILE = """
import torch
from torch import nn
from utils import seed

def make():
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
REFERENCE = """
[reference.theirs]
factory = "net_of_theirs.py:make"
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of somebody's, which a test stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "net_of_theirs.py").write_text(FILE)
    (tmp_path / "utils.py").write_text("seed = 1\n")
    return tmp_path


def test_a_reference_is_a_row_beside_our_own(desk: Path) -> None:
    job = prepare(
        write_suite(desk, more=REFERENCE), overrides=["judge.sweep.eps=['1/20']", "judge.sweep.judges=['pgd-3']"]
    )
    make(job, Quiet(), 2)  # workers are processes of their own, which load it again
    records = robustcl.frame(desk / "runs" / "tiny")
    theirs = records[records["encoder"] == "theirs"]
    assert set(theirs["scheme"]) == {"as given"}
    assert set(theirs["eps"]) == {"1/10", "1/20"}
    assert set(theirs.loc[theirs["headline"], "eps"]) == {"1/10"}
    ours = records[(records["encoder"] == "at") & records["headline"]]
    assert sorted(theirs["image"].unique()) == sorted(ours["image"].unique())
    lines = [line.split("|")[1:3] for line in str(report("runs/tiny")).splitlines() if line.startswith("| ")]
    rows = [(scheme.strip(), row.strip()) for scheme, row in lines]
    assert ("as given", "theirs") in rows
    assert ("SLF", "at") in rows
    assert not {("SLF", "theirs"), ("as given", "at"), ("as given", "random")} & set(rows)


def test_its_weights_are_its_key(desk: Path) -> None:
    suite = write_suite(desk, more=REFERENCE)
    keys = {stage.label: stage.key for stage in prepare(suite).plan.stages}
    assert keys == {stage.label: stage.key for stage in prepare(suite).plan.stages}
    (desk / "utils.py").write_text("seed = 2  # which changes the weights\n")
    sys.modules.pop("utils", None)
    other = {stage.label: stage.key for stage in prepare(suite).plan.stages}
    assert {label for label, key in keys.items() if other[label] != key} == {"evaluate theirs at 1/10"}


def test_weights_that_change_after_the_plan_are_refused(desk: Path) -> None:
    job = prepare(write_suite(desk, more=REFERENCE))
    (desk / "utils.py").write_text("seed = 3  # which changes the weights\n")
    sys.modules.pop("utils", None)
    with pytest.raises(UserError) as caught:
        make(job, Quiet(), 1)
    assert "evaluate theirs at 1/10: its weights have changed since the plan was made" in one_line(caught.value)


def test_a_grid_has_a_reference_once_unless_it_goes_over_judging(desk: Path) -> None:
    more = REFERENCE + '[grid]\n"pretrain.at.training.epochs" = [1, 2]\n'
    cells = prepare(write_suite(desk, more=more)).plan.cells
    assert [cell["encoder"] for cell in cells if cell["scheme"] == "as given"] == ["theirs"]
    more = REFERENCE + '[grid]\n"judge.images" = [10, 20]\n'
    cells = prepare(write_suite(desk, more=more)).plan.cells
    rows = [cell["encoder"] for cell in cells if cell["scheme"] == "as given"]
    assert rows == ["theirs (images=10)", "theirs (images=20)"]


def test_what_a_suite_resolves_to_names_its_references(desk: Path) -> None:
    job = prepare(write_suite(desk, more=REFERENCE))
    make(job, Quiet(), 1)
    held = json.loads((desk / "runs" / "tiny" / "suite.json").read_text())["resolved"]["points"][0]
    assert held["reference"]["theirs"]["factory"] == "net_of_theirs.py:make"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[reference.a]\n", "tiny.reference.a: expected either factory = "),
        ('[reference.a]\nfactory = "x.py:f"\nrobustbench = "b"\n', "tiny.reference.a: expected either factory = "),
        ('[reference.a]\nfactori = "x.py:f"\n', "tiny.reference.a: unknown key 'factori'"),
        ('[reference.a]\nfactory = "x.py:f"\n', "tiny.reference.a: x.py: no such file, expected one with a function f"),
        (
            '[reference.a]\nrobustbench = "Wong2020Fast"\n',
            "tiny.reference.a: robustbench:Wong2020Fast: expected --models",
        ),
        ('[reference.at]\nfactory = "x.py:f"\n', "tiny.reference.at: this name is taken by an encoder"),
        ('[reference.random]\nfactory = "x.py:f"\n', "tiny.reference.random: this name is taken by an encoder"),
    ],
)
def test_mistakes_are_one_line(desk: Path, more: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(write_suite(desk, more=more))
    assert says in one_line(caught.value)
