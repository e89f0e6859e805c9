"""The only owner of numbers as CSV: what a spreadsheet would run as a formula is text there."""

import re

import pandas as pd

_FORMULA = re.compile(r"[=+@]|-.")  # what a cell that is a formula begins with


def csv(data: pd.DataFrame) -> str:
    """A frame as CSV. An apostrophe stands before text that begins as a formula, such as a row called `=1+1`."""
    text = [name for name in data if data[name].dtype.kind not in "iufb"]
    shown = data.assign(**{str(name): data[name].astype(object).map(_shown) for name in text})
    return shown.to_csv(index=False, lineterminator="\n")


def _shown(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
