"""The only owner of published numbers beside measured ones: which belong together, and what a table says of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustcl.reports.frame import CORRUPTIONS
from robustcl.reports.published import FLAGS, published, sources, split
from robustcl.reports.recipes import Recipe, plain_scheme, recipes

COLUMNS = ["row", "scheme", "judge", "source", "accuracy", "spread", "seeds", "outside", "flags", "note"]
OUTSIDE = "≠"
CAPTION = f"Published beside measured numbers; {OUTSIDE} is outside the 95 % interval of the measured one."
# What the published columns stand for, as fingerprints say it; without a fingerprint the names have to do.
_ATTACKS = {
    "pgd-20": "@20it step eps/4;",
    "autoattack": "@apgd-ce 100it, apgd-t 100it/9t, fab-t 100it/9t, square 5000q;",
}
# The published CA is the mean over these 15 corruptions (Hendrycks and Dietterich, ICLR 2019) at all severities.
_STANDARD = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
_CORRUPTED = {f"{name}-{severity}" for name in _STANDARD for severity in range(1, 6)}
_MEASURED = ["row", "data", "scheme", "judge", "norm", "eps", "fingerprint", "judges", "low", "high"]


def beside(cells: pd.DataFrame, suite: Mapping[str, Any]) -> pd.DataFrame:
    """The published numbers of the cells of a table, one row each, from the `suite.json` of their run folder.

    Columns: row, scheme and judge as in `cells`; source, accuracy (a share), spread, seeds; `outside` (the 95 %
    interval of the measured number does not hold it); flags, note; `architecture` of the published and `here` of the
    measured encoder. Empty where nothing is known, as for other data, radii or attacks.
    """
    known = recipes(suite)
    made: list[dict[Any, Any]] = []
    for cell in cells[_MEASURED].astype({"low": float, "high": float}).to_dict("records"):
        recipe = known.get((str(cell["row"]), str(cell["data"])))
        judge = str(cell["judge"]).partition(" [")[0]
        if recipe and _same(judge, str(cell["fingerprint"]), json.loads(str(cell["judges"]))):
            made += _rows(cell, judge, recipe)
    return pd.DataFrame(made, columns=[*COLUMNS, "architecture", "here"])


def notes(found: pd.DataFrame) -> list[str]:
    """What a table says of its published numbers: where they come from, what holds of them."""
    if found.empty:
        return []
    told = sources().set_index("source")
    lines = []
    other = found[found["architecture"] != found["here"]]
    if len(other):
        names = [", ".join(dict.fromkeys(other[side])) for side in ("architecture", "here")]
        lines.append(f"The published encoders are {names[0]}, the measured ones {names[1]}.")
    told = told.assign(text=told["where"] + "; " + told["protocol"])
    lines += [f"{name}: {told['text'][name]}." for name in dict.fromkeys(found["source"])]
    flags = dict.fromkeys(flag for text in found["flags"] for flag in split(text))
    return [*lines, *(f"{flag}: {FLAGS[flag]}." for flag in flags)]


def lines(found: pd.DataFrame, judges: Sequence[str]) -> list[tuple[tuple[str, str, str], list[str]]]:
    """For every source of every row that has one: scheme, row and source with its flags, and a text per judge."""
    made = []
    for (scheme, row, source), part in found.groupby(["scheme", "row", "source"], sort=False):
        flags = dict.fromkeys(flag for text in part["flags"] for flag in split(text))
        texts = {judge: " / ".join(map(_text, of.to_dict("records"))) for judge, of in part.groupby("judge")}
        name = f"{source} ({', '.join(flags)})" if flags else str(source)
        made.append(((str(scheme), str(row), name), [texts.get(judge, "-") for judge in judges]))
    return made


def _rows(cell: Mapping[Any, Any], judge: str, recipe: Recipe) -> list[dict[Any, Any]]:
    found = published(
        recipe.method,
        recipe.data,
        plain_scheme(str(cell["scheme"])),
        judge,
        norm=str(cell["norm"]),
        eps=str(cell["eps"]),
        profile=recipe.profile,
        labels=recipe.labels,
    )
    if found.empty:
        return []
    found = found.assign(accuracy=found["value"] / 100, spread=found["spread"] / 100, here=recipe.architecture)
    found["outside"] = ~found["accuracy"].between(cell["low"], cell["high"])
    place = {name: str(cell[name]) for name in ("row", "scheme", "judge")}
    return [row | place for row in found.to_dict("records")]


def _same(judge: str, fingerprint: str, attacks: Mapping[str, Sequence[str]]) -> bool:
    """Whether a judge is the one that published numbers stand for."""
    if judge == CORRUPTIONS:
        return set(attacks[judge]) == _CORRUPTED
    return not fingerprint or _ATTACKS.get(judge, "") in fingerprint


def _text(row: Mapping[Any, Any]) -> str:
    spread = "" if pd.isna(row["spread"]) else f" ± {100 * row['spread']:.2f}"
    return f"{100 * row['accuracy']:.2f}{OUTSIDE if row['outside'] else ''}{spread}"
