"""The only owner of the figures of training curves."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.labels import LINE, label_ends
from robustcl.reports.table import RANDOM

_OTHERS = ("epoch", "lr", "loss", "knn", "robust_knn", "val", "robust_val")  # columns that are no term of the loss
_ACROSS, _DOWN = 3, 10  # panels in one figure
_HIGH, _EDGES = 0.92, (0.42, 0.42, 0.16, 0.3)  # inches: a panel with its title; left, bottom, right and top of all


class TrainingCurves(Drawing):
    """Every named term of the loss by epoch: a panel per encoder and term in pretraining, per scheme in finetuning."""

    needs = "stages that trained, with their curves"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure for pretraining, or several where the panels are many, and one for finetuning."""
        points = curves(run)
        of = points[points["kind"] == "pretrain"]
        panels = list(dict.fromkeys(zip(of["row"], of["term"], strict=True)))
        parts = [panels[start : start + _ACROSS * _DOWN] for start in range(0, len(panels), _ACROSS * _DOWN)]
        for number, shown in enumerate(parts, 1):
            kept = [panel in shown for panel in zip(of["row"], of["term"], strict=True)]
            name = "training-curves-pretrain" + (f"-{number}" if len(parts) > 1 else "")
            yield Drawn(name=name, figure=pretraining(of[kept]), data=of[kept])
        of = points[points["kind"] == "finetune"]
        if not of.empty:
            yield Drawn(name="training-curves-finetune", figure=finetuning(of), data=of)


def curves(run: RunFolder) -> pd.DataFrame:
    """The curves of every stage that trained on the way to a cell of the table, a row per stage, epoch and term.

    Columns: kind, row (the encoder; of one that is no row of its own, the label of its stage), scheme (of finetuning),
    stage (its key), epoch, term, value. `row` is categorical, encoders of the table first.
    """
    columns = ["kind", "row", "scheme", "stage", "epoch", "term", "value"]
    parts: dict[str, pd.DataFrame] = {}
    cells = [cell for cell in run.cells if cell["headline"]]
    encoders = sorted(dict.fromkeys(str(cell["encoder"]) for cell in cells), key=lambda name: name != RANDOM)
    for cell in cells:
        for key, note in run.lineage(str(cell["stage"])).items():
            curve = run.curve(key) if note["kind"] in ("pretrain", "finetune") else None
            if key in parts or curve is None or curve.empty:
                continue
            terms = [name for name in curve if name not in _OTHERS]
            long = curve.melt(id_vars="epoch", value_vars=terms, var_name="term", value_name="value").dropna()
            trained = str(note["label"]).removeprefix(f"{note['kind']} ")
            row = str(cell["encoder"]) if note["kind"] == "finetune" else _row(trained, encoders)
            scheme = str(cell["scheme"]) if note["kind"] == "finetune" else ""
            parts[key] = long.assign(kind=note["kind"], row=row, scheme=scheme, stage=key)
    points = pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame(columns=columns)
    order = dict.fromkeys([*encoders, *points["row"]])
    return points.assign(row=pd.Categorical(points["row"], categories=list(order)))[columns].sort_values(
        ["kind", "row"], kind="stable", ignore_index=True
    )


def pretraining(points: pd.DataFrame) -> Figure:
    """A panel per encoder and term, each with an axis of its own. Draw and save inside `style.style()`."""
    looks = style.looks([str(row) for row in points["row"].cat.categories])
    names = list(dict.fromkeys(zip(points["row"], points["term"], strict=True)))
    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    left, bottom, right, top = _EDGES
    high = bottom + top + _HIGH * down
    figure = Figure(figsize=(style.WIDTH, high))  # panels of one size: their layout is known before
    spaces = {"left": left / style.WIDTH, "right": 1 - right / style.WIDTH, "bottom": bottom / high}
    panels = figure.subplots(
        down, across, squeeze=False, gridspec_kw=spaces | {"top": 1 - top / high, "wspace": 0.6, "hspace": 0.85}
    ).ravel()
    for panel, (row, term) in zip(panels, names, strict=False):
        part = points[(points["row"] == row) & (points["term"] == term)]
        for _, one in part.groupby("stage", sort=False):
            _draw(panel, one, looks[row])
        panel.set_title(f"{row}\n{term}", loc="left", fontsize=6, pad=3)
        panel.tick_params(labelsize=5.5, pad=1.5)
        panel.yaxis.set_major_locator(MaxNLocator(3))
    for panel in panels[len(names) :]:
        panel.remove()
    figure.supxlabel("epoch", fontsize=7.5, y=0.06 / high, va="bottom")
    return figure


def finetuning(points: pd.DataFrame) -> Figure:
    """A panel per scheme and term, a line per encoder. Draw and save inside `style.style()`."""
    rows = [str(row) for row in points["row"].cat.categories]
    looks = style.looks(rows)
    names = list(dict.fromkeys(zip(points["scheme"], points["term"], strict=True)))
    height = max(1.2, 1.1 * LINE * points["row"].nunique() / 72 + 0.3)
    figure = Figure(figsize=(style.WIDTH, 0.4 + height * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    ends = []
    for panel, (scheme, term) in zip(panels, names, strict=True):
        part = points[(points["scheme"] == scheme) & (points["term"] == term)]
        for (row, _), one in part.groupby(["row", "stage"], observed=True, sort=False):
            _draw(panel, one, looks[str(row)])
        last = {str(row): one.iloc[-1] for row, one in part.groupby("row", observed=True, sort=False)}
        ends.append({row: (float(at["epoch"]), float(at["value"])) for row, at in last.items()})
        panel.set_title(f"{scheme}: {term}", loc="left", fontweight="bold")
    panels[-1].set_xlabel("epoch")
    figure.supylabel("term of the loss", fontsize=7.5)
    style.settle(figure)
    for panel, of in zip(panels, ends, strict=True):
        label_ends(panel, of, {row: looks[row].colour for row in of})
    return figure


def _row(trained: str, encoders: list[str]) -> str:
    """The encoder that a stage of pretraining makes: its label, which names seeds behind the encoder."""
    found = [name for name in encoders if f"{trained} ".startswith(f"{name} ")]
    return max(found, key=len, default=trained)  # `at` is no row of `at long`


def _draw(axes: Axes, curve: pd.DataFrame, look: style.Look) -> None:
    marker = look.marker if len(curve) == 1 else None  # one epoch alone is no line
    axes.plot(curve["epoch"], curve["value"], color=look.colour, linestyle=look.line, marker=marker, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlim(0.5, max(axes.get_xlim()[1], float(np.max(curve["epoch"])) + 0.5))
    axes.grid(True, axis="y")
