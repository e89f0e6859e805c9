"""The only owner of the transfer matrix: pretrained on each row's data set, finetuned and judged on each column's."""

from pathlib import Path

import pandas as pd

from robustcl.reports.frame import summary
from robustcl.reports.table import MISSING, heading, in_order, percent, row_names
from robustcl.reports.writers import grid


def transfers(records: pd.DataFrame) -> pd.DataFrame:
    """The headline cells of a frame by where they come from and go to: `source`, `target` and the columns of `summary`.

    Empty where no cell of the frame is judged on another data set than its encoder was pretrained on.
    """
    numbers = summary(records[records["headline"]])
    pairs = numbers["data"].astype(str).str.split(" -> ", expand=False)
    numbers["source"], numbers["target"] = pairs.str[0], pairs.str[-1]
    return numbers if (numbers["source"] != numbers["target"]).any() else numbers.iloc[:0]


def markdown(numbers: pd.DataFrame) -> str:
    """One matrix per judge as Markdown: a row per encoder and source, a column per scheme and target."""
    if numbers.empty:
        return ""
    numbers = numbers.assign(row=row_names(numbers))
    judges = [str(name) for name in numbers["judge"].cat.categories if (numbers["judge"] == name).any()]
    return "\n".join(f"{heading(judge)}\n\n{_matrix(numbers, judge)}\n" for judge in judges)


def _matrix(numbers: pd.DataFrame, judge: str) -> str:
    part = numbers[numbers["judge"] == judge]
    keys = zip(*(part[name].astype(str) for name in ("row", "source", "scheme", "target")), strict=True)
    cells = dict(zip(keys, map(percent, part["accuracy"], part["low"], part["high"]), strict=True))
    schemes = [str(name) for name in numbers["scheme"].cat.categories]
    sources, targets = (list(dict.fromkeys(numbers[name])) for name in ("source", "target"))
    columns = [(scheme, target) for scheme in schemes for target in targets]
    rows = [
        [row, source, *(cells.get((row, source, *column), MISSING) for column in columns)]
        for row in in_order(numbers)
        for source in sources
    ]
    return grid(["encoder", "pretrained on", *(f"{scheme} -> {target}" for scheme, target in columns)], rows, names=2)


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write the matrix of a frame as `transfer.md` and `.csv`; nothing where nothing was transferred."""
    numbers = transfers(records)
    if numbers.empty:
        return []
    paths = [Path(folder) / "transfer.md", Path(folder) / "transfer.csv"]
    paths[0].write_text(markdown(numbers), encoding="utf-8")
    numbers.drop(columns="judges").to_csv(paths[1], index=False, lineterminator="\n")
    return paths
