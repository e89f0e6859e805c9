"""The only owner of the figure of the transfer matrix."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.heat import heat, top_of, widest
from robustcl.reports.matrix import transfers
from robustcl.reports.table import heading, in_order

_FIT = 6  # encoders in one figure, below each other
_SHOWN = ["suite", "row", "source", "target", "scheme", "judge", "norm", "eps", "n", "seeds", "accuracy", "low", "high"]


class TransferMatrix(Drawing):
    """Accuracy across data sets: a small heat map (pretrained on, judged on) per encoder and scheme, for each judge."""

    needs = "a cell judged on another data set than its encoder was pretrained on"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per judge, or several where the encoders are many."""
        numbers = transfers(run.answers)
        if numbers.empty:
            return
        order = [row for row in in_order(numbers) if (numbers["row"] == row).any()]
        parts = [order[start : start + _FIT] for start in range(0, len(order), _FIT)]
        for judge, of in numbers.groupby("judge", observed=True):
            for number, rows in enumerate(parts, 1):
                kept = of[of["row"].isin(rows)]
                name = f"transfer-matrix-{judge}" + (f"-{number}" if len(parts) > 1 else "")
                yield Drawn(name=name, figure=transfer_matrix(kept, rows), data=kept[_SHOWN])


def transfer_matrix(numbers: pd.DataFrame, rows: list[str]) -> Figure:
    """A heat map for each of `rows` and each scheme under one judge. Draw and save inside `style.style()`."""
    schemes = [name for name in numbers["scheme"].cat.categories if (numbers["scheme"] == name).any()]
    sources, targets = (list(dict.fromkeys(numbers[name])) for name in ("source", "target"))
    size = (style.WIDTH, 1.0 + len(rows) * (0.2 + 0.2 * len(sources)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(schemes), sharex=True, sharey=True, squeeze=False)
    top = top_of(numbers[["accuracy"]])
    for row, line in zip(rows, panels, strict=True):
        for scheme, panel in zip(schemes, line, strict=True):
            part = numbers[(numbers["row"] == row) & (numbers["scheme"] == scheme)]
            shares = part.pivot_table(index="source", columns="target", values="accuracy")
            heat(panel, shares.reindex(index=sources, columns=targets), top)
            panel.set_title(f"{row}, {scheme}", loc="left", fontsize=6.5)
            panel.tick_params(axis="x", labelrotation=90)
    judge = str(numbers["judge"].iloc[0])
    figure.supylabel("pretrained on", fontsize=7.5)
    figure.supxlabel(f"judged on; {heading(judge)} (%), {widest(numbers['low'], numbers['high'])}", fontsize=7.5)
    return figure
