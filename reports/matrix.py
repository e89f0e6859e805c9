"""The only owner of the transfer matrix: pretrained on each row's data set, finetuned and judged on each column's."""

from pathlib import Path

import pandas as pd

from robustcl.reports.forms import MARKDOWN
from robustcl.reports.seeds import pooled
from robustcl.reports.spreadsheet import csv
from robustcl.reports.table import MISSING, heading, in_order, percent
from robustcl.reports.trust import Notes, against
from robustcl.reports.writers import grid


def transfers(records: pd.DataFrame) -> pd.DataFrame:
    """The headline cells of a frame by where they come from and go to: `source`, `target` and the columns of `pooled`.

    Empty where no cell of the frame is judged on another data set than its encoder was pretrained on.
    """
    if not any(" -> " in str(name) for name in records["data"].unique()):
        return pd.DataFrame()  # seen before anything is counted, as nearly every run is one of these
    numbers, _ = pooled(records[records["headline"]])
    pairs = numbers["data"].astype(str).str.split(" -> ", expand=False)
    numbers["source"], numbers["target"] = pairs.str[0], pairs.str[-1]
    return numbers if (numbers["source"] != numbers["target"]).any() else numbers.iloc[:0]


def markdown(numbers: pd.DataFrame) -> str:
    """One matrix per judge as Markdown, a row per encoder and source, a column per scheme and target; then notes."""
    if numbers.empty:
        return ""
    judges = [str(name) for name in numbers["judge"].cat.categories if (numbers["judge"] == name).any()]
    notes = Notes()
    parts = [f"{heading(judge)}\n\n{_matrix(numbers, judge, notes)}\n" for judge in judges]
    return "\n".join([*parts, *(f"- {MARKDOWN.escape(note)}" for note in notes.lines())])


def _matrix(numbers: pd.DataFrame, judge: str, notes: Notes) -> str:
    part = numbers[numbers["judge"] == judge]
    cells = {}
    for cell in part.to_dict("records"):
        key = tuple(str(cell[name]) for name in ("row", "source", "scheme", "target"))
        place = f"{key[0]} {key[2]} {heading(judge)}, {cell['data']}"
        mark = notes.mark(place, against(str(cell["findings"]), judge, int(cell["n"])))
        shown = percent(cell["accuracy"], cell["low"], cell["high"], cell["spread"])
        cells[key] = f"{shown} {mark}".strip()
    schemes = [str(name) for name in numbers["scheme"].cat.categories]
    sources, targets = (list(dict.fromkeys(numbers[name])) for name in ("source", "target"))
    columns = [(scheme, target) for scheme in schemes for target in targets]
    rows = [
        [
            MARKDOWN.escape(row),
            MARKDOWN.escape(source),
            *(cells.get((row, source, *column), MISSING) for column in columns),
        ]
        for row in in_order(numbers)
        for source in sources
    ]
    heads = [MARKDOWN.escape(f"{scheme} -> {target}") for scheme, target in columns]
    return grid(["encoder", "pretrained on", *heads], rows, names=2)


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write the matrix of a frame as `transfer.md` and `.csv`; nothing where nothing was transferred."""
    numbers = transfers(records)
    if numbers.empty:
        return []
    paths = [Path(folder) / "transfer.md", Path(folder) / "transfer.csv"]
    paths[0].write_text(markdown(numbers), encoding="utf-8")
    shown = numbers.drop(columns=["judges", "fingerprints", "findings"])
    paths[1].write_text(csv(shown), encoding="utf-8", newline="\n")
    return paths
