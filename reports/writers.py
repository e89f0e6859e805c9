"""The only owner of the forms a table is written in: terminal, Markdown, CSV, LaTeX."""

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

from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from robustcl.reports.table import Table, heading, tables

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


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
    text = table.text()
    columns = ["scheme", "encoder", *(heading(judge) for judge in table.judges)]
    rows = [[scheme, row, *(text[row, scheme, judge] for judge in table.judges)] for scheme, row in table.lines()]
    notes = "\n".join(textwrap.fill(note, 100) for note in table.notes)
    return f"{textwrap.fill(table.caption, 100)}\n\n{grid(columns, rows, names=2)}" + (f"\n\n{notes}" if notes else "")


def markdown(table: Table) -> str:
    """The table in the paper's form, the schemes beside each other, as Markdown above its caption."""
    wide = _wide(table)
    columns = ["encoder", *(" ".join(column) for column in wide.columns.to_list())]
    rows = [
        [str(name), *(str(cell) for cell in cells)] for name, cells in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    notes = "".join(f"\n- {note}" for note in table.notes)
    return f"{grid(columns, rows)}\n\n{table.caption}\n" + (f"{notes}\n" if notes else "")


def latex(table: Table) -> str:
    """The table in the paper's form for LaTeX with booktabs: a `table` with caption, all text escaped."""
    wide = _wide(table)
    styler = wide.style.format(_escape).format_index(_escape, axis=0).format_index(_escape, axis=1)
    columns = "l" + "c" * wide.shape[1]
    text = styler.to_latex(
        column_format=columns,
        hrules=True,
        multicol_align="c",
        position="t",
        position_float="centering",
        caption=_escape(table.caption),
    )
    end = r"\end{table}"
    notes = "\\\\\n".join(_escape(note) for note in table.notes)
    below = f"\\begin{{flushleft}}\\footnotesize\n{notes}\n\\end{{flushleft}}\n" if notes else ""
    return str(text).replace(end, below + end)


def tidy(of: Sequence[Table]) -> pd.DataFrame:
    """The numbers of the tables below each other: shares in [0, 1], one row per cell of a table, then per seed."""
    parts = [part for table in of for part in (table.numbers, table.singles)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write the tables of a frame as `table.txt`, `.md`, `.csv` and `.tex`; nothing where no cell is finished."""
    made = tables(records)
    if not made:
        return []
    texts = {
        "table.txt": "\n\n".join(terminal(table) for table in made) + "\n",
        "table.md": "\n".join(markdown(table) for table in made),
        "table.csv": tidy(made).to_csv(index=False, lineterminator="\n"),
        "table.tex": "\n".join(latex(table) for table in made),
    }
    paths = [Path(folder) / name for name in texts]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_text(texts[path.name], encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), expected a writable folder") from None
    return paths


def write(runs: str | Path, folder: str | Path) -> list[Path]:
    """Write the tables of the run folder `runs` into `folder`: the paths. Errors: as `frame`; unwritable folder."""
    return save(frame(runs), folder)


def _wide(table: Table) -> pd.DataFrame:
    """The cells as text: rows as shown, columns (scheme, heading of the judge)."""
    text = table.text()
    columns = [(scheme, judge) for scheme in table.schemes for judge in table.judges]
    made = pd.MultiIndex.from_tuples([(scheme, heading(judge)) for scheme, judge in columns])
    cells = [[text[row, scheme, judge] for scheme, judge in columns] for row in table.rows]
    return pd.DataFrame(cells, index=pd.Index(table.rows), columns=made)


def _plain(text: str) -> Text:
    """Text that neither rich nor Markdown reads as markup."""
    return Text(text.replace("|", "\\|"))


def _escape(text: object) -> str:
    """Text as LaTeX prints it, every character of its own accord."""
    return "".join(_LATEX.get(mark, mark) for mark in str(text))
