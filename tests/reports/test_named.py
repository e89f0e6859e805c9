"""The only owner of the tests of the named reports: what they are made of, what feeds them, what a user is told."""

import sys
from pathlib import Path

import pytest

from robustcl import cli
from robustcl.bench.tables import suites
from robustcl.models.errors import UserError
from robustcl.outline import listing
from robustcl.reports import drawing, named
from tests.blocks import ROOT
from tests.reports.synthetic import JUDGES, answers, cell, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)
    return write_run(tmp_path_factory.mktemp("named"), [(cell("advcl", "SLF"), rows)])


@pytest.mark.parametrize("name", named.REPORTS)
def test_every_part_and_suite_of_a_report_is_there(name: str) -> None:
    report = named.REPORTS[name]
    assert {*report.parts} <= {*named.TABLES, *drawing.drawings()}
    assert {*report.suites} <= {*suites()}


def test_every_item_of_the_paper_is_named() -> None:
    paper = {f"fig{number}" for number in range(1, 7)} | {f"tab{number}" for number in range(1, 6)}
    assert paper <= {*named.REPORTS}


def test_the_page_of_figures_has_every_report_and_every_drawing() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = {
        cells[1].split("`")[1]: cells
        for line in page.splitlines()
        if len(cells := line.split("|")) == 6 and "`" in cells[1]
    }
    for name, report in named.REPORTS.items():
        *_, parts, suites_of, _ = rows["tab1" if name.startswith("tab") else name]
        assert tuple(parts.split("`")[1::2]) == report.parts
        assert name.startswith("tab") or report.suites == tuple(suites_of.split("`")[1::2])[: len(report.suites)]
    assert all(f"`{name}`" in page for name in drawing.drawings())


def test_every_figure_says_what_it_needs() -> None:
    assert all(drawing.find(name).needs for name in drawing.drawings())


def test_a_drawing_is_fed_by_the_suites_of_its_reports() -> None:
    known = named.reports()
    assert known["accuracy-against-steps"].suites == ("fig3", "fig3-mini")
    assert known["per-corruption"].command == "robustcl run table1 --set judge.corruptions=FOLDER"
    assert known["per-class"].suites == ()
    assert known["per-class"].command == "robustcl run quickstart"


def test_just_the_report_is_written(runs: Path, tmp_path: Path) -> None:
    paths = named.write(runs, ["tab1", "pipeline", "fig2"], tmp_path)
    tables = [f"table.{kind}" for kind in ("txt", "md", "csv", "tex", "html")]
    figure = [f"pipeline.{kind}" for kind in ("png", "svg", "pdf", "csv")]
    assert {*tables, *figure} <= {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    assert len(paths) == len({*paths})


def test_a_run_without_what_a_report_needs_is_told_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    wanted = (
        r"^report --figure fig3: .* has nothing for accuracy-against-eps, expected one judge at two radii at least "
        r"\(a \[judge\.sweep\]\); run 'robustcl run fig3'$"
    )
    with pytest.raises(UserError, match=wanted):
        named.write(runs, ["pipeline", "fig3"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_gets_the_nearest(runs: Path) -> None:
    with pytest.raises(UserError, match=r"unknown figure 'per-clas', .*; did you mean 'per-class'\?$"):
        named.write(runs, ["per-clas"])


def test_a_run_of_another_suite_is_noted(runs: Path) -> None:
    (line,) = named.foreign(runs, ["tab4", "per-class"])
    assert line == (
        "tab4 (AdvCL, table 4: which views to contrast) is that of suite table4 or table4-mini; "
        "this run is of 'quickstart'"
    )


def test_the_command_prints_the_paths_and_the_list_names_every_report(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["robustcl", "report", str(runs), "--figure", "fig2", "--figure", "tab2"])
    cli.main()
    told = capsys.readouterr()
    assert str(runs / "report" / "pipeline.png") in told.out.splitlines()
    assert told.err.startswith("note: tab2 ")
    listed = listing("figures").splitlines()
    assert [line.split()[0] for line in listed[1:]] == [*named.reports()]
    (line,) = [line for line in listed if line.split()[0] == "e9"]
    assert line.endswith("accuracy by corruption and severity; from table1 with --set judge.corruptions=FOLDER")
