"""The only owner of the figure of accuracy against eps."""

from collections.abc import Iterator
from fractions import Fraction

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports.drawing import Drawing, Drawn, named
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.lines import panels
from robustcl.reports.style import NORMS
from robustcl.reports.table import heading, in_order

_SET = ["suite", "data", "norm"]
_CURVE = [*_SET, "scheme", "row", "encoder", "eps", "radius", "judge", "classes"]
_NUMBERS = ["n", "right", "accuracy", "low", "high"]


class AgainstEps(Drawing):
    """Accuracy against eps for every encoder: a line with its 95 % band, a panel per scheme, from the suite's sweep."""

    needs = "one judge at two radii at least (a [judge.sweep])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set and norm with at least two radii."""
        parts = curves(run.numbers)
        for points in parts:
            name = named("accuracy-against-eps", points, ["data", "norm"], several=len(parts) > 1)
            yield Drawn(name=name, figure=against_eps(points), data=points)


def curves(numbers: pd.DataFrame) -> list[pd.DataFrame]:
    """The points of accuracy against eps, one frame per data set and norm with at least two radii.

    `numbers` are the pooled ones of a run folder. The judge is the one with most radii; at eps 0 stands the clean
    accuracy (`judge` is then `clean`). Accuracies are shares in [0, 1]; `row`, `encoder` and `scheme` are categorical,
    in the order in which they are shown.
    """
    if numbers.empty:
        return []
    numbers = numbers.assign(row=pd.Categorical(numbers["row"], categories=in_order(numbers)))
    parts = [_curve(part) for _, part in numbers.groupby(_SET, observed=True, sort=False)]
    return [part for part in parts if part["radius"].nunique() > 2]


def against_eps(points: pd.DataFrame) -> Figure:
    """Accuracy against eps, one panel per scheme; `points` is one of `curves`. Draw inside `style.style()`."""
    unit = _unit(points)
    judge = next(name for name in points["judge"] if name != CLEAN)
    norm = NORMS.get(points["norm"].iloc[0], points["norm"].iloc[0])
    across = f"eps ({norm}{', in 1/255' if unit == 255 else ''}); at 0 the clean accuracy"
    return panels(points.assign(at=unit * points["radius"]), "at", across, heading(judge))


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
