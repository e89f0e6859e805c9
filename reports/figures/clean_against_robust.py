"""The only owner of the figure of clean against robust accuracy."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn, named
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.labels import Point, label_points
from robustcl.reports.style import NORMS
from robustcl.reports.table import REFERENCE, Table, heading, tables


class CleanAgainstRobust(Drawing):
    """SA against AA: a colour per encoder, a marker per scheme, an arrow from one scheme to the next."""

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table with a robust judge."""
        made = tables(run.records)
        for table in made:
            figure = clean_against_robust(table)
            if figure is None:
                continue
            name = named("clean-against-robust", table.numbers, ["data", "norm", "eps"], several=len(made) > 1)
            judged = table.numbers["judge"].isin([CLEAN, _robust(table)])
            yield Drawn(name=name, figure=figure, data=table.numbers[judged])


def clean_against_robust(table: Table) -> Figure | None:
    """SA against AA (or the last judge there is): a colour per encoder, a marker per scheme, crosses for intervals.

    An arrow leads from the first scheme to the next of the same encoder. None where nothing but SA was judged.
    Draw and save inside `style.style()`.
    """
    judge = _robust(table)
    if judge is None:
        return None
    numbers = table.numbers
    sides = [numbers[numbers["judge"] == name] for name in (CLEAN, judge)]
    looks = style.looks([row for row in table.rows if row != REFERENCE])
    marks = dict(zip(table.schemes, itertools.cycle(style.MARKERS), strict=False))
    figure = Figure(figsize=(style.WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[Point]] = {}
    lines: list[list[Point]] = []
    for row, look in looks.items():
        cells = [side[side["row"] == row].set_index("scheme") for side in sides]
        points[row], crosses = _draw_points(axes, cells, look.colour, marks)
        lines += [*crosses, *map(list, itertools.pairwise(points[row]))]
    share = 100 * float(numbers.loc[numbers["kind"] == "reference", "accuracy"].iloc[0])
    axes.set(xlabel="SA (%)", ylabel=f"{heading(judge)} (%)")
    _limit(axes, lines)
    lines += _draw_chance(axes, share)
    data, norm, eps = numbers[["data", "norm", "eps"]].iloc[0]
    axes.set_title(f"{data}, {NORMS.get(norm, norm)} {eps}", loc="left")
    axes.grid(True)
    handles = [Line2D([], [], color=style.INK, linestyle="", marker=marks[name], label=name) for name in table.schemes]
    fitting = int(style.WIDTH / (0.35 + 0.055 * max(map(len, table.schemes))))  # by the inches of the longest name
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), fitting), handletextpad=0.1)
    label_points(axes, points, {row: look.colour for row, look in looks.items()}, lines)
    return figure


def _robust(table: Table) -> str | None:
    """The judge to set against SA: AutoAttack where it was run, else the last one."""
    judges = [judge for judge in table.judges if judge not in (CLEAN, CORRUPTIONS)]
    return "autoattack" if "autoattack" in judges else (judges[-1] if judges else None)


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
        axes.plot([x], [y], color=colour, marker=marks[scheme], markersize=5, linestyle="", markeredgecolor="white")
    for cross in crosses:
        axes.plot(*zip(*cross, strict=True), color=colour, linewidth=0.7)
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
