"""How far runs are: every state of a stage, told without disturbing who works there, whatever the folder holds."""

import fcntl
import json
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench.journal import Journal, logged
from robustcl.bench.store import Stage, Store
from robustcl.models.errors import NumberError, UserError
from robustcl.reports.logs import attempt, kept, left, where
from robustcl.reports.progress import listing, state_of
from tests.bench.tiny import one_line
from tests.reports.synthetic import JUDGES, answers, cell, write_run

NAMES = ("made", "broken", "stopped", "killed", "busy")


def stages() -> dict[str, Stage]:
    """One for every way to end, two that wait for others, and one that nobody has begun."""
    found = {name: Stage(kind="pretrain", part={"x": name}, label=f"pretrain {name}") for name in (*NAMES, "new")}
    parents = {"a": found["made"], "b": found["broken"], "c": found["new"]}
    found["child"] = Stage(kind="finetune", part={}, parents=parents, label="finetune child")
    return found


def works(folder: Path, label: str, error: BaseException | None = None) -> dict[str, Any]:
    """Two epochs of four, and then the error."""
    (folder / "progress").mkdir(exist_ok=True)
    with logged(folder, label, lambda done, total: None) as journal:
        for epoch in (1, 2):
            journal.write("epoch", epoch=epoch, epochs=4, curve={})
        if error:
            raise error
    return {"seconds": 61.0}


