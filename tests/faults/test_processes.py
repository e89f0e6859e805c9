"""Several processes at one run folder: no cell lost, no file read that is torn, no report without a row."""

import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from robustcl.bench import forks
from robustcl.bench.store import Store
from robustcl.reports import drawing, writers
from robustcl.reports.frame import suite_of
from robustcl.reports.report import report
from tests.faults.kills import Child, Moment, wait
from tests.reports.synthetic import JUDGES, answers, cell, write_run

pytestmark = pytest.mark.skipif(not forks.possible(), reason="processes cannot be forked on this machine")


def place(*name: int) -> dict[str, Any]:
    """A cell of its own place in a table."""
    return {"encoder": str(name), **dict.fromkeys(("scheme", "data", "norm", "eps"), "x")}


def together(folder: Path, *works: Any) -> list[Child]:
    """A fork for each piece of work, all at once."""
    return [Child(work, Moment(), folder / f"said-{number}", 0) for number, work in enumerate(works)]


def test_four_writers_and_a_reader(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.claim_suite("tiny", {}, [])

    def enter(number: int) -> None:
        for count in range(12):
            store.add("tiny", [place(number, count)])

    writers = together(tmp_path, *[lambda number=number: enter(number) for number in range(4)])
    seen, ended = [0], [writer.ended() for writer in writers]
    while None in ended:
        ended = [end or writer.ended() for end, writer in zip(ended, writers, strict=True)]
        seen.append(len(suite_of(tmp_path / "runs")["cells"]))
    assert ended == ["finished"] * 4, [path.read_text() for path in tmp_path.glob("said-*")]
    assert seen == sorted(seen)
    assert {one["encoder"] for one in store.suite("tiny")["cells"]} == {
        str((number, count)) for number in range(4) for count in range(12)
    }


def test_who_starts_a_suite_at_the_same_time_starts_it(tmp_path: Path) -> None:
    """The processes of a job array begin together, in a folder that is not there yet."""
    cells = [place(number) for number in range(40)]

    def claim() -> None:
        for _ in range(25):
            Store(tmp_path / "runs").claim_suite("tiny", {}, cells)

    racers = together(tmp_path, *[claim] * 4)
    assert [wait(racer) for racer in racers] == ["finished"] * 4, [path.read_text() for path in tmp_path.glob("said-*")]
    assert Store(tmp_path / "runs").suite("tiny")["cells"] == cells


def test_the_report_that_is_written_last_has_every_row(tmp_path: Path) -> None:
    """One process has read the records when another one enters a row and reports, and writes its own report later."""
    rows, runs = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES), tmp_path / "runs"
    one, two = (cell(name, "SLF", judges=JUDGES) for name in ("one", "two"))
    write_run(runs, [(one, rows)])
    save = writers.save

    def slow(*given: Any) -> list[Path]:
        (tmp_path / "has read").touch()
        time.sleep(0.5)
        return save(*given)

    with mock.patch.object(drawing, "save", return_value=[]):
        with mock.patch.object(writers, "save", slow):
            (first,) = together(tmp_path, lambda: report(runs))
        while not (tmp_path / "has read").exists():
            assert first.ended() is None, (tmp_path / "said-0").read_text()
            time.sleep(0.01)
        write_run(runs, [(one, rows), (two, rows)])
        report(runs)
    assert wait(first) == "finished", (tmp_path / "said-0").read_text()
    assert "two" in (runs / "report" / "table.txt").read_text()
