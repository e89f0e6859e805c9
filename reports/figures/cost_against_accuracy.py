"""The only owner of the figure of accuracy against the cost of pretraining."""

import itertools
from collections.abc import Iterator, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn, named, strongest
from robustcl.reports.folder import RunFolder
from robustcl.reports.labels import Point, label_points
from robustcl.reports.style import Look
from robustcl.reports.table import RANDOM, REFERENCE, Table, heading

PASSES, SECONDS = "passes", "seconds"
_AXES = {PASSES: "forward-equivalents of one image", SECONDS: "seconds measured"}
_TRAINED = ("pretrain", "labels")


class CostAgainstAccuracy(Drawing):
    """AA against what the encoder cost: everything trained for it counts, and the best for their cost are joined."""

    needs = "pretraining stages whose cost is known"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table with a robust judge and two encoders of known cost."""
        for table in run.tables:
            points = priced(run, table)
            if points["row"].nunique() > 1:
                name = named("cost-against-accuracy", points, ["data", "norm", "eps"], several=len(run.tables) > 1)
                yield Drawn(name=name, figure=cost_against_accuracy(points, table), data=points)


def priced(run: RunFolder, table: Table) -> pd.DataFrame:
    """The table's numbers under its strongest judge with `cost`, `unit` and `best`: nothing is cheaper and as good.

    The cost of an encoder is that of its pretraining and of every encoder and labels that this needs, one seed:
    passes (forward-equivalents, from the suite's plan) or, where the folder does not say, the seconds that its stages
    took. Encoders without a cost (random, imported, given) are left out.
    """
    judge = strongest(table.judges)
    measured = table.numbers[(table.numbers["kind"] == "measured") & (table.numbers["judge"] == judge)]
    passes: Mapping[str, int] = run.suite["resolved"].get("cost", {})
    key = table.numbers[["data", "norm", "eps"]].iloc[0].tolist()
    costs: dict[str, tuple[int | None, float] | None] = {}
    for cell in run.cells:
        if cell["headline"] and cell["encoder"] != RANDOM and [cell["data"], cell["norm"], cell["eps"]] == key:
            costs.setdefault(str(cell["encoder"]), _cost(run, str(cell["stage"]), passes))
    known = {row: cost for row, cost in costs.items() if cost and cost[1] > 0}
    unit = PASSES if all(passed is not None for passed, _ in known.values()) else SECONDS
    of = {row: float(cost[unit == SECONDS] or 0) for row, cost in known.items()}
    points = measured[measured["row"].isin(list(of))].assign(unit=unit)
    points = points.assign(cost=points["row"].map(of).astype(float))
    held = zip(points["scheme"], points["cost"], points["accuracy"], strict=True)
    return points.assign(best=[_best(points[points["scheme"] == scheme], *of) for scheme, *of in held])


def cost_against_accuracy(points: pd.DataFrame, table: Table) -> Figure:
    """A panel per scheme: cost on a logarithmic scale, accuracy with its interval. Draw inside `style.style()`."""
    schemes = [scheme for scheme in table.schemes if (points["scheme"] == scheme).any()]
    looks = style.looks([row for row in table.rows if row != REFERENCE])
    figure = Figure(figsize=(style.WIDTH, 0.6 + 1.9 * len(schemes)), layout="constrained")
    panels = figure.subplots(len(schemes), 1, sharex=True, squeeze=False)[:, 0]
    unit = str(points["unit"].iloc[0])
    low, high = points["cost"].min() / 1.25, points["cost"].max() * 1.6
    panels[-1].set_xscale("log")
    panels[-1].set_xlim(low, high)
    style.plain_powers(panels[-1].xaxis, low, high)
    panels[-1].set_xlabel(f"cost of pretraining and of all that it needs\n({_AXES[unit]})")
    figure.supylabel(f"{heading(str(points['judge'].iloc[0]))} (%)", fontsize=7.5)
    lines = []
    for panel, scheme in zip(panels, schemes, strict=True):
        panel.set_title(scheme, loc="left", fontweight="bold")
        lines.append(_draw(panel, points[points["scheme"] == scheme], looks))
    for panel, scheme, drawn in zip(panels, schemes, lines, strict=True):
        part = points[points["scheme"] == scheme]
        at = {str(row): [(x, 100 * y)] for row, x, y in zip(part["row"], part["cost"], part["accuracy"], strict=True)}
        label_points(panel, at, {row: look.colour for row, look in looks.items()}, drawn)
    return figure


def _cost(run: RunFolder, stage: str, passes: Mapping[str, int]) -> tuple[int | None, float] | None:
    """Passes (None where unknown) and seconds of all that was trained for the encoder of a stage of judging."""
    made = {key: note for key, note in run.lineage(stage).items() if note["kind"] in _TRAINED}
    if not any(note["kind"] == "pretrain" for note in made.values()):
        return None
    seconds = sum(float(note["made"]["seconds"]) for note in made.values())
    return sum(passes[key] for key in made) if all(key in passes for key in made) else None, seconds


def _best(others: pd.DataFrame, cost: float, accuracy: float) -> bool:
    """Whether none of the others is at least as good in both, and better in one."""
    as_good = (others["cost"] <= cost) & (others["accuracy"] >= accuracy)
    return not (as_good & ((others["cost"] < cost) | (others["accuracy"] > accuracy))).any()


def _draw(axes: Axes, points: pd.DataFrame, looks: Mapping[str, Look]) -> list[list[Point]]:
    """The encoders and the front of the best for their cost: what names must not cover."""
    lines: list[list[Point]] = []
    shown = points.sort_values("cost")
    for point in shown.to_dict("records"):
        look, x = looks[point["row"]], point["cost"]
        lines.append([(x, 100 * point["low"]), (x, 100 * point["high"])])
        axes.plot(*zip(*lines[-1], strict=True), color=look.colour, linewidth=0.8)
        axes.plot([x], [100 * point["accuracy"]], color=look.colour, marker=look.marker, markersize=5, linestyle="")
    front = shown[shown["best"]]
    at = list(zip(front["cost"], 100 * front["accuracy"], strict=True))
    corners = [corner for (x, y), (to, up) in itertools.pairwise(at) for corner in ((x, y), (to, y), (to, up))]
    axes.plot(*zip(*(corners or at), strict=True), color=style.QUIET, linewidth=0.9, linestyle="--", zorder=0)
    axes.grid(True)
    return [*lines, *map(list, itertools.pairwise(corners))]