def killed(store: Store, stage: Stage) -> None:
    """A process that dies at the stage, as by SIGKILL."""

    def dies(folder: Path) -> dict[str, Any]:
        journal = Journal(folder, lambda done, total: None)
        journal.write("started", label=stage.label, resumed=False)
        journal.write("epoch", epoch=3, epochs=4)
        os._exit(9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        try:
            store.make(stage, dies)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run folder with a stage in every state but running."""
    root, of = tmp_path / "here" / "run", stages()
    store = Store(root)
    store.claim_suite("mine", {}, [], (), list(of.values()))
    store.make(of["made"], lambda folder: works(folder, "made"))
    ends = {"broken": NumberError("pretrain broken: not finite"), "stopped": KeyboardInterrupt()}
    for name, error in ends.items():
        with pytest.raises(type(error)):
            store.make(of[name], lambda folder, name=name, error=error: works(folder, name, error))  # type: ignore[misc]
    killed(store, of["killed"])
    return root


def lines(root: Path) -> dict[str, str]:
    """What is told of each stage, by the last word of its label; times are left out."""
    head, *rows = listing(root).splitlines()
    assert head.startswith(f"{root}: suite mine, ")
    found = (re.fullmatch(r"  (?:pretrain|finetune) (\w+) +(.*)", row) for row in rows)
    return {at[1]: re.sub(r"\d+\.\d s", "T", at[2]) for at in found if at}


def during(root: Path, look: Callable[[], None]) -> None:
    """Look while this process works at the stage that is busy."""
    stage = stages()["busy"]

    def work(folder: Path) -> dict[str, Any]:
        works(folder, stage.label)
        look()
        return {}

    Store(root).make(stage, work)


def test_every_stage_is_told_with_its_state(root: Path) -> None:
    seen: list[dict[str, str]] = []
    during(root, lambda: seen.append(lines(root)))
    (told,) = seen
    host = os.uname().nodename
    assert told["made"] == "finished in 1.0 min, T ago"
    assert told["broken"] == "failed T ago: not finite"
    assert told["stopped"] == "interrupted T ago: Ctrl-C or SIGTERM, goes on from 50%, epoch 2 of 4"
    assert re.fullmatch(
        rf"interrupted T ago: its process on {host}, pid \d+, is gone, goes on from 75%, epoch 3 of 4", told["killed"]
    )
    assert told["busy"] == f"running for T: 50%, epoch 2 of 4, about T left, on {host}, pid {os.getpid()}"
    assert told["new"] == "ready"
    assert told["child"] == "waiting for pretrain broken and 1 more"
    assert lines(root)["busy"] == "finished T ago"


def test_a_folder_of_runs_has_a_line_for_each_and_for_what_is_amiss(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "there"
    shutil.copytree(root, other / "a" / "deep")
    write_run(other / "kept", [(cell("x", "SLF"), answers(4, 3, dict.fromkeys(JUDGES, 1), JUDGES))])
    for name, text in {"torn": '{"schema": 1, "su', "foreign": '{"schema": 7}', "list": "[]"}.items():
        (other / name).mkdir()
        (other / name / "suite.json").write_text(text)
    (other / "nothing").mkdir()
    (other / "loop").symlink_to(other)
    told = listing(tmp_path).splitlines()
    heads = [line for line in told if not line.startswith("  ")]
    assert [Path(line.partition(":")[0]).relative_to(tmp_path).as_posix() for line in heads] == [
        "here/run", "there/a/deep", "there/foreign/suite.json", "there/kept", "there/list/suite.json",
        "there/torn/suite.json",
    ]  # fmt: skip
    assert re.search(r"suite mine, 1 of 7 stages finished, failed, last change \d+\.\d s ago$", heads[0])
    assert "damaged or truncated" in heads[5]
    assert "schema version 7 is unknown" in heads[2]
    below = told[1 : told.index(heads[1])]
    assert [line.split(":")[0] for line in below] == ["  pretrain broken", "  pretrain stopped", "  pretrain killed"]
    assert listing(other / "nothing") == f"{other / 'nothing'}: no run folder in it"


def test_what_is_no_folder_or_damaged_is_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        listing(tmp_path / "nix")
    held = json.loads((root / "suite.json").read_text())
    del held["seal"]  # what is wrong here was not changed later
    first = held["stages"][0]
    for wrong in ({}, {**first, "kind": "../.."}, 3, {**first, "key": 1}, {**first, "parents": None}):
        (root / "suite.json").write_text(json.dumps({**held, "stages": [wrong]}))
        with pytest.raises(UserError) as caught:
            listing(root)
        assert one_line(caught.value).endswith("damaged, expected kind, key, label and parents of every stage")
    (root / "suite.json").write_text(json.dumps({**held, "stages": 3}))
    with pytest.raises(UserError):
        listing(root)


def test_a_suite_that_names_no_stages_has_those_that_lie_there(root: Path) -> None:
    held = json.loads((root / "suite.json").read_text())
    del held["stages"], held["seal"]
    (root / "suite.json").write_text(json.dumps(held))
    assert {stage.label: stage.state for stage in state_of(root).stages} == {
        "pretrain made": "finished", "broken": "failed", "stopped": "interrupted", "pretrain killed": "interrupted",
    }  # fmt: skip
    (root / "pretrain" / stages()["made"].key / "stage.json").write_text("{")
    assert f"  pretrain {stages()['made'].key}  damaged " in listing(root)


def test_a_stage_that_hangs_is_said_to_be_silent(root: Path) -> None:
    seen: list[str] = []

    def look() -> None:
        (path,) = (root / "pretrain").glob(f".{stages()['busy'].key}/log.jsonl")
        past = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
        path.write_text(
            json.dumps({"time": past, "event": "step", "epoch": 1, "epochs": 2, "step": 1, "steps": 4}) + "\n"
        )
        seen.append(lines(root)["busy"])

    during(root, look)
    assert seen[0].startswith("running for T: 12%, epoch 1 of 2, silent for 1.5 min, on ")


def test_damage_anywhere_is_a_line_or_does_no_harm(root: Path) -> None:
    g = random.Random(0)
    files = [root / "suite.json", *root.glob("pretrain/.*/log.jsonl"), *(root / ".locks").iterdir()]
    for path in (path for path in files if path.stat().st_size):
        whole = path.read_bytes()
        for number in range(60):
            damaged, at = bytearray(whole), g.randrange(len(whole))
            damaged[at : at + g.randrange(3)] = g.randbytes(g.randrange(4))
            path.write_bytes(damaged[:at] if number % 10 == 0 else damaged)
            try:
                assert listing(root)
            except UserError as error:
                one_line(error)
            assert listing(root.parent)
        path.write_bytes(whole)


def test_names_move_no_cursor(root: Path) -> None:
    with pytest.raises(NumberError):
        Store(root).make(stages()["new"], lambda folder: works(folder, "new", NumberError("a\x1b[2J\x07b")))
    assert lines(root)["new"] == "failed T ago: a\\x1b[2J\\x07b"
    held = json.loads((root / "suite.json").read_text())
    held["stages"][0]["label"] = "a\x1b[2J\nb"
    del held["seal"]
    (root / "suite.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match="control characters in"):
        listing(root)
    assert "\x1b" not in listing(root.parent)


def test_looking_takes_no_lock_from_a_claimer(root: Path) -> None:
    """A claim that was given back is not touched: who wants it at that moment gets it."""
    shutil.rmtree(root / "pretrain" / stages()["made"].key)  # which the user wants made anew
    locks = sorted((root / ".locks").iterdir())
    tried, before = list[int](), fcntl.flock

    def counted(file: int, how: int) -> None:
        tried.append(file)
        before(file, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", counted)
        listing(root)
    assert [bool(path.read_text()) for path in locks].count(True) == len(tried) == 3 < len(locks)


def test_how_long_it_takes_is_told_from_how_fast_it_went() -> None:
    def line(ago: float, event: str, **fields: Any) -> dict[str, Any]:
        return {"time": (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(), "event": event, **fields}

    said = [line(500, "started", resumed=False), line(200, "failed"), line(100, "started", resumed=True)]
    said += [line(100, "resumed", epoch=5, epochs=20), line(60, "epoch", epoch=6, epochs=20)]
    said += [line(20, "step", epoch=7, epochs=20, step=5, steps=5)]
    now = attempt(said)
    assert len(now) == 4
    assert where(now) == "35%, epoch 7 of 20"
    assert left(now) == f"about {(80 / 2 * 13 - 20) / 60:.1f} min left"
    assert kept(now) == "30%, epoch 6 of 20", "a part of an epoch is begun anew"
    assert kept([*said, line(5, "started", resumed=True)]) == "30%, epoch 6 of 20", "it died before it said so"
    assert kept([*said, line(5, "started", resumed=False)]) == ""
    now = [*now, line(10, "epoch", epoch=8, epochs=20)]
    assert where(now) == "40%, epoch 8 of 20", "quick epochs leave no room for steps"
    judged = [line(9, "started", resumed=False), line(8, "attack started", judge="aa", attack="fab-t")]
    assert where([*judged, line(5, "progress", done=3, total=10)]) == "30%, aa with fab-t"
    assert left(judged) == ""
    assert kept(judged) == "", "nothing to go on from"
    assert left([line(-50, "progress", done=0, total=2), line(-99, "progress", done=1, total=2)]) == "about 49.0 s left"
    wrong = [line(1, "progress", done="x", total=2), line(1, "progress", done=1, total=0), line(1, "epoch", epochs=3)]
    assert (left(wrong), where(wrong)) == ("", "epoch None of 3")


def test_a_clock_that_goes_back_makes_no_age_below_zero(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    assert min(stage.age for stage in state_of(root).stages if stage.age is not None) == 0
