"""What stages say while they work: every line of the log, bounded, and never in the way of the stage."""

import itertools
import json
import os
import random
import re
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from robustcl.bench.budget import _TimeIsUp
from robustcl.bench.journal import Journal, logged, memory
from robustcl.bench.runner import make, prepare
from robustcl.bench.stages import work_of
from robustcl.models.errors import NumberError
from robustcl.reports.logs import events
from tests.bench.tiny import Quiet, visible, write_suite

MANY = "pretrain.at.training.epochs=3"


PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "observability.md"
ROWS = re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8").partition("fields beside")[2], re.M)
FIELDS = {event: {*re.findall(r"`([\w.]+)`", text)} for event, text in ROWS if event not in ("quiet", "debug")}


def silent(done: int, total: int) -> None:
    """Nothing."""


def said(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log in a folder, each of which has to be JSON."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert lines == events(folder / "log.jsonl")[0]
    return lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, made."""
    folder = tmp_path_factory.mktemp("journal")
    make(prepare(write_suite(folder), runs=folder / "runs", overrides=[MANY]), Quiet(), workers=1)
    return folder / "runs"


def folder_of(runs: Path, label: str) -> Path:
    """Where the stage of this label lies."""
    notes = (path for path in runs.glob("*/*/stage.json") if json.loads(path.read_text())["label"] == label)
    return next(notes).parent


def test_every_stage_has_a_log_from_its_start_to_its_end(runs: Path) -> None:
    stages = [path.parent for path in runs.glob("*/*/stage.json")]
    assert len(stages) == 7
    for stage in stages:
        first, *_, last = said(stage)
        made = json.loads((stage / "stage.json").read_text())
        assert (first["event"], last["event"]) == ("started", "finished")
        assert first.keys() >= {"time", "host", "pid", "version", "device", "peak_memory"}
        assert (first["label"], first["resumed"]) == (made["label"], False)
        assert 0 <= last["seconds"] <= made["made"]["seconds"]
        assert first["peak_memory"] <= last["peak_memory"] <= made["made"]["peak_memory"] < 1 << 40


def test_an_epoch_is_its_row_of_the_curve_with_its_speed(runs: Path) -> None:
    stage = folder_of(runs, "pretrain at")
    epochs = [line for line in said(stage) if line["event"] == "epoch"]
    pd.testing.assert_frame_equal(pd.DataFrame(line["curve"] for line in epochs), pd.read_csv(stage / "curve.csv"))
    assert [(line["epoch"], line["epochs"], line["images"]) for line in epochs] == [(n, 3, 1437) for n in (1, 2, 3)]
    for line in epochs:
        assert line["images_per_second"] == pytest.approx(1437 / line["seconds"], rel=0.1)


def test_an_attack_says_what_the_records_say(runs: Path) -> None:
    stage = folder_of(runs, "evaluate at SLF at 1/10")
    records = pq.read_table(stage / "records.parquet").to_pandas().astype({"judge": str, "attack": str})
    lines = said(stage)
    clean = next(line for line in lines if line["event"] == "clean")
    assert (clean["images"], clean["right"]) == (40, int(records[records["judge"] == "clean"]["right"].sum()))
    ends = [line for line in lines if line["event"] == "attack finished"]
    assert [line["attack"] for line in ends] == ["pgd-3", "apgd-ce"]
    for line in ends:
        rows = records[(records["judge"] == line["judge"]) & (records["attack"] == line["attack"])]
        assert (line["right"], line["passes"]) == (rows["right"].sum(), rows["passes"].sum())
    assert [line["images"] for line in lines if line["event"] == "attack started"] == [clean["right"]] * 2


def test_a_stage_that_goes_on_says_from_where_and_ends_with_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    class Stop(Quiet):
        def moved(self, stage: Any, done: int, total: int) -> None:
            if (stage.label, done) == ("pretrain at", 2):
                raise KeyboardInterrupt

    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs", overrides=[MANY])
    with pytest.raises(KeyboardInterrupt):
        make(job, Stop(), workers=1)
    (hidden,) = (tmp_path / "runs" / "pretrain").glob(".*")
    last = said(hidden)[-1]
    assert (last["event"], last["done"], last["total"]) == ("interrupted", 2, 3)
    make(job, Quiet(), workers=1)
    lines = said(folder_of(tmp_path / "runs", "pretrain at"))
    assert [line["event"] for line in lines] == [
        "started", "epoch", "epoch", "interrupted", "started", "resumed", "epoch", "finished"
    ]  # fmt: skip
    assert [line["resumed"] for line in lines if line["event"] == "started"] == [False, True]
    assert (lines[5]["epoch"], lines[5]["epochs"]) == (2, 3)
    assert lines[5].keys() - {"time", "event", "peak_memory"} == FIELDS["resumed"]
    assert visible(tmp_path / "runs") == visible(runs)


def test_seconds_are_those_of_the_work_and_not_of_waiting_for_it(tmp_path: Path) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    stage = next(stage for stage in job.plan.stages if stage.label == "probe thumbnails")
    began = time.monotonic()
    work = work_of(stage, job.place, silent)
    time.sleep(0.5)  # while another process has the claim
    job.place.store.make(stage, work)
    assert job.place.store.note(stage)["made"]["seconds"] < time.monotonic() - began - 0.49


def test_a_torn_line_is_closed_and_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, silent)
    journal.write("one")
    with journal.path.open("ab") as file:
        file.write(b'{"time": "2026-01-0')  # a kill in the middle of a line
    first, end = events(journal.path)
    assert [line["event"] for line in first] == ["one"]
    Journal(tmp_path, silent).write("two")
    assert [line["event"] for line in events(journal.path)[0]] == ["one", "two"]
    assert [line["event"] for line in events(journal.path, end)[0]] == ["two"]


def test_kills_lose_no_line_that_was_said_before(tmp_path: Path) -> None:
    """Twenty writers one after another, each killed at a random moment: every one goes on with the number after."""
    g, journal, numbers, end = random.Random(0), Journal(tmp_path, silent), list[int](), 0
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            child = os.fork()
        if not child:
            for number in itertools.count(len(numbers)):
                journal.write("epoch", number=number, curve={"loss": 1.0 / (1 + number)})
        while not journal.path.exists() or journal.path.stat().st_size == end:
            time.sleep(0.001)
        time.sleep(g.uniform(0, 0.005))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found, end = events(journal.path, end)
        numbers += [line["number"] for line in found]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20


def test_what_is_said_at_any_rate_is_written_at_a_bounded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    journal, clock = Journal(tmp_path, lambda done, total: told.append((done, total))), iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 100)
    for step in range(1000):  # ten seconds
        journal.write("step", step=step)
    for done in range(1000):
        journal.moved(done, 1000)
    assert [line["event"] for line in said(tmp_path)] == ["step", "step", "progress", "progress"]
    assert len(told) == 1000


def test_training_reads_nothing_back_for_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a step says are numbers that Python has: a tensor among them would wait for the device."""
    told: list[dict[str, Any]] = []

    def write(self: Journal, event: str, **fields: Any) -> None:
        told.append({"event": event, **fields})

    monkeypatch.setattr(Journal, "write", write)
    make(prepare(write_suite(tmp_path), runs=tmp_path / "runs"), Quiet(), workers=1)
    steps = [line for line in told if line["event"] == "step"]
    assert [(line["step"], line["steps"]) for line in steps[:6]] == [(n, 6) for n in range(1, 7)]
    assert not any(isinstance(part, torch.Tensor) for line in told for part in line.values())
    assert {line["event"] for line in told} == FIELDS.keys() - {"resumed", "failed", "interrupted"}
    for line in told:
        kept = {*line, *line.get("curve", {})} - {"event", "adversarial", "clean"}  # the last two are terms of a loss
        assert kept <= FIELDS[line["event"]], f"{PAGE.name} does not say what {line} is"
        assert FIELDS[line["event"]] - kept <= {"processes", "curve.csv"}


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (
            NumberError("at: not finite\nand more"),
            {"event": "failed", "kind": "NumberError", "reason": "at: not finite"},
        ),
        (OSError(28, "No space left"), {"event": "failed", "kind": "OSError", "reason": "[Errno 28] No space left"}),
        (KeyboardInterrupt(), {"event": "interrupted", "reason": "Ctrl-C or SIGTERM"}),
        (_TimeIsUp("time is up"), {"event": "interrupted", "reason": "time is up"}),
    ],
)
def test_what_ends_a_stage_is_said(tmp_path: Path, error: BaseException, end: dict[str, str]) -> None:
    with pytest.raises(type(error)), logged(tmp_path, "x", silent):
        raise error
    last = said(tmp_path)[-1]
    assert {key: last[key] for key in end} == end
    assert last.keys() - {"time", "event", "peak_memory"} == FIELDS[last["event"]] - {"done", "total"}


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with logged(tmp_path, "x", silent) as journal:
        journal.write("epoch", epoch=1)
    assert events(tmp_path / "log.jsonl") == ([], 0)


def test_a_name_in_no_encoding_is_said_all_the_same(tmp_path: Path) -> None:
    Journal(tmp_path, silent).write("started", label="é\udcff")
    assert said(tmp_path)[0]["label"] == "é\udcff"


def test_numbers_that_json_has_no_words_for_are_null(tmp_path: Path) -> None:
    Journal(tmp_path, silent).write("epoch", curve={"loss": float("nan"), "val": 0.5}, speed=float("inf"))
    (line,) = said(tmp_path)
    assert (line["curve"], line["speed"]) == ({"loss": None, "val": 0.5}, None)


def test_the_memory_of_a_cuda_device_is_said_where_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert ("peak_cuda_memory" in memory()) == used
    assert memory()["peak_cuda_memory"] == 5
