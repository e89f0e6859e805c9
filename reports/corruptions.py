"""The only owner of what is told of corruptions beside the tables: accuracy by corruption and severity, and CS-<n>."""

from pathlib import Path

import pandas as pd

from robustcl.reports.frame import CORRUPTIONS, cell_columns
from robustcl.reports.statistics import interval
from robustcl.reports.table import MISSING, heading, percent, row_names
from robustcl.reports.writers import grid

_CELL = ["suite", "data", "row", "encoder", "scheme"]
_NUMBERS = ["n", "accuracy", "low", "high"]


def by_corruption(records: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, corruption and severity of a `frame`: n, accuracy, low, high, shares in [0, 1] (Wilson)."""
    return _means(records, ["corruption", "severity"])


def by_severity(records: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and severity: the mean over its corruptions, which AIR reports as CS-1, CS-3 and CS-5.

    The interval is that of a mean over images, as for the corruption accuracy itself.
    """
    return _means(records, ["severity"])


def markdown(severities: pd.DataFrame) -> str:
    """The accuracy by severity as Markdown, one table per data set."""
    parts = []
    for data, part in severities.groupby("data", observed=True, sort=False):
        levels = sorted(part["severity"].unique())
        keys = zip(part["scheme"].astype(str), part["row"].astype(str), part["severity"], strict=True)
        cells = dict(zip(keys, map(percent, part["accuracy"], part["low"], part["high"]), strict=True))
        rows = [
            [scheme, row, *(cells.get((scheme, row, level), MISSING) for level in levels)]
            for scheme, row in dict.fromkeys((scheme, row) for scheme, row, _ in cells)
        ]
        columns = ["scheme", "encoder", *(f"CS-{level}" for level in levels)]
        parts.append(f"{data}: {heading(CORRUPTIONS)} at one severity alone\n\n{grid(columns, rows, names=2)}\n")
    return "\n".join(parts)


def save(records: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Write `corruptions.csv`, `severities.csv` and `severities.md`; nothing where no corruption was judged."""
    corruptions = by_corruption(records)
    if corruptions.empty:
        return []
    severities = by_severity(records)
    paths = [Path(folder) / name for name in ("corruptions.csv", "severities.csv", "severities.md")]
    for path, numbers in zip(paths, (corruptions, severities), strict=False):
        numbers.to_csv(path, index=False, lineterminator="\n")
    paths[2].write_text(markdown(severities), encoding="utf-8")
    return paths


def _means(records: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The mean of the images' answers, or of their shares where an image has several below one key."""
    rows = records[records["judge"] == CORRUPTIONS]
    cell = cell_columns(rows)
    found = []
    for of, part in rows.groupby(cell, observed=True, sort=False, dropna=False):
        attack = part["attack"].astype(str).str.rsplit("-", n=1)
        part = part.assign(corruption=attack.str[0], severity=attack.str[1].astype("int64"))
        for key, answers in part.groupby(by, sort=False):
            images = answers.groupby("image")["right"]
            right = answers["right"] if (images.size() == 1).all() else images.mean()
            found.append([*of, *key, len(right), float(right.mean()), *interval(right)])
    numbers = pd.DataFrame(found, columns=[*cell, *by, *_NUMBERS])
    numbers["row"] = row_names(numbers)
    return numbers[[*_CELL, *by, *_NUMBERS]]
