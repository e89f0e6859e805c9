"""The only owner of the figure of accuracy per corruption and severity."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.corruptions import by_corruption, by_severity
from robustcl.reports.drawing import Drawing, Drawn, named
from robustcl.reports.folder import RunFolder
from robustcl.reports.heat import ROW, heat, top_of, widest


class PerCorruption(Drawing):
    """Accuracy under common corruptions: a heat map of encoders by corruption and by severity for each scheme."""

    needs = "corruptions (a [judge] with corruptions)"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set and scheme."""
        numbers = by_corruption(run.finished)
        if numbers.empty:
            return
        levels = by_severity(run.finished)
        columns = [name for name in ("data", "scheme") if numbers[name].nunique() > 1]
        for (data, scheme), part in numbers.groupby(["data", "scheme"], observed=True, sort=False):
            of = levels[(levels["data"] == data) & (levels["scheme"] == scheme)]
            name = named("per-corruption", part, columns, several=bool(columns))
            yield Drawn(name=name, figure=per_corruption(part, of), data=part)


def per_corruption(numbers: pd.DataFrame, levels: pd.DataFrame) -> Figure:
    """The heat map of one data set and scheme: `numbers` by corruption and severity, `levels` by severity.

    Several encoders are rows, and a corruption is the mean of its severities; of one encoder alone, corruptions are
    rows and severities columns. Draw and save inside `style.style()`.
    """
    numbers = numbers.assign(corruption=numbers["corruption"].str.replace("_", " "))
    title = f"{numbers['data'].iloc[0]}, {numbers['scheme'].iloc[0]}"
    rows = list(dict.fromkeys(numbers["row"]))
    names = list(dict.fromkeys(numbers["corruption"]))
    if len(rows) == 1:
        parts = [numbers.pivot_table(index="corruption", columns="severity", values="accuracy").reindex(names)]
        titles = [f"{title}: {rows[0]} (%)"]
    else:
        parts = [
            numbers.pivot_table(index="row", columns="corruption", values="accuracy").reindex(rows)[names],
            levels.pivot_table(index="row", columns="severity", values="accuracy").reindex(rows),
        ]
        titles = [f"{title}: mean over severities (%)", "mean over corruptions, by severity (%)"]
    figure = Figure(figsize=(style.WIDTH, 1.0 + sum(0.45 + ROW * len(part) for part in parts)), layout="constrained")
    panels = figure.subplots(
        len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": [len(part) for part in parts]}
    )[:, 0]
    for panel, part, told in zip(panels, parts, titles, strict=True):
        heat(panel, part, top_of(*parts))
        panel.set_title(told, loc="left", fontweight="bold")
    if len(parts) > 1:
        panels[0].tick_params(axis="x", labelrotation=90)
    panels[-1].set_xlabel(f"severity\n{widest(numbers['low'], numbers['high'])}")
    return figure
