"""The only owner of the diagram of AdvCL's pretraining: its views, its routes and its pseudo-label branch."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder

_CLEAN, _ATTACK, _LABELS = "#0072B2", "#D55E00", "#009E73"
# name, what stands in the box, middle (x, y) and width in points of the drawing, colour; all boxes are equally high.
_BOXES = (
    ("x", "image x", 18, 100, 32, style.QUIET),
    ("t1", "τ₁(x)", 84, 164, 64, _CLEAN),
    ("t2", "τ₂(x)", 84, 140, 64, _CLEAN),
    ("high", "high frequencies", 84, 116, 64, _CLEAN),
    ("x+d", "x + δ", 84, 92, 64, _ATTACK),
    ("x+d_ce", "x + δ of CE", 84, 68, 64, _ATTACK),
    ("fixed", "fixed encoder", 84, 26, 64, _LABELS),
    ("normal", "f, BN normal", 154, 140, 56, _CLEAN),
    ("pgd", "f, BN pgd", 154, 92, 56, _ATTACK),
    ("pgd_ce", "f, BN pgd_ce", 154, 68, 56, _ATTACK),
    ("kmeans", "k-means: labels per K", 174, 26, 86, _LABELS),
    ("projector", "projector", 212, 116, 40, style.QUIET),
    ("heads", "head per K", 212, 68, 44, style.QUIET),
    ("contrast", "contrast", 259, 116, 38, style.INK),
    ("ce", "λ · CE", 259, 68, 38, style.INK),
)
_ARROWS = (
    *(("x", view) for view in ("t1", "t2", "high", "x+d", "x+d_ce", "fixed")),
    *((view, "normal") for view in ("t1", "t2", "high")),
    ("x+d", "pgd"), ("x+d_ce", "pgd_ce"), ("normal", "projector"), ("pgd", "projector"), ("pgd_ce", "heads"),
    ("projector", "contrast"), ("heads", "ce"), ("fixed", "kmeans"), ("kmeans", "ce"),
)  # fmt: skip
_WIDE, _HIGH, _BOX = 280, 186, 15
_LABELLED = 50  # below this the pseudo-labels are made


class Pipeline(Drawing):
    """AdvCL's pretraining as a diagram: views, routes, contrast and pseudo-labels; the same for every run."""

    needs = "nothing"
    asked = True

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """The diagram, whatever the run folder holds."""
        yield Drawn(name="pipeline", figure=pipeline(), data=pd.DataFrame(_ARROWS, columns=["from", "to"]))


def pipeline() -> Figure:
    """The diagram after AdvCL, figure 2, as this code trains it. Draw and save inside `style.style()`."""
    figure = Figure(figsize=(style.WIDTH, style.WIDTH * _HIGH / _WIDE))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, _WIDE), ylim=(0, _HIGH))
    axes.axis("off")
    places = {name: (x, y, width) for name, _, x, y, width, _ in _BOXES}
    for _, text, x, y, width, colour in _BOXES:
        _box(axes, text, (x, y), width, colour)
    for start, end in _ARROWS:
        _arrow(axes, places[start], places[end])
    small: dict[str, Any] = {"size": 5.2, "ha": "center", "va": "center"}
    axes.text(186, 160, "one encoder f, a batch norm per route", color=style.INK, **small)
    axes.text(119, 50, "δ: projected ascent on the term that reads it", color=style.dark(_ATTACK), **small)
    axes.text(128, 10, "ClusterFit: once, before training", color=style.dark(_LABELS), **small)
    axes.text(259, 92, "+", color=style.INK, size=8, ha="center", va="center")
    return figure


def _box(axes: Axes, text: str, at: tuple[float, float], width: float, colour: str) -> None:
    corner, round_ = (at[0] - width / 2, at[1] - _BOX / 2), "round,pad=0,rounding_size=2.5"
    axes.add_patch(
        FancyBboxPatch(corner, width, _BOX, boxstyle=round_, facecolor="white", edgecolor=colour, linewidth=0.8)
    )
    axes.text(*at, text, ha="center", va="center_baseline", size=5.6, color=style.dark(colour))


def _arrow(axes: Axes, start: tuple[float, float, float], end: tuple[float, float, float]) -> None:
    """From the right side of a box to the left side of another; to the loss far above the labels, up from below."""
    up = start[1] < end[1] - 2 * _BOX and start[1] < _LABELLED
    tail = (start[0] + start[2] / 2, start[1])
    head = (end[0], end[1] - _BOX / 2) if up else (end[0] - end[2] / 2, end[1])
    form = {"arrowstyle": "-|>", "mutation_scale": 5, "lw": 0.6, "color": style.QUIET, "shrinkA": 0, "shrinkB": 0}
    bend = {"connectionstyle": "angle,angleA=0,angleB=90,rad=3"} if up else {}
    axes.annotate("", xy=head, xytext=tail, arrowprops=form | bend)
