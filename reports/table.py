"""The only owner of the tables: encoders as rows, schemes as blocks, one column per judge, intervals in every cell."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from robustcl.bench.findings import UNCHECKED
from robustcl.reports import seeds as over_seeds
from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.ranks import RANDOM as RANDOM
from robustcl.reports.seeds import attack, pooled, seed_columns
from robustcl.reports.statistics import detectable
from robustcl.reports.trust import MARKS, Notes, against

CHANCE, MISSING = "chance", "-"
REFERENCE = f"{CHANCE} (reference)"
GIVEN = "as given"  # the scheme of a classifier that was judged and not made here
_GROUP = ["suite", "data", "norm", "eps"]
_NUMBERS = ["n", "right", "accuracy", "low", "high", "seeds", "spread", "reliability", "why", "fingerprint", "passes"]
_SHOWN = ["row", "scheme", "judge", "n", "findings"]
_SIGNS = {"ok": "", "suspect": f" ({MARKS['suspect']})", "unreliable": f" ({MARKS['unreliable']})", UNCHECKED: ""}


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One table: one data set under one threat.

    `numbers` is tidy: one row per (row, scheme, judge) with n, right, accuracy, low, high as shares in [0, 1] and
    `kind`, `measured` or `reference` (chance, which has neither n nor interval). Where several seeds stand behind a
    cell, it is their mean, `seeds` and `spread` say how many and how far apart, and `singles` has a row for each, of
    the kind `seed`. `rows`, `schemes` and `judges` are what is shown, in order; a combination without numbers is not
    finished and shows as `-`. `marks` stand behind the numbers that checks speak against, `notes` say why.
    """

    caption: str
    rows: list[str]
    schemes: list[str]
    judges: list[str]
    numbers: pd.DataFrame
    singles: pd.DataFrame
    marks: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self) -> dict[tuple[str, str, str], str]:
        """What stands in the cells: (row, scheme, judge) -> percent, its interval, its spread over seeds, its mark."""
        rows = self.numbers
        cells = zip(rows["row"], rows["scheme"], rows["judge"], strict=True)
        values = zip(rows["accuracy"], rows["low"], rows["high"], rows["spread"], strict=True)
        shown = {cell: percent(*of) for cell, of in zip(cells, values, strict=True)}
        every = ((row, scheme, judge) for row in self.rows for scheme in self.schemes for judge in self.judges)
        return {key: " ".join(filter(None, [shown.get(key, MISSING), self.marks.get(key)])) for key in every}

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
    numbers, singles = pooled(records[records["headline"]])
    if numbers.empty:
        return []
    made = []
    for key, part in numbers.groupby(_GROUP, observed=True, sort=False):
        of = singles[(singles[_GROUP].astype(str) == [str(held) for held in key]).all(axis=1)]
        made.append(_table(*_apart(part, of)))
    return made


def in_order(cells: pd.DataFrame) -> list[str]:
    """The rows of cells as they are shown: the random encoder, then the encoders in the suite's order.

    Those that only the categories know, because nothing of theirs is finished, stand where they will stand.
    """
    encoders = [str(name) for name in cells["encoder"].cat.categories]
    encoders.sort(key=lambda name: name != RANDOM)  # stable: only the random encoder moves
    return encoders


def heading(judge: str) -> str:
    """The field's name of a judge's column: SA, RA (PGD-20), AA, CA; any other judge keeps its name.

    What follows the name in brackets, such as the number of one of several attacks of that name, stays.
    """
    name, apart, number = judge.partition(" [")
    steps = re.fullmatch(r"pgd-(\d+)", name)
    known = {CLEAN: "SA", "autoattack": "AA", CORRUPTIONS: "CA"}
    told = f"RA (PGD-{steps[1]})" if steps else known.get(name, name)
    return f"{told}{apart}{number}"


def percent(accuracy: float, low: float, high: float, spread: float = float("nan")) -> str:
    """A share with its interval, and its spread over seeds, as percent: 74.2 [69.4, 78.5] ± 0.8.

    A reference without an interval stands alone.
    """
    share = f"{100 * accuracy:.1f}"
    interval = "" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{share}{interval}{'' if pd.isna(spread) else f' ± {100 * spread:.1f}'}"


