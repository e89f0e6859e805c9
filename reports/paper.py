"""The only owner of tables in the form of a paper: groups of methods, blocks of schemes or data; LaTeX, HTML."""

import html as markup
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from robustcl.reports.beside import CAPTION
from robustcl.reports.forms import HTML, LATEX, Form
from robustcl.reports.table import MISSING, Key, Table, heading, tables

_SMALL = r"\footnotesize\setlength{\tabcolsep}{3pt}" + "\n\\begin{tabular}"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#1b1b1b, #e6e6e6); --soft: light-dark(#5c5c5c, #a8a8a8);
  --line: light-dark(#d9d9d9, #3c3c3c); --paper: light-dark(#ffffff, #161616); }}
body {{ margin: 2rem auto; max-width: 90rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }}
figure {{ margin: 0 0 2.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; border-block: 2px solid var(--ink); font-variant-numeric: tabular-nums; }}
thead {{ border-bottom: 1px solid var(--ink); }}
th, td {{ padding: .2rem .6rem; white-space: nowrap; text-align: right; vertical-align: top; }}
th {{ font-weight: 600; }}
thead th[colspan] {{ text-align: center; border-bottom: 1px solid var(--line); }}
tbody th {{ text-align: left; font-weight: 400; }}
tbody tr:has(> th + th) > * {{ border-top: 1px solid var(--line); }}
small, figcaption, li {{ color: var(--soft); }}
b, u, i {{ color: var(--ink); }}
figcaption {{ margin-bottom: .6rem; max-width: 60rem; }}
ul {{ padding-left: 1.1rem; max-width: 60rem; font-size: .85rem; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sheet:
    """A table as a page takes it: text in `cells`, whose index and columns have levels, and the words around it."""

    cells: pd.DataFrame
    caption: str
    notes: Sequence[str]

    def styler(self, form: Form) -> Styler:
        """What pandas writes: the cells are text of this form already, the names become it here."""
        style = self.cells.style.format_index(form.escape, axis=0).format_index(form.escape, axis=1)
        return style.hide(names=True, axis=0).hide(names=True, axis=1)


def table(records: pd.DataFrame, suite: Mapping[str, Any] | None = None) -> Styler:
    """The first table of a `frame` for a notebook, as a pandas Styler: bold, underlined and in italics as in papers.

    `suite` is the `suite.json` of its run folder, for published numbers are found by it. Errors: `IndexError` where no
    cell is finished.
    """
    first = next(sheets(tables(records, suite)[:1], HTML))
    return first.styler(HTML).set_caption(markup.escape(f"{first.caption} {' '.join(first.notes)}"))


def latex(made: Sequence[Table]) -> str:
    """Tables for LaTeX with booktabs: each a `table` with its caption and footnotes, all text escaped."""
    return "\n".join(_latex(sheet) for sheet in _all(made, LATEX))


def html(made: Sequence[Table]) -> str:
    """Tables as one page of HTML that needs nothing else, for light and dark screens."""
    body = "\n".join(_figure(sheet, number) for number, sheet in enumerate(_all(made, HTML)))
    return _PAGE.format(title=markup.escape(f"robustcl: {made[0].parts[0].partition(':')[0]}"), body=body)


def sheets(made: Sequence[Table], form: Form) -> Iterator[Sheet]:
    """The tables as sheets: one of its own with its schemes side by side, or data sets side by side over schemes.

    Schemes stand below each other where a page is too narrow for them, on as many pages as they take. Only tables with
    the same judges are neighbours.
    """
    for judges in dict.fromkeys(tuple(one.judges) for one in made):
        alike = [one for one in made if tuple(one.judges) == judges]
        if len(alike) == 1 and len(judges) * len(alike[0].schemes) <= form.most:
            yield _beside(alike[0], form)
            continue
        across = max(1, form.most // len(judges))
        for first in range(0, len(alike), across):
            some = alike[first : first + across]
            schemes = max(1, form.rows // max(len(one.rows) for one in some))
            for one in range(0, len(some[0].schemes), schemes):
                yield _below(some, some[0].schemes[one : one + schemes], form)


def _all(made: Sequence[Table], form: Form) -> Iterator[Sheet]:
    """The sheets of tables, and behind them those of their published numbers."""
    yield from sheets(made, form)
    for one in made:
        if len(one.published):
            columns = pd.Index([heading(judge) for judge in one.judges])
            rows = one.beside()
            index = pd.MultiIndex.from_tuples([tuple(row[:3]) for row in rows], names=["scheme", "encoder", "from"])
            cells = [[form.cell(text) for text in row[3:]] for row in rows]
            caption = f"{one.parts[0]}. {CAPTION}"
            yield Sheet(cells=pd.DataFrame(cells, index=index, columns=columns), caption=caption, notes=one.sources)


def _beside(one: Table, form: Form) -> Sheet:
    """One data set: a row per encoder, a column per scheme and judge."""
    columns = [(scheme, judge) for scheme in one.schemes for judge in one.judges]
    keys = [[(one, (row, *column)) for column in columns] for row in one.rows]
    index = pd.MultiIndex.from_tuples([(one.groups.get(row, ""), row) for row in one.rows])
    names = pd.MultiIndex.from_tuples([(scheme, heading(judge)) for scheme, judge in columns])
    return _sheet(pd.DataFrame(_texts(keys, form), index=index, columns=names), [one], form)


def _below(some: Sequence[Table], schemes: Sequence[str], form: Form) -> Sheet:
    """Several data sets, or many schemes: a row per scheme and encoder, a column per data set and judge."""
    groups = {row: group for one in some for row, group in one.groups.items()}
    every = dict.fromkeys(line for one in some for line in one.lines())
    lines = sorted((line for line in every if line[0] in schemes), key=lambda line: schemes.index(line[0]))
    columns = [(one, judge) for one in some for judge in one.judges]
    keys = [[(one, (row, scheme, judge)) for one, judge in columns] for scheme, row in lines]
    index = pd.MultiIndex.from_tuples([(scheme, groups.get(row, ""), row) for scheme, row in lines])
    names = pd.MultiIndex.from_tuples([(one.of, heading(judge)) for one, judge in columns])
    return _sheet(pd.DataFrame(_texts(keys, form), index=index, columns=names), some, form)


def _texts(keys: Sequence[Sequence[tuple[Table, Key]]], form: Form) -> list[list[str]]:
    text = {one: one.text() for one in dict.fromkeys(one for row in keys for one, _ in row)}
    return [[form.cell(text[one].get(key, MISSING), one.places.get(key, "")) for one, key in row] for row in keys]


def _sheet(cells: pd.DataFrame, some: Sequence[Table], form: Form) -> Sheet:
    """A sheet whose caption says what is shown, and whose notes say once what holds of several tables."""
    legends = dict.fromkeys(form.legend(one) for one in some)
    suite, _, first = some[0].parts[0].partition(": ")
    shown = [first, *(one.parts[0].removeprefix(f"{suite}: ") for one in some[1:])]
    caption = f"{suite}: {'; '.join([*shown, some[0].parts[1]])}"
    notes: dict[str, None] = {}
    for one in some:
        where = f"{one.of}: " if len(some) > 1 else ""
        for text in [*(f"{part}." for part in one.parts[2:]), *one.notes]:
            shared = all(text in [*(f"{part}." for part in of.parts[2:]), *of.notes] for of in some)
            notes[text if shared else where + text] = None
    notes = {text[:1].upper() + text[1:]: None for text in notes}
    return Sheet(cells=cells, caption=" ".join(filter(None, [f"{caption}.", *legends])), notes=list(notes))


def _latex(sheet: Sheet) -> str:
    """The sheet for LaTeX, where the first names of its rows stand above them as bands."""
    bare = replace(sheet, cells=sheet.cells.set_axis(sheet.cells.index.get_level_values(-1)))
    text = bare.styler(LATEX).to_latex(
        column_format="l" + "c" * sheet.cells.shape[1],
        hrules=True,
        multicol_align="c",
        position="t",
        position_float="centering",
        caption=LATEX.escape(sheet.caption),
    )
    notes = "\\\\\n".join(LATEX.escape(note) for note in sheet.notes)
    below = f"\\begin{{flushleft}}\\footnotesize\n{notes}\n\\end{{flushleft}}\n" if notes else ""
    ruled = "\n".join(_ruled(str(text).splitlines(), sheet.cells)) + "\n"
    whole = ruled.replace(r"\begin{tabular}", _SMALL, 1).replace(r"\end{table}", f"{below}\\end{{table}}")
    return re.sub(r"(\\\\\n)(?=[\[*])", r"\1{}", whole)  # what follows a line break is none of its options


def _ruled(lines: Sequence[str], cells: pd.DataFrame) -> list[str]:
    """The lines of a LaTeX table with rules below the heads of its blocks, and with its bands."""
    top, body = lines.index(r"\toprule"), lines.index(r"\midrule") + 1
    blocks = ["".join(_blocks(cells))] if cells.columns.nlevels > 1 else []
    made = [*lines[: top + 2], *blocks, *lines[top + 2 : body]]
    before: tuple[str, ...] = ("",) * (cells.index.nlevels - 1)
    for number, (line, names) in enumerate(zip(lines[body:], cells.index, strict=False)):
        made += [*_bands(names[:-1], before, cells.shape[1] + 1, first=number == 0), line]
        before = names[:-1]
    return [*made, *lines[body + len(cells) :]]


def _bands(names: Sequence[str], before: Sequence[str], width: int, first: bool) -> Iterator[str]:
    """The lines that name the bands which begin here, below a rule or some room."""
    level = next((level for level, pair in enumerate(zip(names, before, strict=True)) if pair[0] != pair[1]), None)
    if level is None:
        return
    if not first:
        yield r"\midrule" if level < len(names) - 1 else r"\addlinespace"
    for at in range(level, len(names)):
        look = r"\textsc" if at == len(names) - 1 else r"\textbf"
        if names[at]:
            yield rf"\multicolumn{{{width}}}{{l}}{{{look}{{{LATEX.escape(names[at])}}}}} \\"


def _blocks(cells: pd.DataFrame) -> Iterator[str]:
    """The rules below the heads of the blocks of columns."""
    heads, first = [str(head) for head in cells.columns.get_level_values(0)], 2
    for head in dict.fromkeys(heads):
        last = first + heads.count(head) - 1
        yield rf"\cmidrule(lr){{{first}-{last}}}"
        first = last + 1


def _figure(sheet: Sheet, number: int) -> str:
    style = sheet.styler(HTML).set_uuid(str(number))  # pandas would draw one, and no two files were the same
    notes = "\n".join(f"<li>{markup.escape(note)}</li>" for note in sheet.notes)
    listed = f"<ul>\n{notes}\n</ul>\n" if notes else ""
    cells = style.to_html(doctype_html=False, exclude_styles=True)
    return (
        f"<figure>\n<figcaption>{markup.escape(sheet.caption)}</figcaption>\n"
        f'<div class="wide" tabindex="0">\n{cells}</div>\n{listed}</figure>'
    )
