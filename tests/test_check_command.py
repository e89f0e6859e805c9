"""`robustcl check` and `robustcl bless`: exit codes, files, and what cannot be done by accident."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.reports.synthetic import JUDGES, answers, cell, found, told, write_run
from tests.test_cli import Call


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    return Call(monkeypatch, capsys)


def run(folder: str, robust: Mapping[str, int], n: int = 320, **changes: Any) -> str:
    """A run folder of encoders under SLF, so many of n images robust; an encoder without a number is not finished."""
    cells = [
        (cell(name, "SLF", **changes), answers(n, n, {"pgd-20": k, "autoattack": k}, JUDGES) if k else None)
        for name, k in robust.items()
    ]
    write_run(Path(folder), cells)
    return folder


def test_bless_then_check_then_a_regression(call: Call) -> None:
    told = call("bless", run("runs", {"a": 200, "b": 150}), "--baseline", "baselines/x.parquet")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("baselines/x.parquet: 6 rows of quickstart, a new baseline\n")
    told = call("check", "runs", "--baseline", "baselines/x.parquet")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("OK: of 6 rows 6 lost at most 1 point.")
    assert told.out.splitlines()[-1].startswith("| OK ")
    run("worse", {"a": 150, "b": 150})
    told = call("check", "worse", "--baseline", "baselines/x.parquet", "--junit", "out/j.xml", "--markdown", "out/s.md")
    assert (told.code, told.err) == (1, "")
    assert told.out.startswith("REGRESSION: of 6 rows 2 lost more than 1 point, 4 lost at most 1 point.")
    assert [line.split("|")[1].strip() for line in told.out.splitlines()[-6:]] == ["REGRESSION"] * 2 + ["OK"] * 4
    assert ElementTree.parse("out/j.xml").getroot().attrib["failures"] == "2"
    assert Path("out/s.md").read_text().startswith("### robustcl check: REGRESSION\n")


def test_what_cannot_be_told_ends_with_3_and_never_reads_as_good(call: Call) -> None:
    call("bless", run("runs", {"a": 200}), "--baseline", "x.parquet")
    told = call("check", run("now", {"a": 195}), "--baseline", "x.parquet", "--junit", "j.xml")
    assert told.code == 3
    assert told.out.startswith("CANNOT TELL: of 3 rows 2 cannot be told, 1 lost at most 1 point.")
    assert "| CANNOT TELL: takes " in told.out
    (suite,) = ElementTree.parse("j.xml").getroot()
    assert (suite.attrib["skipped"], suite.attrib["failures"]) == ("2", "0")
    told = call("check", "now", "--baseline", "x.parquet", "--margin", "5")
    assert told.code == 0
    assert "lost at most 5 points" in told.out


def test_bless_is_refused_in_ci(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    run("runs", {"a": 200})
    for value in ("true", "1"):
        monkeypatch.setenv("CI", value)
        told = call("bless", "runs", "--baseline", "x.parquet")
        assert told.code == 2
        assert told.line == "robustcl: bless: this is CI (CI is set), expected a person who has looked at the numbers"
        assert not Path("x.parquet").exists()
    for value in ("", "0", "false"):
        monkeypatch.setenv("CI", value)
        assert call("bless", "runs", "--baseline", "x.parquet").code == 0
    monkeypatch.setenv("CI", "true")
    assert call("check", "runs", "--baseline", "x.parquet").code == 0


def test_bless_shows_what_it_changes(call: Call) -> None:
    call("bless", run("runs", {"a": 200, "b": 150}), "--baseline", "x.parquet")
    told = call("bless", run("other", {"a": 190, "c": 100}), "--baseline", "x.parquet")
    assert told.code == 0
    assert "which replace those that were there" in told.out
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in told.out.splitlines() if "RA (PGD-20)" in line]
    assert rows == [
        ["a", "SLF", "RA (PGD-20)", "62.5", "59.4", "unchecked", "10 lost, 0 won"],
        ["c", "SLF", "RA (PGD-20)", "-", "31.2", "unchecked", "new"],
        ["b", "SLF", "RA (PGD-20)", "46.9", "-", "-", "removed"],
    ]


def test_bless_writes_only_what_can_be_believed(call: Call) -> None:
    about = told(found("square_gain", "unreliable", "autoattack"))
    run("runs", {"a": 200}, about=about)
    refused = call("bless", "runs", "--baseline", "x.parquet")
    assert refused.code == 2
    assert refused.line.startswith("robustcl: bless: a SLF AA is unreliable (square_gain: half of square_gain; try")
    assert not Path("x.parquet").exists()
    assert call("bless", "runs", "--baseline", "x.parquet", "--unreliable").code == 0
    assert call("bless", "runs", "--baseline", "x.parquet", "--judge", "pgd-20").code == 0


def test_bless_takes_some_rows_and_leaves_the_control_out(call: Call) -> None:
    run("runs", {"random": 10, "a": 200, "b": 150})
    few = ("bless", "runs", "--baseline", "x.parquet")
    assert "6 rows" in call(*few).out
    assert "3 rows" in call(*few, "--encoder", "random").out
    assert "2 rows" in call(*few, "--judge", "autoattack").out
    assert "1 row of" in call(*few, "--judge", "autoattack", "--encoder", "b", "--scheme", "SLF").out
    wrong = call(*few, "--judge", "autoatack")
    assert wrong.code == 2
    assert wrong.line.endswith("did you mean 'autoattack'?")


def test_unfinished_cells_are_told_and_nothing_is_no_baseline(call: Call) -> None:
    told = call("bless", run("runs", {"a": 200, "b": 0}), "--baseline", "x.parquet")
    assert told.code == 0
    assert "not finished, and left out: b SLF\n" in told.out
    told = call("bless", run("none", {"a": 0}), "--baseline", "y.parquet")
    assert told.code == 2
    assert told.line == "robustcl: bless: none holds no finished number of these, expected at least one"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere", "--baseline", "x.parquet"), "nowhere: no such folder"),
        (("runs", "--baseline", "y.parquet"), "y.parquet: no such file"),
        (("runs", "--baseline", "runs/suite.json"), "runs/suite.json: damaged or truncated"),
        (("runs", "--baseline", "x.parquet", "--margin", "200"), "margin: 200 points, expected"),
        (("runs", "--baseline", "x.parquet", "--level", "0"), "level: 0, expected"),
        (("runs", "--baseline", "x.parquet", "--junit", "runs"), "runs: cannot be written (Is a directory)"),
        (("runs",), "Missing option '--baseline'"),
        (("runs", "--baseline", "runs"), "runs: a folder, expected the file of a baseline"),
        (("runs", "--baseline", "x.parquet", "--encoder", "a"), "check: --encoder given, expected --sequential"),
        (("net.py:model", "--baseline", "x.parquet"), "expected a run folder, or a classifier and --sequential"),
        (("other", "--baseline", "x.parquet"), "check: a SLF RA (PGD-20): the baseline's is of linf 1/10 and the"),
    ],
)
def test_mistakes_are_one_line(call: Call, words: tuple[str, ...], says: str) -> None:
    call("bless", run("runs", {"a": 20}, n=30), "--baseline", "x.parquet")
    run("other", {"a": 20}, n=30, eps="1/5")
    told = call("check", *words)
    assert (told.code, told.out) == (2, "")
    assert says in told.line


def test_files_of_an_earlier_check_do_not_stay_where_one_fails(call: Call) -> None:
    call("bless", run("runs", {"a": 200}), "--baseline", "x.parquet")
    call("check", "runs", "--baseline", "x.parquet", "--junit", "j.xml", "--markdown", "s.md")
    assert Path("s.md").read_text()
    assert call("check", "nowhere", "--baseline", "x.parquet", "--junit", "j.xml", "--markdown", "s.md").code == 2
    assert Path("j.xml").read_text() == Path("s.md").read_text() == ""


def test_a_summary_never_takes_the_place_of_the_baseline(call: Call) -> None:
    call("bless", run("runs", {"a": 200}), "--baseline", "x.parquet")
    for words in (("--junit", "runs/../x.parquet"), ("--junit", "o.xml", "--markdown", "o.xml")):
        told = call("check", "runs", "--baseline", "x.parquet", *words)
        assert told.code == 2
        assert told.line.startswith("robustcl: check: one file for two of --baseline, --junit and --markdown")
    assert call("check", "runs", "--baseline", "x.parquet").code == 0
