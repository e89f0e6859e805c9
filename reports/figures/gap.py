"""The only owner of the figure of the gap between schemes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import ndtri

from robustcl.reports import style
from robustcl.reports.answers import Answers
from robustcl.reports.drawing import Drawing, Drawn, named, strongest
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.statistics import wilson
from robustcl.reports.table import GIVEN, REFERENCE, Table, heading
from robustcl.reports.verdicts import verdicts

_TABLE = ["suite", "data", "norm", "eps"]
_ROW = 0.21  # inches from one encoder to the next
_SHORT = 12  # letters over the column of gaps; longer ones would take the room of the panels
_APART = 0.3  # from one scheme of an encoder to the next, in rows: equal numbers must not cover each other


class Gap(Drawing):
    """SA and AA of every encoder from the first scheme of the table to its last, such as SLF to AFF, and their gap."""

    needs = "two schemes of one encoder"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table with two schemes."""
        for table in run.tables:
            gaps = scheme_gaps(run.answers, table)
            if not gaps.empty:
                name = named("gap", table.numbers, ["data", "norm", "eps"], several=len(run.tables) > 1)
                yield Drawn(name=name, figure=gap(table, gaps), data=gaps)


def scheme_gaps(answers: Answers, table: Table) -> pd.DataFrame:
    """The gap of every encoder under SA and the strongest judge.

    Columns row, judge, of and to (schemes), n, seeds, gap, low, high. The gap is the accuracy under the scheme `to`
    less that under `of`, a share in [-1, 1]. Both schemes saw the same
    images, so its 95 % interval is that of the mean of n differences per image (means over seeds), see `_mean`.
    """
    schemes = [scheme for scheme in table.schemes if scheme != GIVEN]
    key = table.numbers[_TABLE].iloc[0].tolist()
    of = answers.headline.where((answers.headline.cells[_TABLE].astype(str) == key).all(axis=1))
    judges = [CLEAN, strongest(of.held)]
    names = ["row", "judge", "of", "to", "n", "seeds", "gap", "low", "high"]
    rows = []
    for row, judge in itertools.product((row for row in table.rows if row != REFERENCE), filter(None, judges)):
        held = verdicts(of.where(of.cells["encoder"] == row), judges=[judge])
        held = held.drop_duplicates(["scheme", "stage", "image"])
        means = held.pivot_table(index="image", columns="scheme", values="right", aggfunc="mean", observed=True)
        known = [scheme for scheme in schemes if scheme in means]
        if len(known) < 2:
            continue
        first, last = known[0], known[-1]
        seeds = int(held.groupby("scheme", observed=True)["stage"].nunique().max())
        rows.append([row, judge, first, last, len(means), seeds, *_mean(means[last] - means[first])])
    return pd.DataFrame(rows, columns=names)


def gap(table: Table, gaps: pd.DataFrame) -> Figure:
    """A panel per judge: an encoder a line, a marker with its interval per scheme, the gap at the right.

    A gap whose interval holds 0 is grey. Draw and save inside `style.style()`.
    """
    judges, rows = list(dict.fromkeys(gaps["judge"])), list(dict.fromkeys(gaps["row"]))
    schemes = [scheme for scheme in table.schemes if scheme != GIVEN]
    marks = dict(zip(schemes, itertools.cycle(style.MARKERS), strict=False))
    figure = Figure(figsize=(style.WIDTH, 0.95 + _ROW * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(judges), sharey=True, squeeze=False)[0]
    numbers = table.numbers[table.numbers["kind"] == "measured"]
    colours = {row: look.colour for row, look in style.looks([row for row in table.rows if row != REFERENCE]).items()}
    for panel, judge in zip(panels, judges, strict=True):
        part = numbers[numbers["judge"].str.partition(" [")[0] == judge]
        for place, row in enumerate(rows):
            _draw_row(panel, place, part[part["row"] == row], marks, colours[row])
        _write_gaps(panel, gaps[gaps["judge"] == judge], rows)
        panel.set_xlabel(f"{heading(judge)} (%)")
        panel.set_xlim(*_limits(part))
        panel.grid(True, axis="x")
        panel.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for panel in panels:
        panel.tick_params(axis="y", length=0)
    for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_color(style.dark(colours[row]))
    handles = [Line2D([], [], color=style.INK, linestyle="", marker=mark, label=name) for name, mark in marks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handletextpad=0.1)
    return figure


def _mean(differences: pd.Series) -> Sequence[float]:
    """The mean of differences in [-1, 1] and its normal 95 % interval.

    Where all are equal nothing is known of their spread, and Wilson's bound on a share seen in none of n stands in.
    """
    mean, n = float(differences.mean()), len(differences)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    half = float(ndtri(0.975)) * spread / np.sqrt(n) if spread else float(wilson(0, n)[1])
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def _draw_row(axes: Axes, place: int, cells: pd.DataFrame, marks: dict[str, str], colour: str) -> None:
    shares = 100 * cells.set_index("scheme")[["accuracy", "low", "high"]].astype(float)
    known = [scheme for scheme in marks if scheme in shares.index]
    ends = shares.loc[known].to_numpy()
    levels = [place + _APART * (step - (len(known) - 1) / 2) for step in range(len(known))]
    axes.plot(ends[:, 0], levels, color=colour, linewidth=2.2, alpha=0.35, zorder=1)
    axes.hlines(levels, ends[:, 1], ends[:, 2], color=colour, linewidth=0.7, zorder=2)
    for level, mean, scheme in zip(levels, ends[:, 0], known, strict=True):
        axes.plot([mean], [level], color=colour, marker=marks[scheme], markeredgecolor="white", zorder=3)


def _write_gaps(axes: Axes, gaps: pd.DataFrame, rows: Sequence[str]) -> None:
    """The gap in points with half its interval, in a column of its own right of the panel."""
    place: Any = {"xycoords": ("axes fraction", "data"), "annotation_clip": False, "size": 6, "va": "center"}
    first = gaps.iloc[0]
    told = f"{first['to']} - {first['of']}"
    axes.annotate(told if len(told) <= _SHORT else "last - first", (1.02, -0.95), **place)
    for row, mean, low, high in zip(*(gaps[name] for name in ("row", "gap", "low", "high")), strict=True):
        text = f"{100 * mean:+.1f} ±{50 * (high - low):.1f}"
        axes.annotate(text, (1.02, rows.index(row)), color=style.QUIET if low <= 0 <= high else style.INK, **place)


def _limits(cells: pd.DataFrame) -> tuple[float, float]:
    low, high = 100 * float(cells["low"].min()), 100 * float(cells["high"].max())
    room = 0.05 * (high - low)
    return max(-3.0, low - room), min(103.0, high + room)
