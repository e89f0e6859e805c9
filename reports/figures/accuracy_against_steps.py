"""The only owner of the figure of accuracy against the steps of PGD."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports.drawing import Drawing, Drawn, named
from robustcl.reports.folder import RunFolder
from robustcl.reports.lines import panels
from robustcl.reports.steps import curves
from robustcl.reports.style import NORMS
from robustcl.reports.table import in_order

_TABLE = ["suite", "data", "norm", "eps"]


class AgainstSteps(Drawing):
    """Accuracy against PGD steps for every encoder: a line with its 95 % band, a panel per scheme, from one PGD run."""

    needs = "a judge that is one PGD from one start, such as pgd-100"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table with such a judge."""
        points = curves(run.finished)
        if points.empty:
            return
        points["row"] = pd.Categorical(points["encoder"], categories=in_order(points))
        parts = [part for _, part in points.groupby(_TABLE, observed=True, sort=False)]
        for part in parts:
            name = named("accuracy-against-steps", part, ["data", "norm", "eps"], several=len(parts) > 1)
            yield Drawn(name=name, figure=against_steps(part), data=part.drop(columns="row"))


def against_steps(points: pd.DataFrame) -> Figure:
    """Accuracy against steps, one panel per scheme; `points` are those of one table. Draw inside `style.style()`."""
    norm, eps = points[["norm", "eps"]].iloc[0]
    across = f"steps of PGD at {NORMS.get(norm, norm)} {eps}; at 0 the clean accuracy"
    return panels(points, "steps", across, "RA", marked=False)
