"""The only owner of accuracy as lines: a panel per scheme, a line with its 95 % band per encoder, names at the ends."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.labels import LINE, label_ends
from robustcl.reports.style import Look
from robustcl.reports.table import CHANCE

_FAINT = 6  # lines in one panel; bands of more would hide each other


def panels(points: pd.DataFrame, at: str, across: str, upward: str, marked: bool = True) -> Figure:
    """Accuracy in percent against the column `at`, with the names of the axes; chance is dotted.

    `points` has `row` and `scheme` (categorical, in the order shown), accuracy, low and high (shares), and classes.
    Without `marked` the points of a line have no markers. Draw and save inside `style.style()`.
    """
    schemes = [scheme for scheme in points["scheme"].cat.categories if (points["scheme"] == scheme).any()]
    looks = style.looks(list(points["row"].cat.categories))
    most = 1 + max(points.loc[points["scheme"] == scheme, "row"].nunique() for scheme in schemes)
    height = max(1.7, 1.1 * LINE * most / 72)  # room for every name
    figure = Figure(figsize=(style.WIDTH, 0.55 + height * len(schemes)), layout="constrained")
    axes = figure.subplots(len(schemes), 1, sharex=True, squeeze=False)[:, 0]
    parts = [points[points["scheme"] == scheme] for scheme in schemes]
    for panel, scheme, part in zip(axes, schemes, parts, strict=True):
        _draw(panel, part, at, looks, marked)
        panel.set_title(scheme, loc="left", fontweight="bold")
    axes[-1].set_xlabel(across)
    figure.supylabel(f"{upward} (%)", fontsize=7.5)
    style.settle(figure)
    for panel, part in zip(axes, parts, strict=True):
        _label(panel, part, at, looks)
    return figure


def _draw(axes: Axes, points: pd.DataFrame, at: str, looks: Mapping[str, Look], marked: bool) -> None:
    shade = 0.15 if points["row"].nunique() <= _FAINT else 0.06
    for row, part in points.groupby("row", observed=True):
        look, x = looks[str(row)], part[at]
        axes.fill_between(x, 100 * part["low"], 100 * part["high"], color=look.colour, alpha=shade, linewidth=0)
        marker = look.marker if marked else None
        axes.plot(x, 100 * part["accuracy"], color=look.colour, linestyle=look.line, marker=marker)
    axes.axhline(100 / points["classes"].iloc[0], color=style.QUIET, linestyle=":", linewidth=0.9, zorder=0)
    axes.set_ylim(-3, 103)
    end = points[at].max()
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.grid(True, axis="y")


def _label(axes: Axes, points: pd.DataFrame, at: str, looks: Mapping[str, Look]) -> None:
    """Names at the right ends; lines that end together keep the order in which they came down."""
    ends = {}
    for row, part in points.groupby("row", observed=True):
        last, height = part.iloc[-1], float(part["accuracy"].mean())
        ends[str(row)] = (float(last[at]), 100 * float(last["accuracy"]) + 1e-3 * height)
    right = max(x for x, _ in ends.values())
    colours = {row: looks[row].colour for row in ends} | {CHANCE: style.QUIET}
    label_ends(axes, ends | {CHANCE: (right, 100 / float(points["classes"].iloc[0]))}, colours)
