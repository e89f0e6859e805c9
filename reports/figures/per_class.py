"""The only owner of the figure of accuracy per class."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn, named, strongest
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.heat import ROW, heat, top_of, widest
from robustcl.reports.statistics import wilson_of_means
from robustcl.reports.table import heading, in_order
from robustcl.reports.verdicts import verdicts

_TABLE = ["suite", "data", "norm", "eps"]
_CELL = [*_TABLE, "scheme", "encoder"]
_LEGIBLE = 20  # classes; the cells of more are too narrow for numbers


class PerClass(Drawing):
    """SA and AA per class: a heat map of encoders and classes for each scheme, with the number of images per class."""

    needs = "a finished cell of the table"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per table and scheme."""
        numbers = by_class(run)
        tables = numbers[_TABLE].drop_duplicates()
        columns = [*(["data", "norm", "eps"] if len(tables) > 1 else []), "scheme"]
        for _, part in numbers.groupby([*_TABLE, "scheme"], observed=True, sort=False):
            several = len(tables) > 1 or numbers["scheme"].nunique() > 1
            yield Drawn(name=named("per-class", part, columns, several), figure=per_class(part), data=part)


def by_class(run: RunFolder) -> pd.DataFrame:
    """One row per cell of the table, judge (`clean` and the strongest) and class (`label`): seeds, n, accuracy, low,
    high, shares in [0, 1]; `encoder` and `scheme` categorical in the order shown.

    `n` counts images, which the seeds of a cell share; their mean is taken image by image, as `pooled` does.
    """
    shown, rows = run.answers.headline, []
    cells = shown.cells
    for _, table in cells.groupby(_TABLE, observed=True, sort=False):
        kept = [CLEAN, strongest(shown.take(table.index).held)]
        for key, seeds in table.drop_duplicates([*_CELL, "stage"]).groupby(_CELL, observed=True, sort=False):
            of = shown.take(seeds.index)
            labels = pd.Series(of.heard[0].labels, of.heard[0].answers[CLEAN].index)
            for judge in (judge for judge in of.held if judge in kept):
                held = verdicts(of, judges=[judge]).groupby("image")["right"].agg(["mean", "size"])
                for label, part in held.groupby(labels.reindex(held.index), sort=False):
                    times = int(part["size"].max())
                    ends = wilson_of_means(part["mean"], times)
                    rows.append([*key, judge, label, times, len(part), float(part["mean"].mean()), *ends])
    made = pd.DataFrame(rows, columns=[*_CELL, "judge", "label", "seeds", "n", "accuracy", "low", "high"])
    if made.empty:
        return made
    schemes = [str(name) for name in cells["scheme"].cat.categories]
    order = {"encoder": in_order(cells), "scheme": schemes}
    return made.assign(**{name: pd.Categorical(made[name], categories=known) for name, known in order.items()})


def per_class(numbers: pd.DataFrame) -> Figure:
    """A heat map per judge of one table under one scheme, SA on top. Draw and save inside `style.style()`."""
    judges = list(dict.fromkeys(numbers["judge"]))
    parts = [
        numbers[numbers["judge"] == judge].pivot_table(
            index="encoder", columns="label", values="accuracy", observed=True
        )
        for judge in judges
    ]
    written, top = parts[0].shape[1] <= _LEGIBLE, top_of(*parts)
    height = 0.55 + sum(0.25 + ROW * len(part) for part in parts)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    panels = figure.subplots(
        len(parts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [len(part) for part in parts]}
    )[:, 0]
    scheme = str(numbers["scheme"].iloc[0])
    for panel, part, judge in zip(panels, parts, judges, strict=True):
        mesh = heat(panel, part, top, written)
        panel.set_title(f"{scheme}, {heading(judge)} (%)", loc="left", fontweight="bold")
    labels, told = list(parts[0].columns), widest(numbers["low"], numbers["high"])
    if written:
        images = numbers.drop_duplicates("label").set_index("label")["n"]
        panels[-1].set_xticks(np.arange(len(labels)) + 0.5, [f"{label}\n{images[label]}" for label in labels])
        panels[-1].set_xlabel(f"class and, below it, the number of its images\n{told}")
    else:
        panels[-1].set_xticks(np.arange(0, len(labels), 10) + 0.5, labels[::10])
        figure.colorbar(mesh, ax=panels, label="accuracy (%)", shrink=0.6)
        panels[-1].set_xlabel(f"class\n{told}")
    return figure