def attack_text(judges: Mapping[str, Sequence[str]]) -> str:
    """What the columns stand for: `RA (PGD-20): pgd-20; AA: apgd-ce, apgd-t, fab-t, square`."""
    told = {judge: ", ".join(attacks) for judge, attacks in judges.items()}
    if CORRUPTIONS in told:
        names, levels = (
            dict.fromkeys(part) for part in zip(*(a.rsplit("-", 1) for a in judges[CORRUPTIONS]), strict=True)
        )
        told[CORRUPTIONS] = f"mean over {len(names)} corruptions at severities {', '.join(levels)}, normal interval"
    return "; ".join(f"{heading(judge)}: {text}" for judge, text in told.items())


def _apart(*parts: pd.DataFrame) -> Sequence[pd.DataFrame]:
    """The cells of a table with the judges told apart that share a name but not their attack: `autoattack [1]`."""
    cells = parts[0]
    names: dict[tuple[str, str], str] = {}
    order: list[str] = []
    for judge in cells["judge"].cat.categories:
        found = list(dict.fromkeys(cells.loc[cells["judge"] == judge, "fingerprint"].map(attack)))
        of = {key: f"{judge} [{number}]" if len(found) > 1 else str(judge) for number, key in enumerate(found, 1)}
        names |= {(judge, key): name for key, name in of.items()}
        order += of.values()
    split = []
    for part in parts:
        keys = zip(part["judge"], part["fingerprint"].map(attack), strict=True)
        split.append(part.assign(judge=pd.Categorical([names[key] for key in keys], categories=order)))
    return split


def _table(cells: pd.DataFrame, singles: pd.DataFrame) -> Table:
    """The table of measured cells that share data set and threat."""
    rows = in_order(cells)
    schemes = [str(name) for name in cells["scheme"].cat.categories]
    judges = [str(name) for name in cells["judge"].cat.categories]
    notes = Notes()
    marks = {}
    for row, scheme, judge, n, text in zip(*(cells[name] for name in _SHOWN), strict=True):
        found = against(str(text), str(judge).partition(" [")[0], int(n))
        marks[row, scheme, judge] = notes.mark(f"{row} {scheme} {heading(judge)}", found)
    group: dict[str, Any] = {name: str(cells[name].iloc[0]) for name in _GROUP}
    group |= {"row": REFERENCE, "encoder": CHANCE, "accuracy": 1 / int(cells["classes"].iloc[0])}
    reference = pd.DataFrame([{**group, "scheme": scheme, "judge": judge} for scheme in schemes for judge in judges])
    kinds = {"reference": reference, "measured": cells, "seed": singles}
    tidy = {kind: _tidy(part.assign(kind=kind), seed_columns(cells)) for kind, part in kinds.items()}
    return Table(
        caption=_caption(cells, singles),
        rows=[REFERENCE, *rows],
        schemes=schemes,
        judges=judges,
        numbers=pd.concat([tidy["reference"], tidy["measured"]], ignore_index=True),
        singles=tidy["seed"],
        marks=marks,
        notes=[*_several(cells), *notes.lines()],
    )


def _tidy(cells: pd.DataFrame, seeds: Sequence[str]) -> pd.DataFrame:
    """Cells with the columns of the CSV, and their types."""
    names = [*_GROUP, "row", "encoder", "kind", "scheme", "judge"]
    whole = dict.fromkeys(["n", "right", "seeds", "passes", *seeds], "Int64")
    real = dict.fromkeys(["accuracy", "low", "high", "spread"], "float64")
    made = cells.reindex(columns=[*names, *_NUMBERS, *seeds])
    return made.astype({**dict.fromkeys(names, str), **real}).astype(whole).reset_index(drop=True)


def _caption(cells: pd.DataFrame, singles: pd.DataFrame) -> str:
    """What a number of the table means: suite, data, threat, images, attacks, interval, seeds, protocol, trust."""
    first = cells.iloc[0]
    threat = f"{first['norm']} {first['eps']} ({first['radius']:.5g})"
    protocol = _protocol(cells)
    seeds = _stated(cells, over_seeds.told(cells, singles))
    least = 100 * detectable(int(cells["n"].min()))
    parts = [
        f"{first['suite']}: {first['data']}, {threat}, {_images(cells)}",
        "accuracy in percent with 95 % Wilson intervals over images",
        f"rows are told apart, unpaired, from {least:.1f} points on",
        *([f"seeds: {seeds}"] if seeds else []),
        _attacks(cells),
        *([f"protocol: {protocol}"] if protocol else []),
        f"reliability: {_trusted(cells)}",
    ]
    return "; ".join(parts) + "."


