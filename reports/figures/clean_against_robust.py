"""The only owner of the figure of clean against robust accuracy."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn, named, strongest
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.labels import Point, label_points
from robustcl.reports.style import NORMS, Look
from robustcl.reports.table import REFERENCE, Table, heading

_POINT: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.4}
_TOGETHER = 6  # encoders that one panel can hold with all of their schemes


class CleanAgainstRobust(Drawing):
    """SA against AA: a colour per encoder, a marker per scheme, an arrow from one scheme to the next."""

    needs = "a cell of the table that an attack judged"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table with a robust judge."""
        for table in run.tables:
            judge = strongest(table.judges)
            if judge is None:
                continue
            several = len(run.tables) > 1
            name = named("clean-against-robust", table.numbers, ["data", "norm", "eps"], several)
            judged = table.numbers["judge"].isin([CLEAN, judge])
            yield Drawn(name=name, figure=clean_against_robust(table, judge), data=table.numbers[judged])


def clean_against_robust(table: Table, judge: str) -> Figure:
    """SA against a judge: a colour per encoder, a marker per scheme, crosses for intervals.

    An arrow leads from one scheme to the next of the same encoder. Where encoders are too many for one panel, each
    scheme has its own, without arrows. Draw and save inside `style.style()`.
    """
    numbers = table.numbers[table.numbers["kind"] == "measured"]
    sides = [numbers[numbers["judge"] == name] for name in (CLEAN, judge)]
    looks = style.looks([row for row in table.rows if row != REFERENCE])
    marks = dict(zip(table.schemes, itertools.cycle(style.MARKERS), strict=False))
    apart = len(marks) > 1 and numbers["row"].nunique() > _TOGETHER
    begun = set(sides[1]["scheme"])  # of the others nothing is finished
    shown = [[name] for name in marks if name in begun] if apart else [list(marks)]
    figure = Figure(figsize=(style.WIDTH, (0.4 if apart else 0.7) + 2.6 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    share = 100 * float(table.numbers.loc[table.numbers["kind"] == "reference", "accuracy"].iloc[0])
    data, norm, eps = numbers[["data", "norm", "eps"]].iloc[0]
    todo = []
    for panel, schemes in zip(panels, shown, strict=True):
        points, lines = _draw_panel(panel, sides, looks, {name: marks[name] for name in schemes})
        panel.set(xlabel="SA (%)", ylabel=f"{heading(judge)} (%)")
        _limit(panel, lines)
        todo.append((panel, points, [*lines, *_draw_chance(panel, share)]))
        where = f"{data}, {NORMS.get(norm, norm)} {eps}"
        panel.set_title(f"{schemes[0]}: {where}" if apart else where, loc="left")
        panel.grid(True)
    if not apart:
        _explain(figure, marks)
    for panel, points, lines in todo:
        label_points(panel, points, {row: look.colour for row, look in looks.items()}, lines)
    return figure


def _explain(figure: Figure, marks: Mapping[str, str]) -> None:
    """The legend of the schemes."""
    handles = [Line2D([], [], color=style.INK, linestyle="", marker=mark, label=name) for name, mark in marks.items()]
    fitting = int(style.WIDTH / (0.35 + 0.055 * max(map(len, marks))))  # by the inches of the longest name
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), fitting), handletextpad=0.1)


def _draw_panel(
    axes: Axes, sides: Sequence[pd.DataFrame], looks: Mapping[str, Look], marks: Mapping[str, str]
) -> tuple[dict[str, list[Point]], list[list[Point]]]:
    """The schemes in `marks` of every encoder: their places, and the crosses and arrows, in percent."""
    points: dict[str, list[Point]] = {}
    lines: list[list[Point]] = []
    for row, look in looks.items():
        cells = [side[side["row"] == row].set_index("scheme") for side in sides]
        own = marks if len(marks) > 1 else dict.fromkeys(marks, look.marker)  # of one scheme, the encoder's marker
        points[row], crosses = _draw_points(axes, cells, look.colour, own)
        lines += [*crosses, *map(list, itertools.pairwise(points[row]))]
    return points, lines


def _draw_points(
    axes: Axes, sides: Sequence[pd.DataFrame], colour: str, marks: Mapping[str, str]
) -> tuple[list[Point], list[list[Point]]]:
    """The schemes of one encoder with interval crosses and arrows between them: their places and crosses in percent."""
    places: list[Point] = []
    crosses: list[list[Point]] = []
    for scheme in (name for name in marks if all(name in side.index for side in sides)):
        (x, x_low, x_high), (y, y_low, y_high) = (_interval(side, scheme) for side in sides)
        places.append((x, y))
        crosses += [[(x_low, y), (x_high, y)], [(x, y_low), (x, y_high)]]
        axes.plot([x], [y], color=colour, marker=marks[scheme], linestyle="", **_POINT)
    for cross in crosses:
        axes.plot(*zip(*cross, strict=True), color=colour, linewidth=0.6, alpha=0.6, zorder=1)
    for start, end in itertools.pairwise(places):
        arrow = {"arrowstyle": "->", "color": colour, "lw": 0.9, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    return places, crosses


def _limit(axes: Axes, lines: Sequence[Sequence[Point]]) -> None:
    """Show the region of the measured crosses, with room for names, and nothing far beyond 0 and 100 %."""
    for side, axis in enumerate("xy"):
        ends = [point[side] for line in lines for point in line]
        room = 0.12 * (max(ends) - min(ends))
        axes.set(**{f"{axis}lim": (max(-2, min(ends) - room), min(102, max(ends) + room))})


def _draw_chance(axes: Axes, share: float) -> list[list[Point]]:
    """Dotted lines at the accuracy of chance where they are in sight: their ends, in percent."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    quiet: dict[str, Any] = {"color": style.QUIET}
    lines: list[list[Point]] = []
    if low < share < high:
        lines.append([(left, share), (right, share)])
        axes.annotate("chance", (left, share), (3, 2), textcoords="offset points", va="bottom", **quiet)
    if left < share < right:
        lines.append([(share, low), (share, high)])
        axes.annotate("chance", (share, high), (3, -2), textcoords="offset points", va="top", **quiet)
    for line in lines:
        axes.plot(*zip(*line, strict=True), linestyle=":", linewidth=0.9, zorder=0, **quiet)
    return lines


def _interval(cells: pd.DataFrame, scheme: str) -> list[float]:
    """Accuracy, lower and upper end of the cell of a scheme, in percent."""
    shares = cells.loc[scheme, ["accuracy", "low", "high"]].to_numpy(dtype=float)
    return [100 * float(share) for share in shares]
