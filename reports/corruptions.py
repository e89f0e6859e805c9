"""The only owner of what is told of corruptions beside the tables: accuracy by corruption and severity, and CS-<n>."""

from pathlib import Path

import pandas as pd

from robustcl.reports.forms import MARKDOWN
from robustcl.reports.frame import CORRUPTIONS
from robustcl.reports.seeds import row_names
from robustcl.reports.spreadsheet import csv
from robustcl.reports.statistics import interval, wilson
from robustcl.reports.table import MISSING, heading, percent
from robustcl.reports.verdicts import cell_columns
from robustcl.reports.writers import grid

_CELL = ["suite", "data", "row", "encoder", "scheme"]
_NUMBERS = ["n", "accuracy", "low", "high"]


def by_corruption(records: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, corruption and severity of a `frame`: n, accuracy, low, high, shares in [0, 1] (Wilson)."""
    rows, cells = _numbered(records)
    counts = rows.groupby(["cell", "corruption", "severity"], sort=False)["right"].agg(["size", "sum"]).reset_index()
    low, high = wilson(counts["sum"], counts["size"])
    numbers = counts.assign(n=counts["size"], accuracy=counts["sum"] / counts["size"], low=low, high=high)
    return cells.merge(numbers, on="cell")[[*_CELL, "corruption", "severity", *_NUMBERS]]


def by_severity(records: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and severity: the mean over its corruptions, which AIR reports as CS-1, CS-3 and CS-5.

    The interval is that of a mean over images, as for the corruption accuracy itself.
    """
    rows, cells = _numbered(records)
    shares = rows.groupby(["cell", "severity", "image"], sort=False)["right"].mean().reset_index()
    found = [
        [*key, len(of), float(of["right"].mean()), *interval(of["right"])]
        for key, of in shares.groupby(["cell", "severity"], sort=False)
    ]
    numbers = pd.DataFrame(found, columns=["cell", "severity", *_NUMBERS])
    return cells.merge(numbers, on="cell")[[*_CELL, "severity", *_NUMBERS]]


def markdown(severities: pd.DataFrame) -> str:
    """The accuracy by severity as Markdown, one table per data set."""
    parts = []
    for data, part in severities.groupby("data", observed=True, sort=False):
        levels = sorted(part["severity"].unique())
        keys = zip(part["scheme"].astype(str), part["row"].astype(str), part["severity"], strict=True)
        cells = dict(zip(keys, map(percent, part["accuracy"], part["low"], part["high"]), strict=True))
        rows = [
            [
                MARKDOWN.escape(scheme),
                MARKDOWN.escape(row),
                *(cells.get((scheme, row, level), MISSING) for level in levels),
            ]
            for scheme, row in dict.fromkeys((scheme, row) for scheme, row, _ in cells)
        ]
        columns = ["scheme", "encoder", *(f"CS-{level}" for level in levels)]
        parts.append(
            f"{MARKDOWN.escape(data)}: {heading(CORRUPTIONS)} at one severity alone\n\n{grid(columns, rows, names=2)}\n"
        )
    return "\n".join(parts)


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write `corruptions.csv`, `severities.csv` and `severities.md`; nothing where no corruption was judged."""
    corruptions = by_corruption(records)
    if corruptions.empty:
        return []
    severities = by_severity(records)
    paths = [Path(folder) / name for name in ("corruptions.csv", "severities.csv", "severities.md")]
    for path, numbers in zip(paths, (corruptions, severities), strict=False):
        path.write_text(csv(numbers), encoding="utf-8", newline="\n")
    paths[2].write_text(markdown(severities), encoding="utf-8")
    return paths


def _numbered(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The judge's rows as cell (a number), image, corruption, severity and right; what each cell is, with its `row`."""
    rows = records[records["judge"] == CORRUPTIONS]
    of = cell_columns(rows)
    number = rows.groupby(of, observed=True, sort=False, dropna=False).ngroup()
    cells = rows.loc[~number.duplicated(), of].assign(cell=number[~number.duplicated()])
    cells["row"] = row_names(cells)
    attack = rows["attack"].astype("category")  # split once per name and not once per row
    split = attack.cat.categories.astype(str).str.rsplit("-", n=1)
    names, levels = (split.str[place].to_numpy()[attack.cat.codes] for place in (0, 1))
    made = rows[["image", "right"]].assign(cell=number, corruption=names, severity=levels)
    return made.astype({"severity": "int64"}), cells
