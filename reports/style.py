"""The only owner of how every figure looks and is saved: sizes, colours, markers, files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from robustcl.models.whole import writable
from robustcl.reports.spreadsheet import csv

WIDTH = 3.4  # inches: one column of a paper
# Okabe and Ito, 2008, without the yellow that vanishes on white; colours are never the only difference.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# As many as schemes with their selections can be, the last ones stars; with as many colours no two rows look alike.
MARKERS: tuple[Any, ...] = (
    "o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", (3, 1, 0), (4, 1, 0), (6, 1, 0),
)  # fmt: skip
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.5, 1)))
NORMS = {"linf": "\u2113\u221e", "l2": "\u2113\u2082", "l1": "\u2113\u2081"}  # as l with its index
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
QUIET, INK = "#777777", "#222222"
_FORM: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in the name of an encoder is a dollar
    "svg.hashsalt": "robustcl",  # the same ids in every run
    "pdf.fonttype": 42,  # publishers refuse type 3 fonts
}
# Without a date or a version, so that the same records give the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one row of the table looks in every figure."""

    colour: str
    marker: str
    line: Any


def looks(rows: Sequence[str]) -> dict[str, Look]:
    """A look for every row, the same in every figure of a report; no two of the first 112 share colour and marker."""
    return {
        row: Look(
            colour=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            line=LINES[place % len(LINES)],
        )
        for place, row in enumerate(rows)
    }


def dark(colour: str) -> str:
    """The colour a third darker, for text: light hues are too faint on white at this size."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.65 * red, 0.65 * green, 0.65 * blue))


def plain_powers(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis from `low` to `high`: 0.5, 20, 1000, and 2·10⁶ for large and small ones."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    exponent = floor(log10(value) + 1e-9)
    if -3 <= exponent < 4:
        return f"{value:g}"
    lead = f"{value / 10**exponent:.0f}·"
    return f"{'' if lead[0] == '1' else lead}10{str(exponent).translate(_RAISED)}"


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn and saved inside looks like one report; the caller's own settings come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_FORM)
        yield


def settle(figure: Figure) -> None:
    """Give the axes their places now, so that texts can be placed by the room there is; far cheaper than a drawing."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def save(name: str, figure: Figure, data: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a figure as PNG, SVG and PDF with its data beside it as CSV. Errors: `UserError`, unwritable folder."""
    paths = [folder / f"{name}.{kind}" for kind in (*_METADATA, "csv")]
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        settle(figure)
        figure.set_layout_engine(None)  # one layout for the three files; "none" would still draw each of them twice
        for path, (kind, metadata) in zip(paths, _METADATA.items(), strict=False):
            figure.savefig(path, format=kind, dpi=200, metadata=metadata)
        paths[-1].write_text(csv(data), encoding="utf-8", newline="\n")
    return paths
