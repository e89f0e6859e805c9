"""The only owner of training curves as lines of a page: one small picture per named loss term of a stage."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from robustcl.reports.folder import RunFolder

WIDTH, HEIGHT = 240.0, 72.0
_TRAINED = ("pretrain", "finetune")
_NO_TERM = ("epoch", "lr")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss term over the epochs: a line for each seed, as the points of an SVG polyline, and its range."""

    name: str
    lines: Sequence[str]
    low: float
    high: float
    last: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """The terms of one stage, or of the stages of several seeds that have one label."""

    label: str
    terms: Sequence[Term]


def trainings(run: RunFolder, encoder: str) -> list[Training]:
    """The training curves of an encoder's cells of the table and of all that they were built on, parents first."""
    held: dict[str, dict[str, pd.DataFrame]] = {}
    for cell in run.cells:
        if cell["encoder"] == encoder and cell["headline"]:
            for key, stage in run.lineage(str(cell["stage"])).items():
                curve = run.curve(key) if stage["kind"] in _TRAINED else None
                if curve is not None and len(curve) > 1:
                    held.setdefault(str(stage["label"]), {})[key] = curve
    return [Training(label=label, terms=_terms(list(of.values()))) for label, of in held.items()]


def _terms(curves: Sequence[pd.DataFrame]) -> list[Term]:
    """The named terms that all curves have; the loss itself only where it is the sum of several."""
    numbers = [curve.select_dtypes("number") for curve in curves]
    names = [name for name in numbers[0] if name not in _NO_TERM and all(name in of for of in numbers)]
    names = [name for name in names if name != "loss" or len(names) != 2]
    return [_term(str(name), [curve[["epoch", name]].dropna() for curve in numbers]) for name in names]


def _term(name: str, curves: Sequence[pd.DataFrame]) -> Term:
    values = pd.concat([curve[name] for curve in curves])
    low, high, epochs = float(values.min()), float(values.max()), max(int(curve["epoch"].max()) for curve in curves)
    return Term(
        name=name,
        lines=[_points(curve["epoch"], curve[name], epochs, low, high) for curve in curves],
        low=low,
        high=high,
        last=float(curves[0][name].iloc[-1]),
        epochs=epochs,
    )


def _points(epochs: pd.Series, values: pd.Series, last: int, low: float, high: float) -> str:
    x = WIDTH * (epochs - 1) / max(1, last - 1)
    y = HEIGHT * (high - values) / (high - low or 1.0)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
