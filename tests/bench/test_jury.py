"""Judges that a suite defines itself, transfer between its encoders, and sweeps that take over what is broken."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Attack
from robustcl.bench.library import Library
from robustcl.bench.pgd import PGD
from robustcl.bench.plan import Plan, plan
from robustcl.bench.runner import make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.suite import resolved
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.checkpoint import load_classifier
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.reports.about import read_about
from tests.bench.tiny import Quiet, one_line, write_suite

OWN = """
[pretrain.other]
like = "at"
objective = "clean"
[judge.attacks.strong]
attack = "pgd"
steps = 4
loss = "margin"
restarts = 2
[[judge.attacks.both]]
attack = "fgsm"
[[judge.attacks.both]]
attack = "square"
queries = 20
[judge.attacks.moved]
attack = "transfer"
encoder = "other"
with = { attack = "pgd", steps = 3 }
"""
ASKED = "judge.judges=['pgd-1', 'strong', 'both', 'moved']"


def planned(folder: Path, *overrides: str, more: str = OWN) -> Plan:
    return plan(read_suite(write_suite(folder, more=more), [ASKED, *overrides]), Library())


def records(path: Path) -> pd.DataFrame:
    found: pd.DataFrame = pq.read_table(path / "records.parquet").to_pandas()
    return found.astype({"judge": str, "attack": str})


def test_own_judges_are_columns_and_only_they_depend_on_their_fields(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert made.cells[0]["judges"] == {
        "pgd-1": ["pgd-1"],
        "strong": ["pgd-margin-4x2"],
        "both": ["fgsm", "square-20"],
        "moved": ["transfer-other-pgd-3-last"],
    }
    other = planned(tmp_path, "judge.attacks.strong.steps=5")
    kinds = {stage.kind for stage in made.stages if stage.key not in {stage.key for stage in other.stages}}
    assert kinds == {"evaluate"}
    (suite,) = read_suite(write_suite(tmp_path, more=OWN))
    assert resolved(suite)["judge"]["attacks"]["strong"]["restarts"] == 2
    assert suite.attacks["strong"] == [PGD(steps=4, loss="margin", restarts=2)]
    assert suite.attacks["both"][1].batch is None  # type: ignore[attr-defined]
    (suite,) = read_suite(write_suite(tmp_path, more=OWN), ["judge.engine=reference"])
    assert suite.attacks["both"][1].batch == 8  # type: ignore[attr-defined]


def test_a_transfer_has_the_classifier_of_its_source_as_a_parent(tmp_path: Path) -> None:
    for stage in planned(tmp_path).stages:
        if stage.kind == "evaluate":
            assert stage.parents["source other"].label == "finetune other SLF"
    without = planned(tmp_path, "judge.judges=['pgd-1', 'strong']")
    assert all("source other" not in stage.parents for stage in without.stages)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "judge.attacks.moved.encoder=au",
            "tiny.judge.attacks.moved.encoder: unknown encoder 'au', expected one of at, other",
        ),
        ("judge.attacks.strong.steps=x", "tiny.judge.attacks.strong.steps: 'x' is wrong"),
        ("judge.attacks.strong.attack=pdg", "tiny.judge.attacks.strong.attack: unknown attack 'pdg'"),
        ("judge.judges=['stron']", "attacks: unknown attack 'stron'"),
        ("judge.judges=['saved:x.npz']", "'saved-x' is judged from Python alone"),
        ("judge.attacks=3", "tiny.judge.attacks"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, override)
    assert says in one_line(caught.value)


def test_a_sweep_goes_up_each_radius_on_the_one_below(tmp_path: Path) -> None:
    made = planned(tmp_path, "judge.sweep.eps=['1/5', '1/10', '1/50', '1/20']", "judge.sweep.judges=['pgd-1']")
    found = {stage.label: stage for stage in made.stages if stage.kind == "evaluate"}
    below = {label: stage.parents["smaller"].label for label, stage in found.items() if "smaller" in stage.parents}
    assert below == {
        f"evaluate {name} SLF at {eps}": f"evaluate {name} SLF at {less}"
        for name in ("at", "other", "random")
        for eps, less in (("1/20", "1/50"), ("1/5", "1/20"))
    }, "the radius of the table is judged by itself: its number depends on no sweep"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Any]:
    """The folders of a real run by the labels of their stages, and its job."""
    folder = tmp_path_factory.mktemp("jury")
    sweep = ("judge.sweep.eps=['1/20', '1/5', '2/5']", "judge.sweep.judges=['pgd-1', 'strong']")
    longer = ["pretrain.at.training.epochs=4", "pretrain.other.training.epochs=4", "judge.images=100"]
    longer += ["finetune.SLF.training.epochs=15", "finetune.SLF.training.batch=64"]
    job = prepare(write_suite(folder, more=OWN), runs=folder / "runs", overrides=[ASKED, *sweep, *longer])
    make(job, Quiet(), workers=1)
    return {stage.label: job.place.store.folder(stage) for stage in job.plan.stages}, job


def test_records_are_those_of_the_attacks_from_python(run: tuple[dict[str, Path], Any]) -> None:
    folders, job = run
    source, target = (
        load_classifier(next((folders[f"finetune {name} SLF"]).glob("classifier*.safetensors")))
        for name in ("other", "at")
    )
    images = job.points[0].data.load().test.sample(100)
    bench: dict[str, list[Attack]] = {
        "strong": [PGD(steps=4, loss="margin", restarts=2)],
        "moved": [Transfer(source=source, attack=PGD(steps=3, verdict="last"))],
    }
    expected = judge(target, images, Trial(threat=Threat("1/10"), judges=bench))
    found = records(folders["evaluate at SLF at 1/10"])
    for name in bench:
        one, other = (r[r["judge"] == name].set_index("image") for r in (found, expected))
        assert len(one) > 5
        for column in ("answer", "right", "step", "passes"):
            assert one[column].tolist() == other[column].tolist(), (name, column)
        assert torch.tensor(one["margin"].to_numpy()).allclose(torch.tensor(other["margin"].to_numpy()), atol=1e-5)


def test_records_carry_the_fingerprints_of_the_suite_and_are_checked(run: tuple[dict[str, Path], Any]) -> None:
    """Those of transfers too, whose source is a name in a suite and weights where it is run."""
    folders, job = run
    told = {cell["stage"]: cell["fingerprints"] for cell in job.plan.cells}
    for label, folder in folders.items():
        if label.startswith("evaluate "):
            about = read_about(folder / "records.parquet")
            assert about.fingerprints == told[folder.name]
            assert about.reliability is not None
    moved = next(of["moved"] for of in told.values() if "moved" in of)
    assert moved.startswith("moved@transfer-other-pgd-3-last from other 3it step eps/4; linf 1/10; seed 0; sha:")


@pytest.mark.parametrize("encoder", ["at", "other"])
def test_what_a_smaller_radius_broke_is_taken_over(run: tuple[dict[str, Path], Any], encoder: str) -> None:
    small, middle, large = (records(run[0][f"evaluate {encoder} SLF at {eps}"]) for eps in ("1/20", "1/5", "2/5"))
    total = 0
    for less, more in ((small, middle), (middle, large)):
        for name in ("pgd-1", "strong"):
            broken = less[(less["judge"] == name) & ~less["right"]].set_index("image")
            taken = more[(more["judge"] == name) & more["image"].isin(broken.index)].set_index("image")
            assert (taken["passes"] == 0).all()
            assert taken["margin"].to_dict() == broken["margin"].to_dict()
            total += len(taken)
    assert total > 0


BARE = """
import torch

def make():
    weight = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    return lambda x: x.flatten(1) @ weight
"""


def test_a_bare_callable_beside_the_suite_is_judged_but_nothing_is_transferred_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "bare_of_theirs.py").write_text(BARE)
    suite = write_suite(tmp_path, more=OWN + '[reference.theirs]\nfactory = "bare_of_theirs.py:make"\n')
    with pytest.raises(UserError, match=r"tiny\.judge: 'moved' transfers from 'other', not to \[reference\]"):
        prepare(suite, overrides=[ASKED])
    job = prepare(suite, overrides=["judge.judges=['strong']", "table.rows=['at']"])
    make(job, Quiet(), workers=1)
    (theirs,) = (stage for stage in job.plan.stages if stage.label == "evaluate theirs at 1/10")
    assert set(records(job.place.store.folder(theirs))["judge"]) == {"clean", "strong"}
