"""The only owner of the tables: encoders as rows, schemes as blocks, one column per judge, intervals in every cell."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from robustcl.reports.frame import CLEAN, CORRUPTIONS, summary

CHANCE, RANDOM, MISSING = "chance", "random", "-"
REFERENCE = f"{CHANCE} (reference)"
GIVEN = "as given"  # the scheme of a classifier that was judged and not made here
_GROUP = ["suite", "data", "norm", "eps"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One table: one data set under one threat.

    `numbers` is tidy: one row per (row, scheme, judge) with n, right, accuracy, low, high as shares in [0, 1] and
    `kind`, `measured` or `reference` (chance, which has neither n nor interval). `rows`, `schemes` and `judges` are
    what is shown, in order; a combination without numbers is not finished and shows as `-`.
    """

    caption: str
    rows: list[str]
    schemes: list[str]
    judges: list[str]
    numbers: pd.DataFrame

    def text(self) -> dict[tuple[str, str, str], str]:
        """What stands in the cells: (row, scheme, judge) -> percent with its interval."""
        rows = self.numbers
        cells = zip(rows["row"], rows["scheme"], rows["judge"], strict=True)
        values = zip(rows["accuracy"], rows["low"], rows["high"], strict=True)
        shown = {cell: percent(*of) for cell, of in zip(cells, values, strict=True)}
        every = ((row, scheme, judge) for row in self.rows for scheme in self.schemes for judge in self.judges)
        return {key: shown.get(key, MISSING) for key in every}

    def lines(self) -> list[tuple[str, str]]:
        """The (scheme, row) pairs in the order in which they are shown below each other.

        A classifier that was given stands under its own heading alone, and no encoder is finetuned there.
        """
        held = set(zip(self.numbers["scheme"], self.numbers["row"], strict=True))
        given = {row for scheme, row in held if scheme == GIVEN and row != REFERENCE}
        every = [(scheme, row) for scheme in self.schemes for row in self.rows]
        return [(scheme, row) for scheme, row in every if row == REFERENCE or (row in given) == (scheme == GIVEN)]


def tables(records: pd.DataFrame) -> list[Table]:
    """The tables of a frame, one per data set and threat, from its headline cells; empty where none is finished."""
    numbers = summary(records[records["headline"]])
    if numbers.empty:
        return []
    numbers["row"] = row_names(numbers)
    groups = numbers.groupby(_GROUP, observed=True, sort=False)
    return [_table(part) for _, part in groups]


def row_names(cells: pd.DataFrame) -> pd.Series:
    """The name of the row that every cell is shown in: its encoder, and the seeds where an encoder has several."""
    seeds = [str(name) for name in cells if str(name).startswith("seed_")]
    names = cells["encoder"].astype(str)
    for seed in seeds:
        several = cells.groupby("encoder", observed=True)[seed].transform("nunique") > 1
        mark = f" {seed.removeprefix('seed_')} seed " + cells[seed].astype(str)
        names = names + mark.where(several, "")
    return names


def in_order(cells: pd.DataFrame) -> list[str]:
    """The row names of cells with a `row` column as they are shown: the random encoder, then the suite's order.

    Encoders that only the categories know, because nothing of theirs is finished, stand where they will stand.
    """
    encoders = [str(name) for name in cells["encoder"].cat.categories]
    encoders.sort(key=lambda name: name != RANDOM)  # stable: only the random encoder moves
    rows = cells.drop_duplicates("row")
    of = {name: [str(row) for row in rows.loc[rows["encoder"] == name, "row"]] for name in encoders}
    return [row for name in encoders for row in of[name] or [name]]


def heading(judge: str) -> str:
    """The field's name of a judge's column: SA, RA (PGD-20), AA, CA; any other judge keeps its name."""
    steps = re.fullmatch(r"pgd-(\d+)", judge)
    return f"RA (PGD-{steps[1]})" if steps else {CLEAN: "SA", "autoattack": "AA", CORRUPTIONS: "CA"}.get(judge, judge)


