"""The only owner of what docs/results claims: every number of a page is that of the records that lie beside it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from robustcl.pretraining.method import every
from robustcl.reports.frame import frame
from robustcl.reports.pairs import pairs
from robustcl.reports.statistics import detectable
from robustcl.reports.table import in_order, tables
from robustcl.reports.verdicts import summary
from robustcl.reports.writers import grid, markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
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
    assert {path.parent.name for path in RUNS} == {"table1-mini", "seeds-mini"}


@pytest.mark.parametrize("run", RUNS, ids=name)
def test_the_table_of_the_page_is_that_of_the_records(run: Path) -> None:
    (table,) = tables(frame(run))
    assert squeezed(markdown(table).split("\n\n")[0]) in squeezed(page(run))
    assert (run / "table.md").read_text(encoding="utf-8") == markdown(table)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("run", MINI, ids=name)
def test_what_the_page_says_is_resolved_is(run: Path, scheme: str) -> None:
    assert squeezed(ranking(frame(run), scheme)) in squeezed(page(run))


def test_where_square_beats_gradients_is_told() -> None:
    """The numbers that docs/trust.md quotes."""
    broken = {}
    for run in MINI:
        records = frame(run)
        rows = records[records["headline"] & (records["attack"] == "square") & ~records["right"]]
        cells = rows.groupby(["encoder", "scheme"], observed=True).size()
        broken[run.name] = {key: int(count) for key, count in cells.items()}
    told = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    assert f"breaks {broken['mnist']['random', 'AFF']} of 300" in told
    assert f"and {broken['mnist']['trades', 'SLF']} of TRADES' under SLF" in told
    assert broken["cifar10"] == {}


@pytest.mark.parametrize(("n", "row"), [(300, 1), (1000, 2), (8000, 3), (10_000, 4)])
def test_the_detectable_differences_of_the_page(n: int, row: int) -> None:
    told = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8").splitlines()
    found = [f"{100 * detectable(n, disagree):.1f}" for disagree in (0.5, 0.2, 0.1)]
    assert told[-5 + row] == f"| {n} | {' | '.join(found)} |"


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
