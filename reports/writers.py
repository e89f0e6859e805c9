"""The only owner of the forms a table is written in: terminal, Markdown, CSV; LaTeX and HTML are those of `paper`."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from robustcl.models.whole import writable, writing
from robustcl.reports import paper
from robustcl.reports.beside import CAPTION
from robustcl.reports.forms import MARKDOWN, TERMINAL, Form
from robustcl.reports.frame import frame, suite_of
from robustcl.reports.spreadsheet import csv
from robustcl.reports.table import Key, Table, heading, tables

_WIDTH = 100


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """Rows of text as a Markdown table that reads well on a terminal; the first `names` columns are left-aligned."""
    made = Grid(box=box.MARKDOWN, pad_edge=True)
    for place, column in enumerate(columns):
        made.add_column(_plain(column), justify="left" if place < names else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(_plain(cell) for cell in row))
    # Wide enough for every cell: a wrapped cell would no longer be Markdown.
    console = Console(file=io.StringIO(), width=10_000, color_system=None, legacy_windows=False)
    width = Measurement.get(console, console.options, made).maximum
    with console.capture() as capture:
        console.print(made, width=width)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())


def terminal(table: Table) -> str:
    """The table with the schemes below each other, which fits in 100 columns, as Markdown under its caption."""
    cells = _aligned(table)
    columns = ["scheme", "encoder", *(heading(judge) for judge in table.judges)]
    rows = [[scheme, row, *(cells[row, scheme, judge] for judge in table.judges)] for scheme, row in table.lines()]
    parts = [_filled([table.caption]), grid(columns, rows, names=2), _filled([TERMINAL.legend(table), *table.notes])]
    if len(table.published):
        short = [[*row[:3], *(text.partition(" [")[0] for text in row[3:])] for row in table.beside()]
        parts += [_filled([CAPTION]), _published(table, short), _filled(table.sources)]
    return "\n\n".join(filter(None, parts))


def markdown(table: Table) -> str:
    """The table in the paper's form, the schemes beside each other, as Markdown above its caption."""
    text, plain = table.text(), MARKDOWN.escape
    shown = [(scheme, judge) for scheme in table.schemes for judge in table.judges]
    columns = ["pretraining", "encoder", *(plain(f"{scheme} {heading(judge)}") for scheme, judge in shown)]
    rows, before = [], ""
    for row in table.rows:
        keys: list[Key] = [(row, scheme, judge) for scheme, judge in shown]
        group = table.groups.get(row, "")
        cells = [MARKDOWN.cell(text[key], table.places.get(key, "")) for key in keys]
        rows.append([group if group != before else "", plain(row), *cells])
        before = group
    parts = [grid(columns, rows, names=2), plain(f"{table.caption} {MARKDOWN.legend(table)}".strip())]
    parts += [_listed(table.notes, MARKDOWN)]
    if len(table.published):
        parts += [CAPTION, _published(table, table.beside()), _listed(table.sources, MARKDOWN)]
    return "\n\n".join(filter(None, parts)) + "\n"


def tidy(of: Sequence[Table]) -> pd.DataFrame:
    """The numbers of the tables below each other: shares in [0, 1], one row per cell of a table, then per seed.

    Between them stand the published numbers, one row each, of the kind `published`.
    """
    parts = [part for table in of for part in (table.numbers, table.published, table.singles)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def save(made: Sequence[Table], folder: str | Path) -> list[Path]:
    """Write `tables` as `table.txt`, `.md`, `.csv`, `.tex` and `.html`; nothing where there is none."""
    if not made:
        return []
    texts = {
        "table.txt": "\n\n".join(terminal(table) for table in made) + "\n",
        "table.md": "\n".join(markdown(table) for table in made),
        "table.csv": csv(tidy(made)),
        "table.tex": paper.latex(made),
        "table.html": paper.html(made),
    }
    paths = [Path(folder) / name for name in texts]
    with writable(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            with writing(path) as part:
                part.write_text(texts[path.name], encoding="utf-8", newline="\n")
    return paths


def write(runs: str | Path, folder: str | Path) -> list[Path]:
    """Write the tables of the run folder `runs` into `folder`: the paths. Errors: as `frame`; unwritable folder."""
    return save(tables(frame(runs), suite_of(Path(runs))), folder)


def _aligned(table: Table) -> dict[Key, str]:
    """The cells for the terminal; where a column has signs, a space stands for the missing ones."""
    marked = {(scheme, judge) for _, scheme, judge in table.places}
    signed = {judge for _, judge in marked}
    cells = {}
    for key, text in table.text().items():
        number, apart, rest = TERMINAL.cell(text, table.places.get(key, "")).partition(" ")
        gap = " " if apart and key[2] in signed and key not in table.places else ""
        cells[key] = f"{number}{gap}{apart}{rest}"
    return cells


def _published(table: Table, rows: Iterable[Sequence[str]]) -> str:
    """The published numbers below the measured ones of their rows."""
    return grid(["scheme", "encoder", "from", *(heading(judge) for judge in table.judges)], rows, names=3)


def _filled(texts: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(text, _WIDTH) for text in texts if text)


def _listed(texts: Sequence[str], form: Form) -> str:
    return "\n".join(f"- {form.escape(text)}" for text in texts)


def _plain(text: str) -> Text:
    """Text that neither rich nor Markdown reads as markup."""
    return Text(text.replace("|", "\\|"))