def percent(accuracy: float, low: float, high: float) -> str:
    """A share with its interval as percent: 74.2 [69.4, 78.5]; a reference without an interval stands alone."""
    share = f"{100 * accuracy:.1f}"
    return share if pd.isna(low) else f"{share} [{100 * low:.1f}, {100 * high:.1f}]"


def attack_text(judges: Mapping[str, Sequence[str]]) -> str:
    """What the columns stand for: `RA (PGD-20): pgd-20; AA: apgd-ce, apgd-t, fab-t, square`."""
    told = {judge: ", ".join(attacks) for judge, attacks in judges.items()}
    if CORRUPTIONS in told:
        names, levels = (
            dict.fromkeys(part) for part in zip(*(a.rsplit("-", 1) for a in judges[CORRUPTIONS]), strict=True)
        )
        told[CORRUPTIONS] = f"mean over {len(names)} corruptions at severities {', '.join(levels)}, normal interval"
    return "; ".join(f"{heading(judge)}: {text}" for judge, text in told.items())


def _table(cells: pd.DataFrame) -> Table:
    """The table of measured cells that share data set and threat."""
    rows = in_order(cells)
    schemes = [str(name) for name in cells["scheme"].cat.categories]
    judges = [str(name) for name in cells["judge"].cat.categories if (cells["judge"] == name).any()]
    share = 1 / int(cells["classes"].iloc[0])
    names = [*_GROUP, "row", "encoder", "kind", "scheme", "judge", "n", "right", "accuracy", "low", "high", "passes"]
    seeds = [str(name) for name in cells if str(name).startswith("seed_")]
    measured = cells.assign(kind="measured").astype(dict.fromkeys([*_GROUP, "encoder", "scheme", "judge"], str))
    group = measured[_GROUP].iloc[0].to_dict()
    group |= {"row": REFERENCE, "encoder": CHANCE, "kind": "reference", "accuracy": share}
    reference = [{**group, "scheme": scheme, "judge": judge} for scheme in schemes for judge in judges]
    every = [*reference, *measured.to_dict("records")]
    whole = dict.fromkeys(["n", "right", "passes", *seeds], "Int64")
    numbers = pd.DataFrame(every, columns=[*names, *seeds]).astype(whole)
    shown = [REFERENCE, *rows]
    return Table(caption=_caption(cells), rows=shown, schemes=schemes, judges=judges, numbers=numbers)


def _caption(cells: pd.DataFrame) -> str:
    """What a number of the table means: suite, data, threat, images, judges, interval, protocol."""
    first = cells.iloc[0]
    threat = f"{first['norm']} {first['eps']} ({first['radius']:.5g})"
    attacks = _stated(cells, cells["judges"].map(lambda text: attack_text(json.loads(text))))
    protocol = _stated(cells, cells["protocol"].astype(str))
    parts = [
        f"{first['suite']}: {first['data']}, {threat}, {_images(cells)}",
        "accuracy in percent with 95 % Wilson intervals",
        attacks,
        *([f"protocol: {protocol}"] if protocol else []),
    ]
    return "; ".join(parts) + "."


def _images(cells: pd.DataFrame) -> str:
    """How many images were judged, per column where the columns differ."""
    counts = {str(judge): sorted(set(part)) for judge, part in cells.groupby("judge", observed=True)["n"]}
    if len({tuple(of) for of in counts.values()}) == 1:
        return f"n = {_range(next(iter(counts.values())))} images"
    return "n = " + ", ".join(f"{_range(of)} ({heading(judge)})" for judge, of in counts.items()) + " images"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _stated(cells: pd.DataFrame, texts: pd.Series) -> str:
    """A text that all cells share, or every text with its cells: unlike numbers are never mixed silently."""
    where = cells["row"].astype(str) + " " + cells["scheme"].astype(str)
    of = {str(text): list(dict.fromkeys(part)) for text, part in where.groupby(texts.astype(str), sort=False)}
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in of.items())
