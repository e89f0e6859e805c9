"""Clocks that go backwards and files from the future: nothing that is decided or estimated hangs on them."""

import datetime
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import locks, provenance
from robustcl.bench.runner import make, prepare
from robustcl.console import Display
from robustcl.reports.report import report
from tests.bench.tiny import Quiet, visible, write_suite

FAST = ["judge.judges=['pgd-1']", "judge.images=8", "data.train=64"]


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock of the wall is an hour before the one before."""
    now = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))

    class Past(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(next(now), tz)

    for module in (locks, provenance):
        monkeypatch.setattr(module, "datetime", Past)


@pytest.mark.usefixtures("backwards")
def test_a_run_whose_clock_goes_backwards_makes_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "back", overrides=FAST)
    with Display(job.plan.cost, job.missing, job.place.store) as display:
        make(job, display, workers=1)
    said = capfd.readouterr().err
    assert "-" not in said.replace("pgd-1", "").replace("digits-weak", ""), "a time below zero"
    for path in (tmp_path / "back").glob("[!.]*/[!.]*/stage.json"):
        assert json.loads(path.read_text())["made"].get("seconds", 0) >= 0
    forwards = prepare(write_suite(tmp_path), runs=tmp_path / "forwards", overrides=FAST)
    make(forwards, Quiet(), workers=1)
    assert visible(tmp_path / "back") == visible(tmp_path / "forwards")


@pytest.mark.usefixtures("imported")
def test_files_from_the_future_are_files(tmp_path: Path) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs", overrides=FAST)
    make(job, Quiet(), workers=1)
    text = report(tmp_path / "runs").text
    future = time.time() + 10 * 365 * 86400
    for path in (tmp_path / "runs").rglob("*"):
        os.utime(path, (future, future))
    quiet = Quiet()
    make(prepare(write_suite(tmp_path), runs=tmp_path / "runs", overrides=FAST), quiet, workers=1)
    assert not quiet.begun
    assert report(tmp_path / "runs").text == text
