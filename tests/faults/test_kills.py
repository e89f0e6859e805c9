"""A kill at every operation on files of a small store, and a handful at random for every kind of stage."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import forks
from robustcl.bench.store import Stage, Store
from robustcl.reports.placing import placed
from tests.faults.campaign import Tally, campaign
from tests.faults.findings import damage, look
from tests.faults.kills import Child, Moment, wait
from tests.faults.scenes import KINDS, scenes

pytestmark = pytest.mark.skipif(not forks.possible(), reason="processes cannot be forked on this machine")
HANDFUL = (
    *("pretrain deacl", "import theirs", "labels groups", "finetune at AFF", "evaluate at SLF at 1/20"),
    *("corrupt at SLF", "probe landscape at SLF"),
    *("run and report", "evaluate, in blocks", "evaluate twice, one row"),
)
STAGE = Stage(kind="pretrain", part={"x": 1})


def store(root: Path) -> None:
    """A suite is claimed, a cell entered, a stage made of a file and of progress that is kept, a report written."""
    held = Store(root)
    held.claim_suite("tiny", {}, [])
    cell = dict.fromkeys(("encoder", "scheme", "data", "norm", "eps"), "x")
    held.add("tiny", [cell])

    def work(folder: Path) -> dict[str, Any]:
        assert not list(folder.rglob(".*")), "what was half written is gone"
        (folder / "progress").mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp", delete=False) as file:  # as safetensors writes
            Path(file.name).rename(folder / "weights")
        kept = folder / "progress" / "kept"
        with (root.parent / "works.log").open("a") as file:
            file.write("again\n" if kept.exists() else "anew\n")
        kept.write_text("half")
        (folder / "whole.txt").write_text("whole")
        return {}

    held.make(STAGE, work)
    with placed([root / "report"]) as hidden:
        (hidden / "below").mkdir()
        for name in ("index.html", "below/table.csv"):
            (hidden / name).write_text(name)


def play(folder: Path, moment: Moment) -> tuple[str, int]:
    """The same in a fork that is killed: how it ended, and how many operations it did."""
    (folder / "runs").parent.mkdir(parents=True, exist_ok=True)
    child = Child(lambda: store(folder / "runs"), moment, folder / "said.txt", 0)
    ended = wait(child)
    assert ended in ("killed", "finished"), (folder / "said.txt").read_text()
    return ended, child.operations


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, play(folder, Moment())[1]


@pytest.mark.parametrize("cuts", [(1.0, 0.5), *(pytest.param((cut,), marks=pytest.mark.slow) for cut in (1.0, 0.5))])
def test_a_store_stands_a_kill_at_every_operation(
    tmp_path: Path, whole: tuple[Path, int], cuts: tuple[float, ...]
) -> None:
    """In the gate the file that is to be renamed is whole at every second operation, and cut at the others."""
    reference, operations = whole
    assert operations > 25
    for at in range(1, operations + 1):
        folder = tmp_path / str(at)
        assert play(folder, Moment(operation=at, whole=cuts[at % len(cuts)]))[0] == "killed"
        assert damage(folder) == []
        noted = list(folder.glob("runs/pretrain/.*/stage.json"))
        works = (folder / "works.log").read_text() if noted else ""
        assert play(folder, Moment())[0] == "finished"
        if noted:
            assert (folder / "works.log").read_text() == works, "what was noted as made is not made again"
        found = look(folder)
        found.files["works.log"] = look(reference).files["works.log"]
        assert found.unlike(look(reference)) == [], at
        assert damage(folder) == []


def test_what_a_killed_report_left_goes_after_a_day(tmp_path: Path) -> None:
    """Not before: it may be another process's, at work."""
    for name, age in (("old", 90_000), ("new", 80_000)):
        left = tmp_path / f".writing-{name}"
        left.mkdir()
        (left / "index.html").write_text("half")
        os.utime(left, (time.time() - age,) * 2)
    with placed([tmp_path]) as hidden:
        (hidden / "index.html").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {".writing-new", "index.html"}


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tally]:
    """Three kills of a scene of every kind; `python -m tests.faults` has hundreds of them all."""
    folder = tmp_path_factory.mktemp("handful")
    return {tally.kind: tally for tally in campaign(scenes(folder, names=HANDFUL), 3, 0, folder)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_a_random_moment_changes_no_byte(tallies: dict[str, Tally], kind: str) -> None:
    tally = tallies[kind]
    assert tally.wrong == []
    assert tally.kills >= 3
    assert tally.equal == tally.rounds
    assert (tally.partial, tally.lost, tally.doubled) == (0, 0, 0)
