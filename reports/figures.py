"""The only owner of what the figures show: accuracy against eps for every encoder, and SA against AA."""

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustcl.reports import style
from robustcl.reports.frame import CLEAN, CORRUPTIONS, frame
from robustcl.reports.labels import Point, label_ends, label_points
from robustcl.reports.seeds import pooled
from robustcl.reports.style import Look
from robustcl.reports.table import CHANCE, REFERENCE, Table, heading, in_order, tables

_NORMS = {"linf": "\u2113\u221e", "l2": "\u2113\u2082", "l1": "\u2113\u2081"}  # as l with its index
_SET = ["suite", "data", "norm"]
_CURVE = [*_SET, "scheme", "row", "encoder", "eps", "radius", "judge", "classes"]
_NUMBERS = ["n", "right", "accuracy", "low", "high"]


def curves(records: pd.DataFrame) -> list[pd.DataFrame]:
    """The points of accuracy against eps, one frame per data set and norm with at least two radii.

    The judge is the one with most radii; at eps 0 stands the clean accuracy (`judge` is then `clean`). Accuracies are
    shares in [0, 1]; `row`, `encoder` and `scheme` are categorical, in the order in which they are shown.
    """
    numbers, _ = pooled(records[records["judge"] != CORRUPTIONS])  # which are at no eps
    if numbers.empty:
        return []
    numbers["row"] = pd.Categorical(numbers["row"], categories=in_order(numbers))
    parts = [_curve(part) for _, part in numbers.groupby(_SET, observed=True, sort=False)]
    return [part for part in parts if part["radius"].nunique() > 2]


def against_eps(points: pd.DataFrame) -> Figure:
    """Accuracy against eps, one panel per scheme, a line with its 95 % Wilson band per encoder, chance dotted.

    `points` is one of `curves`. Draw and save inside `style.style()`.
    """
    schemes = [scheme for scheme in points["scheme"].cat.categories if (points["scheme"] == scheme).any()]
    looks = style.looks(list(points["row"].cat.categories))
    figure = Figure(figsize=(style.WIDTH, 0.55 + 1.7 * len(schemes)), layout="constrained")
    panels = figure.subplots(len(schemes), 1, sharex=True, squeeze=False)[:, 0]
    unit = _unit(points)
    for panel, scheme in zip(panels, schemes, strict=True):
        _draw_curves(panel, points[points["scheme"] == scheme], looks, unit)
        panel.set_title(scheme, loc="left", fontweight="bold")
    judge = next(name for name in points["judge"] if name != CLEAN)
    norm = _NORMS.get(points["norm"].iloc[0], points["norm"].iloc[0])
    panels[-1].set_xlabel(f"eps ({norm}{', in 1/255' if unit == 255 else ''}); at 0 the clean accuracy")
    figure.supylabel(f"{heading(judge)} (%)", fontsize=7.5)
    figure.draw_without_rendering()  # the layout settles before labels are placed by their size
    for panel, scheme in zip(panels, schemes, strict=True):
        _label_curves(panel, points[points["scheme"] == scheme], looks, unit)
    return figure


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
    axes.set_title(f"{data}, {_NORMS.get(norm, norm)} {eps}", loc="left")
    axes.grid(True)
    handles = [Line2D([], [], color=style.INK, linestyle="", marker=marks[name], label=name) for name in table.schemes]
    fitting = int(style.WIDTH / (0.35 + 0.055 * max(map(len, table.schemes))))  # by the inches of the longest name
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), fitting), handletextpad=0.1)
    label_points(axes, points, {row: look.colour for row, look in looks.items()}, lines)
    return figure


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write every figure that the records of a frame allow as PNG, SVG, PDF and CSV: the paths.

    With several data sets, norms or threats each has its own files, told apart by their names.
    """
    paths = []
    with style.style():
        parts = curves(records)
        for points in parts:
            name = _name("accuracy-against-eps", points, ["data", "norm"], several=len(parts) > 1)
            paths += style.save(name, against_eps(points), points, Path(folder))
        made = tables(records)
        for table in made:
            figure = clean_against_robust(table)
            if figure is None:
                continue
            several = len(made) > 1
            name = _name("clean-against-robust", table.numbers, ["data", "norm", "eps"], several=several)
            judged = table.numbers["judge"].isin([CLEAN, _robust(table)])
            paths += style.save(name, figure, table.numbers[judged], Path(folder))
    return paths


def write(runs: str | Path, folder: str | Path) -> list[Path]:
    """Write the figures of the run folder `runs` into `folder`: the paths. Errors: as `frame`; unwritable folder."""
    return save(frame(runs), folder)


def _curve(numbers: pd.DataFrame) -> pd.DataFrame:
    """The points of one data set and norm: the judge with most radii, and the clean accuracy where no eps is 0."""
    robust = numbers[numbers["judge"] != CLEAN]
    radii = robust.groupby("judge", observed=True)["radius"].nunique()
    key = ["row", "scheme", "radius"]
    # The table's own cell comes first where the sweep has the same eps again.
    ordered = numbers.sort_values("headline", ascending=False, kind="stable")
    swept = ordered[ordered["judge"] == (radii.idxmax() if len(radii) else None)]
    clean = ordered[ordered["judge"] == CLEAN].assign(radius=0.0)
    clean["eps"] = "0"
    every = pd.concat([swept.astype({"eps": str}), clean.astype({"eps": str})])
    points = every.drop_duplicates(key).sort_values(["scheme", "row", "radius"], kind="stable")
    return points[[*_CURVE, *_NUMBERS]].astype({"judge": str}).reset_index(drop=True)


def _unit(points: pd.DataFrame) -> int:
    """255 where every eps is a whole number of grey levels, as people then think in those; else 1."""
    return 255 if all((Fraction(eps) * 255).denominator == 1 for eps in points["eps"]) else 1


def _draw_curves(axes: Axes, points: pd.DataFrame, looks: Mapping[str, Look], unit: int) -> None:
    for row, part in points.groupby("row", observed=True):
        look, x = looks[str(row)], unit * part["radius"]
        axes.fill_between(x, 100 * part["low"], 100 * part["high"], color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(x, 100 * part["accuracy"], color=look.colour, linestyle=look.line, marker=look.marker)
    axes.axhline(100 / points["classes"].iloc[0], color=style.QUIET, linestyle=":", linewidth=0.9, zorder=0)
    axes.set_ylim(-3, 103)
    end = unit * points["radius"].max()
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.grid(True, axis="y")


def _label_curves(axes: Axes, points: pd.DataFrame, looks: Mapping[str, Look], unit: int) -> None:
    """Names at the right ends; lines that end together keep the order in which they came down."""
    ends = {}
    for row, part in points.groupby("row", observed=True):
        last, height = part.iloc[-1], float(part["accuracy"].mean())
        ends[str(row)] = (unit * float(last["radius"]), 100 * float(last["accuracy"]) + 1e-3 * height)
    right = max(x for x, _ in ends.values())
    colours = {row: looks[row].colour for row in ends} | {CHANCE: style.QUIET}
    label_ends(axes, ends | {CHANCE: (right, 100 / float(points["classes"].iloc[0]))}, colours)


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


def _name(stem: str, data: pd.DataFrame, columns: Sequence[str], several: bool) -> str:
    parts = (
        [str(data[column].iloc[0]).replace("/", "_").replace(" -> ", "-to-") for column in columns] if several else []
    )
    return "-".join([stem, *parts])