def _attacks(cells: pd.DataFrame) -> str:
    """The fingerprint behind every column; of columns without one, the names of their attacks."""
    held = {judge: _prints(part) for judge, part in cells.groupby("judge", observed=True) if judge != CLEAN}
    known = [f"{heading(str(judge))}: {', '.join(of)}" for judge, of in held.items() if any(of)]
    bare = {str(judge).partition(" [")[0] for judge, of in held.items() if not any(of)}
    texts = [{name: of for name, of in json.loads(text).items() if name in bare} for text in cells["judges"]]
    plain = _stated(cells, pd.Series([attack_text(text) for text in texts], index=cells.index)) if bare else ""
    return "; ".join([*([plain] if plain else []), *known])


def _prints(cells: pd.DataFrame) -> list[str]:
    """The fingerprints of a column: several where they differ by their seeds alone."""
    return [str(of) for of in dict.fromkeys(cells["fingerprint"]) if of]


def _several(cells: pd.DataFrame) -> list[str]:
    """The notes that say which attack is behind `AA [1]`."""
    made = []
    for judge, part in cells.groupby("judge", observed=True):
        name, apart, number = str(judge).partition(" [")
        if apart:
            made.append(f"[{number} {heading(name)}: {', '.join(_prints(part)) or 'no fingerprint is recorded'}.")
    return made


def _trusted(cells: pd.DataFrame) -> str:
    """How many numbers are of which verdict."""
    counts = cells["reliability"].value_counts()
    told = [f"{counts[name]} {name}{sign}" for name, sign in _SIGNS.items() if name in counts]
    return told[0].partition(" ")[2] if len(told) == 1 else ", ".join(told) + " numbers"


def _images(cells: pd.DataFrame) -> str:
    """How many images were judged, per column where the columns differ."""
    counts = {str(judge): sorted(set(part)) for judge, part in cells.groupby("judge", observed=True)["n"]}
    if len({tuple(of) for of in counts.values()}) == 1:
        return f"n = {_range(next(iter(counts.values())))} images"
    return "n = " + ", ".join(f"{_range(of)} ({heading(judge)})" for judge, of in counts.items()) + " images"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _protocol(cells: pd.DataFrame) -> str:
    """The clauses that all cells share, then every other one with its cells: each clause once, none for cells alone."""
    places = list(zip(cells["row"].astype(str), cells["scheme"].astype(str), strict=True))
    held: dict[str, dict[tuple[str, str], None]] = {}
    for text, place in zip(cells["protocol"].astype(str), places, strict=True):
        for clause in filter(None, re.split(r", (?![^(]*\))", text)):  # a comma in brackets parts nothing
            held.setdefault(clause, {})[place] = None
    every = list(dict.fromkeys(places))
    shared = [clause for clause, of in held.items() if len(of) == len(every)]
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for clause, of in held.items():
        if clause not in shared:
            together.setdefault(tuple(of), []).append(clause)
    parts = [f"{', '.join(clauses)} ({_of(list(of), every)})" for of, clauses in together.items()]
    return "; ".join([*([", ".join(shared)] if shared else []), *parts])


def _of(some: Sequence[tuple[str, str]], every: Sequence[tuple[str, str]]) -> str:
    """The cells (row, scheme) in as few names as they have: whole rows, whole schemes, or one by one."""
    for side in (0, 1):
        names = dict.fromkeys(place[side] for place in some)
        if sum(place[side] in names for place in every) == len(some):
            return ", ".join(names)
    return ", ".join(" ".join(place) for place in some)


def _stated(cells: pd.DataFrame, texts: pd.Series) -> str:
    """A text that all cells share, or every text with its cells: unlike numbers are never mixed silently."""
    where = cells["row"].astype(str) + " " + cells["scheme"].astype(str)
    of = {str(text): list(dict.fromkeys(part)) for text, part in where.groupby(texts.astype(str), sort=False)}
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in of.items())
