"""The only owner of published numbers: `reference.csv`, what its sources and flags mean, and how a number is found."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from robustcl.models.errors import UserError, nearest, unknown
from robustcl.reports.captions import heading

REFERENCE, SOURCES = (Path(__file__).with_name(name) for name in ("reference.csv", "sources.csv"))

# What is true of a number and is told wherever it is shown.
TOLD: Mapping[str, str] = {
    "ext": "external data went into the encoder",
    "oracle_test": "the finetuned epoch was chosen on test images",
    "bn_drift": "batch norm in train mode while the head was trained",
    "++": "post-processed: finetuned on its own cluster labels",
    "from an image": "transcribed from the image of a table",
}
# Why a number is not compared unless it is asked for.
DOUBTED: Mapping[str, str] = {
    "copied": "from another source, not evaluated again",
    "difference": "a difference of two accuracies",
    "no protocol": "no protocol is known",
    "placeholder": "the template of the page",
    "read from a figure": "its place or its value was read by eye",
    "repeat": "another row has the same number",
    "rounded": "stated in passing",
    "superseded": "the source has a later value",
    "swapped?": "probably exchanged with another row",
    "unverified": "not displayed by the source",
    "user report": "reported in an issue",
}
FLAGS = {**TOLD, **DOUBTED}

_NUMBERS: Mapping[str, Any] = {"value": "float64", "spread": "float64", "seeds": "Int64"}
_COLUMNS = [
    "source", "method", "published", "pretrained_on", "data", "architecture", "scheme", "profile", "labels", "metric",
    "norm", "eps", "value", "spread", "seeds", "attack", "branch", "epochs", "flags", "note",
]  # fmt: skip
_NEEDED = ["source", "published", "pretrained_on", "data", "architecture", "metric", "value"]
_OF_SOURCES = ["source", "cite", "where", "version", "date", "protocol"]


def reference(path: Path = REFERENCE) -> pd.DataFrame:
    """Every published number that is known, one row each; `docs/tables.md` says what the columns hold.

    Values are in percent, `spread` is the standard deviation over `seeds`, `flags` are parted by semicolons, and what
    is not known is empty. Errors: `UserError` for a row without what it needs, an unknown source or an unknown flag.
    """
    made, known = _read(path, _COLUMNS), set(sources()["source"])
    for number, row in enumerate(made.to_dict("records"), 2):
        where = f"{path.name}, line {number}"
        empty = [name for name in _NEEDED if not row[name]]
        if empty:
            raise UserError(f"{where}: no {empty[0]}, expected one")
        for flag in split(row["flags"]):
            if flag not in FLAGS:
                raise unknown(where, "flag", flag, FLAGS)
        if row["source"] not in known:
            close = nearest(row["source"], known)
            raise UserError(f"{where}: source '{row['source']}' is not in {SOURCES.name}, expected a row there{close}")
    try:
        return made.assign(**{name: pd.to_numeric(made[name]).astype(kind) for name, kind in _NUMBERS.items()})
    except ValueError as error:
        raise UserError(f"{path.name}: {error}, expected numbers in {', '.join(_NUMBERS)}") from None


def sources(path: Path = SOURCES) -> pd.DataFrame:
    """Where published numbers come from: source, cite (a key of references.bib), where, version, date and protocol."""
    return _read(path, _OF_SOURCES)


def published(
    method: str,
    data: str,
    scheme: str,
    judge: str,
    *,
    norm: str = "linf",
    eps: str = "8/255",
    profile: str = "",
    labels: str = "",
    doubted: bool = False,
) -> pd.DataFrame:
    """The rows of `reference` for a method (`advcl`, or an arm `advcl/low`) on `data`, under a scheme and a judge.

    `data` is `cifar10`, or `cifar10 -> stl10-32` where it was judged on other data than pretrained on. What was
    finetuned by AutoLoRa is found for the `profile` `autolora` alone, and numbers that belong to certain pseudo-labels
    for these `labels` (`own 10`: of an encoder of its own, K = 10). Rows with a flag that says why not are left out
    unless `doubted`. A row without a norm and a radius, which no threat entered, fits every threat.
    """
    known, places = _known()
    source, _, target = data.partition(" -> ")
    profile = "autolora" if profile == "autolora" else ""
    asked = (method or None, source, target or source, scheme, profile, heading(judge))
    rows: pd.DataFrame = known.iloc[places.get(asked, [])]
    fits = rows["norm"].isin(["", norm]) & rows["eps"].isin(["", eps]) & rows["labels"].isin(["", labels])
    chosen: pd.DataFrame = rows[fits & (doubted | ~rows["doubted"])]
    return chosen.drop(columns="doubted").reset_index(drop=True)


def split(flags: str) -> list[str]:
    """The flags of a row one by one."""
    return flags.split(";") if flags else []


@cache
def _known() -> tuple[pd.DataFrame, Mapping[Any, Any]]:
    """The reference, and where its rows are by what they are asked for."""
    made = reference()
    made["doubted"] = [any(flag in DOUBTED for flag in split(of)) for of in made["flags"]]
    by = ["method", "pretrained_on", "data", "scheme", "profile", "metric"]
    return made, made.groupby(by).indices  # a row without a method of ours is found by nobody


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    made = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(made.columns) != list(columns):
        raise UserError(f"{path.name}: columns {', '.join(made.columns)}, expected {', '.join(columns)}")
    return made
