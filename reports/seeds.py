"""The only owner of what several seeds of a cell come to: one mean, its interval over images, its spread over seeds."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from robustcl.bench.findings import UNCHECKED
from robustcl.reports.answers import Answers, Records, heard
from robustcl.reports.frame import CORRUPTIONS
from robustcl.reports.statistics import interval, wilson_of_means
from robustcl.reports.trust import against, together, verdict, why
from robustcl.reports.verdicts import summary, verdicts

# What may differ between the seeds of a cell.
_OF_ONE = ("stage", "judges", "fingerprints", "reliability", "findings", "designs")
_SEED = re.compile(r"; seeds? (\d+(, \d+)*)")


def attack(fingerprint: str) -> str:
    """A fingerprint without its seed: what must not be mixed, whereas seeds may."""
    return re.sub(_SEED, "", fingerprint)


def seed_columns(cells: pd.DataFrame) -> list[str]:
    """The columns of the seeds."""
    return [str(name) for name in cells if str(name).startswith("seed_")]


def row_names(cells: pd.DataFrame) -> pd.Series:
    """A name for every single cell: its encoder, and the seeds where an encoder has several."""
    names = cells["encoder"].astype(str)
    for seed in seed_columns(cells):
        several = cells.groupby("encoder", observed=True)[seed].transform("nunique") > 1
        mark = f" {seed.removeprefix('seed_')} seed " + cells[seed].astype(str)
        names = names + mark.where(several, "")
    return names


def pooled(records: Records) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `summary` of a frame with one row where cells differ by nothing but their seeds, and the rows of those seeds.

    Both have the columns `row` (the encoder), `seeds` (how many) and `spread` (the standard deviation of the accuracy
    over them, a share; NaN for one). Where there are several, accuracy is their mean, `n` counts images, which the
    seeds share, low and high are the 95 % interval over images (see `wilson_of_means`), `right` is unknown, and a
    `seed_<role>` that varies too. A cell is as reliable as the least reliable of its seeds. Errors: as `summary`.
    """
    answers = heard(records)
    numbers = summary(answers)
    numbers = numbers.assign(row=numbers["encoder"].astype(str), seeds=1, spread=float("nan"))
    if numbers.empty:
        return numbers, numbers
    seeds, known = seed_columns(numbers), set(answers.cells)
    key = [name for name in numbers if name in known and name not in (*seeds, *_OF_ONE)]
    by = [numbers[name] for name in [*key, "judge"]] + [numbers["fingerprint"].map(attack)]
    number = numbers.groupby(by, observed=True, sort=False, dropna=False).ngroup()
    if number.is_unique:
        return numbers, numbers.iloc[:0]
    parts = [part.drop_duplicates("stage") for _, part in numbers.groupby(number, sort=False)]
    several = [len(part) > 1 and not part.duplicated(seeds).any() for part in parts]
    if not any(several):
        return pd.concat(parts, ignore_index=True), numbers.iloc[:0]
    made = [_pool(part, answers, seeds) if many else part for part, many in zip(parts, several, strict=True)]
    one = pd.concat([part for part, many in zip(parts, several, strict=True) if many])
    return _alike(made, numbers), one.reset_index(drop=True)


def told(cells: pd.DataFrame, seeds: pd.DataFrame) -> pd.Series:
    """What seeds stand behind each of the `pooled` cells, in words; `seeds` are the rows of the single ones."""
    return cells.apply(lambda cell: _told(cell, seeds), axis=1)


def _pool(part: pd.DataFrame, answers: Answers, seeds: Sequence[str]) -> pd.DataFrame:
    """One row for the cells of several seeds."""
    judge, cells = str(part["judge"].iloc[0]), answers.cells
    if part["set_low"].notna().all():
        return _pool_estimates(part, seeds)
    rows = verdicts(answers.where(cells["stage"].isin(part["stage"])), shares=True, judges=[judge])
    means = rows.groupby("image")["right"].mean().to_numpy(dtype=float)
    low, high = interval(means) if judge == CORRUPTIONS else wilson_of_means(means, len(part))
    of = {"n": len(means), "accuracy": float(means.mean()), "low": low, "high": high}
    return _one(part, seeds, of)


def _pool_estimates(part: pd.DataFrame, seeds: Sequence[str]) -> pd.DataFrame:
    """One row for the estimates of several seeds: means throughout. As the seeds may share their draws, so are the ends
    of the intervals, which is too wide where they do not."""
    names = ["accuracy", "low", "high", "set_low", "set_high"]
    return _one(part, seeds, {"n": int(part["n"].iloc[0]), **{name: part[name].mean() for name in names}})


def _one(part: pd.DataFrame, seeds: Sequence[str], of: dict[str, Any]) -> pd.DataFrame:
    """The row of several seeds, `of` being its numbers."""
    findings = together([str(text) for text in part["findings"]])
    found = against(findings, str(part["judge"].iloc[0]), of["n"])
    of |= {"right": pd.NA, "seeds": len(part), "spread": float(part["accuracy"].std(ddof=1))}
    of |= {"findings": findings, "reliability": verdict(found) if findings else UNCHECKED, "why": why(found)}
    of |= {"passes": int(part["passes"].sum())}
    of["fingerprint"] = _joint([str(text) for text in part["fingerprint"]])
    of |= {seed: pd.NA for seed in seeds if part[seed].nunique() > 1}
    return part.iloc[[0]].astype({"findings": object, **dict.fromkeys(seeds, "Int64")}).assign(**of)


def _joint(fingerprints: Sequence[str]) -> str:
    """Fingerprints that differ by their seeds as one that names all seeds."""
    seeds = dict.fromkeys(found[1] for found in map(_SEED.search, fingerprints) if found)
    return _SEED.sub(f"; seeds {', '.join(seeds)}", fingerprints[0]) if len(seeds) > 1 else fingerprints[0]


def _alike(parts: Sequence[pd.DataFrame], numbers: pd.DataFrame) -> pd.DataFrame:
    """The parts below each other, with the types and categories of `numbers`."""
    types = {name: held.dtype for name, held in numbers.items() if isinstance(held.dtype, pd.CategoricalDtype)}
    del types["findings"]
    whole = dict.fromkeys([*seed_columns(numbers), "right"], "Int64")
    kept = [part.astype({"findings": object, **whole}) for part in parts]
    return pd.concat(kept, ignore_index=True).astype({**types, **whole})


def _told(cell: pd.Series, seeds: pd.DataFrame) -> str:
    roles = {str(name): str(name).removeprefix("seed_") for name in cell.index if str(name).startswith("seed_")}
    fixed = [f"{role} {cell[name]}" for name, role in roles.items() if _known(cell[name])]
    if cell["seeds"] == 1:
        return f"{', '.join(fixed)}, one each" if fixed else ""
    same = (seeds["row"] == cell["row"]) & (seeds["scheme"] == cell["scheme"]) & (seeds["judge"] == cell["judge"])
    held = {role: sorted(seeds.loc[same, name].unique()) for name, role in roles.items() if pd.isna(cell[name])}
    varied = [f"{role} ({', '.join(map(str, of))})" for role, of in held.items()]
    told = f"± is the standard deviation over {cell['seeds']} that differ in {' and '.join(varied)}"
    return ", ".join([told, *(f"{one} fixed" for one in fixed)])


def _known(seed: Any) -> bool:
    return not pd.isna(seed) and int(seed) >= 0
