"""The only owner of what docs/results claims: every number of a page is that of the records that lie beside it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from robustcl.pretraining.method import every
from robustcl.reports.frame import frame, summary
from robustcl.reports.pairs import pairs
from robustcl.reports.table import in_order, tables
from robustcl.reports.writers import grid, markdown

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
RUNS = sorted(path.parent for path in RESULTS.rglob("suite.json"))
MINI = [path for path in RUNS if path.parent.name == "table1-mini"]
SCHEMES = ("SLF", "AFF")
CONTROLS = {"random", "simclr"}


def name(path: Path) -> str:
    return path.relative_to(RESULTS).as_posix()


def page(run: Path) -> str:
    return run.parent.with_suffix(".md").read_text(encoding="utf-8")


def ranking(records: pd.DataFrame, scheme: str) -> str:
    """Every encoder by its AA, and the encoders that it is above of by more than chance (paired, Holm, 5 %)."""
    numbers = summary(records)
    part = numbers[(numbers["scheme"] == scheme) & (numbers["judge"] == "autoattack")]
    part = part.assign(row=part["encoder"].astype(str)).sort_values("accuracy", ascending=False, kind="stable")
    found, order = pairs(records, scheme, "autoattack"), in_order(part)
    above = {
        row: [
            other for other in order if ((found["better"] == row) & (found["worse"] == other) & found["resolved"]).any()
        ]
        for row in part["row"]
    }
    rows = [
        [row, f"{100 * accuracy:.1f}", ", ".join(above[row]) or "-"]
        for row, accuracy in zip(part["row"], part["accuracy"], strict=True)
    ]
    return grid([f"{scheme}", "AA", "resolved above"], rows, names=1)


def squeezed(text: str) -> str:
    return re.sub(r" +", " ", text)


def test_there_are_results() -> None:
    assert {path.name for path in MINI} == {"mnist", "cifar10"}


@pytest.mark.parametrize("run", RUNS, ids=name)
def test_the_table_of_the_page_is_that_of_the_records(run: Path) -> None:
    (table,) = tables(frame(run))
    assert squeezed(markdown(table).split("\n\n")[0]) in squeezed(page(run))
    assert (run / "table.md").read_text(encoding="utf-8") == markdown(table)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("run", MINI, ids=name)
def test_what_the_page_says_is_resolved_is(run: Path, scheme: str) -> None:
    assert squeezed(ranking(frame(run), scheme)) in squeezed(page(run))


@pytest.mark.parametrize("run", MINI, ids=name)
def test_every_method_is_in_the_mini_table(run: Path) -> None:
    methods = {str(method) for method in frame(run)["method"].unique()}
    assert methods - {"random"} == {case for case in every() if "/" not in case}


@pytest.mark.parametrize("run", MINI, ids=name)
def test_every_method_learned(run: Path) -> None:
    """Linear accuracy above the random encoder's, robust accuracy above SimCLR's, each by more than chance."""
    records = frame(run)
    above = {}
    for judge, control in (("clean", "random"), ("pgd-20", "simclr")):
        found = pairs(records, "SLF", judge)
        above[control] = set(found.loc[(found["worse"] == control) & found["resolved"], "better"])
    rows = {str(row) for row in records["encoder"].unique()}
    assert rows - {"random"} == above["random"]
    assert rows - CONTROLS == above["simclr"]


@pytest.mark.parametrize("run", RUNS, ids=name)
def test_what_is_kept_names_no_path(run: Path) -> None:
    suite = json.loads((run / "suite.json").read_text(encoding="utf-8"))
    paths = [point["data"].get("path", "") for point in suite["resolved"]["points"]]
    assert all(path and "/" not in path for path in paths)
