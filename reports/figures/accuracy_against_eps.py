"""The only owner of the figure of accuracy against eps."""

from collections.abc import Iterator, Mapping
from fractions import Fraction

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn, named
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.labels import label_ends
from robustcl.reports.seeds import pooled
from robustcl.reports.style import NORMS, Look
from robustcl.reports.table import CHANCE, heading, in_order

_SET = ["suite", "data", "norm"]
_CURVE = [*_SET, "scheme", "row", "encoder", "eps", "radius", "judge", "classes"]
_NUMBERS = ["n", "right", "accuracy", "low", "high"]


class AgainstEps(Drawing):
    """Accuracy against eps for every encoder: a line with its 95 % band, a panel per scheme, from the suite's sweep."""

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set and norm with at least two radii."""
        parts = curves(run.records)
        for points in parts:
            name = named("accuracy-against-eps", points, ["data", "norm"], several=len(parts) > 1)
            yield Drawn(name=name, figure=against_eps(points), data=points)


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
    norm = NORMS.get(points["norm"].iloc[0], points["norm"].iloc[0])
    panels[-1].set_xlabel(f"eps ({norm}{', in 1/255' if unit == 255 else ''}); at 0 the clean accuracy")
    figure.supylabel(f"{heading(judge)} (%)", fontsize=7.5)
    figure.draw_without_rendering()  # the layout settles before labels are placed by their size
    for panel, scheme in zip(panels, schemes, strict=True):
        _label_curves(panel, points[points["scheme"] == scheme], looks, unit)
    return figure


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
