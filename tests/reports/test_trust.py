"""The only owner of the tests of marks and notes: what checks found stands in every form of every table."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustcl.bench.findings import read_reliability
from robustcl.models.errors import UserError
from robustcl.reports import matrix, writers
from robustcl.reports.evaluation import Evaluation
from robustcl.reports.frame import frame
from robustcl.reports.statistics import detectable
from robustcl.reports.table import Table, tables
from robustcl.reports.trust import Notes, small_n, with_small_n
from robustcl.reports.verdicts import summary
from tests.reports.synthetic import JUDGES, answers, cell, found, told, write_run

ROWS = answers(200, 180, {"pgd-20": 100, "autoattack": 80}, JUDGES)
SUSPECT, BAD = found("square_gain", "suspect"), found("zero_gradient", "unreliable", "pgd-20")
PRINTS = {"pgd-20": "pgd-20@20it; linf 1/10; seed 0; sha:aa", "autoattack": "autoattack@...; seed 0; sha:bb"}
CELLS = [
    (cell("random", "SLF", about=told(found("large_eps", "ok"))), ROWS),
    (cell("at", "SLF", about=told(SUSPECT, found("large_eps", "ok"))), ROWS),
    (cell("advcl", "SLF", about=told(SUSPECT, BAD)), ROWS),
    (cell("simclr", "SLF"), ROWS),
]


def made(folder: Path, cells: Any = CELLS) -> Table:
    (table,) = tables(frame(write_run(folder / "runs", cells)))
    return table


def test_frame_and_summary_hold_the_verdicts(tmp_path: Path) -> None:
    records = frame(write_run(tmp_path / "runs", CELLS))
    of = records.drop_duplicates("encoder").set_index("encoder")["reliability"].astype(str).to_dict()
    assert of == {"random": "ok", "at": "suspect", "advcl": "unreliable", "simclr": "unchecked"}
    numbers = summary(records)
    advcl = numbers[numbers["encoder"] == "advcl"].set_index("judge")
    assert advcl["reliability"].to_dict() == {"clean": "ok", "pgd-20": "unreliable", "autoattack": "suspect"}
    assert set(numbers.loc[numbers["encoder"] == "simclr", "reliability"]) == {"unchecked"}
    assert advcl.loc["pgd-20", "why"] == (
        "zero_gradient: half of zero_gradient; try next: help zero_gradient | "
        "square_gain: half of square_gain; try next: help square_gain"
    )
    assert set(numbers.loc[numbers["encoder"] == "random", "why"]) == {""}


def test_cells_are_marked_and_notes_say_why(tmp_path: Path) -> None:
    table = made(tmp_path)
    text = table.text()
    assert text["random", "SLF", "pgd-20"] == text["simclr", "SLF", "pgd-20"] == "50.0 [43.1, 56.9]"
    assert text["at", "SLF", "pgd-20"] == "50.0 [43.1, 56.9] ?(1)"
    assert text["advcl", "SLF", "pgd-20"] == "50.0 [43.1, 56.9] !(1, 2)"
    assert text["advcl", "SLF", "autoattack"].endswith("] ?(1)")
    assert text["advcl", "SLF", "clean"].endswith("]")
    assert table.notes == [
        "(1) square_gain: half of square_gain (at SLF RA (PGD-20), at SLF AA, advcl SLF RA (PGD-20), advcl SLF AA). "
        "Try next: help square_gain.",
        "(2) zero_gradient: half of zero_gradient (advcl SLF RA (PGD-20)). Try next: help zero_gradient.",
    ]
    assert table.caption.endswith("reliability: 5 ok, 3 suspect (?), 1 unreliable (!), 3 unchecked numbers.")


def test_every_form_carries_marks_and_notes(tmp_path: Path) -> None:
    made = tables(frame(write_run(tmp_path / "r", CELLS)))
    paths = {path.suffix: path.read_text() for path in writers.save(made, tmp_path)}
    for suffix in (".txt", ".md", ".tex", ".html"):
        assert "!(1, 2)" in paths[suffix]
        assert "Try next: help" in paths[suffix].replace("\n", " ").replace(r"\_", "_")
    assert paths[".tex"].index("help square") < paths[".tex"].index(r"\end{table}")
    numbers = pd.read_csv(tmp_path / "table.csv").set_index(["row", "judge"])
    assert numbers.loc[("advcl", "pgd-20"), "reliability"] == "unreliable"
    assert str(numbers.loc[("advcl", "pgd-20"), "why"]).startswith("zero_gradient: half")
    assert numbers.loc[("simclr", "pgd-20"), "reliability"] == "unchecked"


def test_a_table_without_checks_says_so_once(quickstart: Path) -> None:
    (table,) = tables(frame(quickstart))
    assert table.caption.endswith("reliability: unchecked.")
    assert table.notes == []
    assert not any(table.marks.values())


def test_the_matrix_of_transfers_is_marked_too(tmp_path: Path) -> None:
    cells = [(cell("at", "SLF", data="a -> b", stage="t", about=told(BAD)), ROWS), (cell("at", "SLF", data="a"), ROWS)]
    text = matrix.markdown(matrix.transfers(frame(write_run(tmp_path, cells))))
    assert text.count("50.0 [43.1, 56.9] !(1)") == 1
    assert "- (1) zero_gradient: half of zero_gradient (at SLF RA (PGD-20), a -> b)." in text


def test_fingerprints_stand_in_the_caption_and_split_columns(tmp_path: Path) -> None:
    same = cell("at", "SLF", fingerprints=PRINTS)
    other = cell("advcl", "SLF", fingerprints=PRINTS | {"autoattack": "autoattack@...; seed 0; sha:cc"})
    seed = cell("simclr", "SLF", fingerprints=PRINTS | {"autoattack": "autoattack@...; seed 1; sha:bb"})
    table = made(tmp_path, [(same, ROWS), (other, ROWS), (seed, ROWS)])
    assert table.judges == ["clean", "pgd-20", "autoattack [1]", "autoattack [2]"]
    assert "; RA (PGD-20): pgd-20@20it; linf 1/10; seed 0; sha:aa; AA [1]: autoattack" in table.caption
    assert table.notes == [
        "[1] AA: autoattack@...; seed 0; sha:bb, autoattack@...; seed 1; sha:bb.",
        "[2] AA: autoattack@...; seed 0; sha:cc.",
        "Not ranked: SLF AA: 'autoattack' is not one attack here but autoattack@...; sha:bb and "
        "autoattack@...; sha:cc.",
    ]
    text = table.text()
    assert text["advcl", "SLF", "autoattack [1]"] == text["at", "SLF", "autoattack [2]"] == "-"
    assert text["simclr", "SLF", "autoattack [1]"] == text["advcl", "SLF", "autoattack [2]"] == "40.0 [33.5, 46.9]"
    head = writers.markdown(table).partition("\n")[0]
    assert "SLF AA [1]" in head
    assert "SLF AA [2]" in head


def test_a_column_without_a_fingerprint_is_not_one_with(tmp_path: Path) -> None:
    table = made(tmp_path, [(cell("at", "SLF", fingerprints=PRINTS), ROWS), (cell("advcl", "SLF"), ROWS)])
    assert "[2] AA: no fingerprint is recorded." in table.notes
    assert "AA: apgd-ce, apgd-t, fab-t, square" in table.caption


def test_few_images_are_suspect_of_themselves() -> None:
    assert small_n(96).verdict == "ok"
    assert small_n(95).verdict == "suspect"
    assert small_n(40).value == pytest.approx(detectable(40))
    checked = read_reliability(told()["reliability"], "x")
    assert checked.verdict == "ok"
    assert with_small_n(checked, 40).verdict == "suspect"


def test_an_evaluation_shows_its_verdict() -> None:
    checked = read_reliability(told(BAD)["reliability"], "x")
    done = Evaluation(ROWS, range(200), "linf 1/10 (0.1)", JUDGES, fingerprints=PRINTS, checked=checked)
    assert done.reliability is not None
    assert done.reliability.verdict == "unreliable"
    caption, table, notes = str(done).split("\n\n")
    assert "reliability: unreliable." in caption.replace("\n", " ")
    assert PRINTS["pgd-20"] in caption.replace("\n", " ")
    assert [bool(re.search(r"!\(1\)", part)) for part in table.splitlines()[2].split("|")[1:-1]] == [
        False, True, False, False
    ]  # fmt: skip
    assert notes.startswith("(1) zero_gradient: half of zero_gradient (RA (PGD-20)). Try next: help")
    few = Evaluation(answers(10, 9, {"pgd-20": 5}, {"pgd-20": ["pgd-20"]}), range(10), "x", {"pgd-20": ["pgd-20"]},
                     checked=read_reliability(told()["reliability"], "x"))  # fmt: skip
    assert few.reliability is not None
    assert [one.check for one in few.reliability.against("pgd-20")] == ["small_n"]


def test_a_note_on_many_cells_stays_short() -> None:
    notes = Notes()
    for number in range(9):
        assert notes.mark(f"row {number}", [small_n(40)]) == "?(1)"
    (line,) = notes.lines()
    assert "(row 0, row 1, row 2, row 3, row 4 and 4 more)" in line


def test_findings_that_are_damaged_are_one_line(tmp_path: Path) -> None:
    runs = write_run(tmp_path, [(cell("at", "SLF", about=told({"check": "x"})), ROWS)])
    with pytest.raises(UserError, match=r"records\.parquet\.findings.*missing"):
        frame(runs)
