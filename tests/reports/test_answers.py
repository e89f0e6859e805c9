"""The only owner of the tests of what judges say when records are read cell by cell: the same, a cell at a time."""

import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

from robustcl.models.value import plain
from robustcl.reports.answers import heard
from robustcl.reports.frame import Cells, frame
from robustcl.reports.pairs import pairs
from robustcl.reports.ranks import ranked
from robustcl.reports.report import report
from robustcl.reports.seeds import pooled
from robustcl.reports.table import tables
from robustcl.reports.verdicts import estimated, summary, verdicts
from robustcl.reports.writers import tidy
from tests.reports import test_corruptions, test_estimate, test_seeds
from tests.reports.synthetic import JUDGES, answers, cell, plausible, write_run


def seeded(folder: Path) -> Path:
    test_seeds.run(folder / "runs")
    return folder / "runs"


def corrupted(folder: Path) -> Path:
    return test_corruptions.written(folder, {"at": test_corruptions.corrupt(), "advcl": None})


def drawn(folder: Path) -> Path:
    cells = []
    for name, seed in (("a", 0), ("b", 1)):
        rows, made = test_estimate.drawn(test_estimate.full(600, seed), share=20)
        about = {"designs": {test_estimate.NAME: plain(made)}}
        cells.append((cell(name, "SLF", judges=test_estimate.JUDGES, about=about), rows))
    return write_run(folder / "runs", cells)


def swept(folder: Path) -> Path:
    return plausible(folder / "runs", ("random", "at", "advcl"), n=60, radii=2)


RUNS: Iterable[Callable[[Path], Path]] = (seeded, corrupted, drawn, swept)


@pytest.mark.parametrize("run", RUNS)
def test_cell_by_cell_is_what_the_whole_frame_says(tmp_path: Path, run: Callable[[Path], Path]) -> None:
    runs = run(tmp_path)
    whole, cells = frame(runs), Cells.of(runs)
    pd.testing.assert_frame_equal(pd.concat(list(cells), ignore_index=True), whole)
    pd.testing.assert_frame_equal(summary(cells), summary(whole))
    for shares in (False, True):
        pd.testing.assert_frame_equal(verdicts(cells, shares=shares), verdicts(whole, shares=shares))
    for one, other in zip(pooled(cells), pooled(whole), strict=True):
        pd.testing.assert_frame_equal(one, other)
    for one, other in zip(ranked(cells), ranked(whole), strict=True):
        pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(tidy(tables(cells)), tidy(tables(whole)))
    said = [[(judge, of) for _, judge, _, of in estimated(held)] for held in (cells, whole)]
    assert said[0] == said[1]
    pd.testing.assert_frame_equal(pairs(cells, "SLF", "clean"), pairs(whole, "SLF", "clean"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Of every reading of records: its rows, and how many frames of earlier ones were still held."""
    seen: list[list[int]] = []
    held: list[weakref.ref[pd.DataFrame]] = []
    whole = Cells.frame

    def reading(self: Cells, numbers: Iterable[int] | None = None) -> pd.DataFrame:
        before, made = sum(one() is not None for one in held), whole(self, numbers)
        seen.append([len(made), before])
        held.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Cells, "frame", reading)
    return seen


def test_what_judges_say_is_found_with_the_records_of_one_cell(tmp_path: Path, read: list[list[int]]) -> None:
    cells = Cells.of(swept(tmp_path))
    found = heard(cells)
    assert len(read) == len(cells) == len(found.heard) > 10
    assert max(before for _, before in read) <= 1, "the last one goes when the next is there"
    images = {id(of.answers["clean"].index) for of in found.heard}
    assert len(images) == 1, "cells of the same images share the list of them"


def test_a_report_never_holds_the_records_of_many_cells(tmp_path: Path, read: list[list[int]]) -> None:
    n, runs = 40, tmp_path / "runs"
    rows = answers(n, 30, {"pgd-20": 20, "autoattack": 15}, JUDGES)
    names = [(name, scheme) for name in ("random", "at", "advcl", "acl") for scheme in ("SLF", "AFF")]
    report(write_run(runs, [(cell(name, scheme), rows) for name, scheme in names]))
    assert max(count for count, _ in read) == len(rows), "one cell"
    assert max(before for _, before in read) <= 2
