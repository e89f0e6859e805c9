"""The only owner of the tables: encoders as rows, schemes as blocks, one column per judge, intervals in every cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from robustcl.reports import captions
from robustcl.reports.answers import Records, heard
from robustcl.reports.beside import COLUMNS, beside, lines
from robustcl.reports.beside import notes as notes_of
from robustcl.reports.captions import ESTIMATED as ESTIMATED
from robustcl.reports.captions import attack_text as attack_text
from robustcl.reports.captions import heading as heading
from robustcl.reports.captions import percent as percent
from robustcl.reports.ranks import RANDOM as RANDOM
from robustcl.reports.ranks import leaders, ranked
from robustcl.reports.seeds import attack, pooled, seed_columns
from robustcl.reports.trust import Notes, against
from robustcl.reports.verdicts import SET

CHANCE, MISSING = "chance", "-"
REFERENCE = f"{CHANCE} (reference)"
GIVEN = "as given"  # the scheme of a classifier that was judged and not made here
OTHER = "other methods"  # such as somebody's own
GROUPS = {
    RANDOM: "no pretraining",
    "supervised": "supervised",
    "simclr": "self-supervised",
    **dict.fromkeys(
        ("ap_dpe", "rocl", "acl", "advcl", "a_infonce", "dynacl", "lp_aff", "deacl", "air"),
        "adversarial self-supervised",
    ),
    "import": "imported",
}
_GROUP = ["suite", "data", "norm", "eps"]
_NUMBERS = ["n", "right", "accuracy", "low", "high", "seeds", "spread", "reliability", "why", "fingerprint", "passes"]
_RANKED = ["group", "rank", "last", "tied"]
_PUBLISHED = ["source", "outside", "flags", "note"]
_SHOWN = ["row", "scheme", "judge", "n", "findings"]
_KEY = ["row", "scheme", "judge"]

Key = tuple[str, str, str]
"""A cell of a table: row, scheme and judge."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One table: one data set under one threat.

    `numbers` is tidy: one row per (row, scheme, judge) with n, right, accuracy, low, high as shares in [0, 1] and
    `kind`, `measured` or `reference` (chance, which has neither n nor interval). Where several seeds stand behind a
    cell, it is their mean, `seeds` and `spread` say how many and how far apart, and `singles` has a row for each, of
    the kind `seed`. `rows`, `schemes` and `judges` are what is shown, in order; a combination without numbers is not
    finished and shows as `-`. `marks` stand behind the numbers that checks speak against, `notes` say why.

    `places` says which numbers lead their column as far as the paired test resolves it (see `ranks`): `best` above
    every other row, `second` above all but the best; without a best, `tied` are those that no row is above. `groups`
    says what kind of method a row is. `published` holds the published numbers of its rows as `numbers` does, of the
    kind `published` (see `beside`), and `sources` what is to be said of them. `parts` are those of the caption: what is
    shown, how intervals are to be read, then protocol and reliability.
    """

    parts: Sequence[str]
    rows: list[str]
    schemes: list[str]
    judges: list[str]
    numbers: pd.DataFrame
    singles: pd.DataFrame
    marks: Mapping[Key, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    places: Mapping[Key, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    published: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    sources: Sequence[str] = ()

    @property
    def caption(self) -> str:
        """What a number of the table means, as one sentence."""
        return "; ".join(self.parts) + "."

    @property
    def of(self) -> str:
        """What it is of, `cifar10, linf 8/255`: the head of its block beside other tables."""
        data, norm, eps = self.numbers.iloc[0][["data", "norm", "eps"]]
        return f"{data}, {norm} {eps}"

    def beside(self) -> list[list[str]]:
        """Scheme, row, source and a text per judge: of each row with published numbers the measured, then these."""
        text, found = self.text(), lines(self.published, self.judges)
        made = []
        for scheme, row in self.lines():
            own = [[scheme, row, source, *texts] for (*at, source), texts in found if at == [scheme, row]]
            measured = [text[row, scheme, judge] for judge in self.judges]
            made += [[scheme, row, "measured here", *measured], *own] if own else []
        return made

    def text(self) -> dict[Key, str]:
        """What stands in the cells: (row, scheme, judge) -> percent, its interval, its spread over seeds, its mark."""
        rows = self.numbers
        cells = zip(rows["row"], rows["scheme"], rows["judge"], strict=True)
        here = rows.reindex(columns=list(SET)).itertuples(index=False, name=None)
        values = zip(rows["accuracy"], rows["low"], rows["high"], rows["spread"], here, strict=True)
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


def tables(records: Records, suite: Mapping[str, Any] | None = None) -> list[Table]:
    """The tables of a frame, one per data set and threat, from its headline cells; empty where none is finished.

    With the `suite.json` of its run folder, published numbers stand beside the measured ones.
    """
    shown = heard(records).headline
    numbers, singles = pooled(shown)
    if numbers.empty:
        return []
    ranks, refused = ranked(shown)
    made = []
    for key, part in numbers.groupby(_GROUP, observed=True, sort=False):
        own, of, why = (held[_are(held, key)] for held in (singles, ranks, refused))
        cells, seeds = _apart(part, own)
        made.append(_table(cells, seeds, of, why, suite or {}))
    return made


def _are(held: pd.DataFrame, key: Sequence[Any]) -> pd.Series:
    return (held[_GROUP].astype(str) == [str(of) for of in key]).all(axis=1)


def in_order(cells: pd.DataFrame) -> list[str]:
    """The rows of cells as they are shown: the random encoder, then the encoders in the suite's order.

    Those that only the categories know, because nothing of theirs is finished, stand where they will stand.
    """
    encoders = [str(name) for name in cells["encoder"].cat.categories]
    encoders.sort(key=lambda name: name != RANDOM)  # stable: only the random encoder moves
    return encoders


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


def _renamed(ranks: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The ranks with the judges as `_apart` names them in these cells."""
    names = cells[_KEY].astype(str).assign(name=lambda of: of["judge"])
    found = ranks.merge(names.assign(judge=names["judge"].str.partition(" [")[0]), on=_KEY)
    return found.assign(judge=found["name"])


def _table(
    cells: pd.DataFrame, singles: pd.DataFrame, ranks: pd.DataFrame, refused: pd.DataFrame, suite: Mapping[str, Any]
) -> Table:
    """The table of measured cells that share data set and threat."""
    ranks = _renamed(ranks, cells)
    rows = in_order(cells)
    schemes = [str(name) for name in cells["scheme"].cat.categories]
    judges = [str(name) for name in cells["judge"].cat.categories]
    marks, notes = _marks(cells)
    group: dict[str, Any] = {name: str(cells[name].iloc[0]) for name in _GROUP}
    known = beside(cells, suite).assign(encoder=lambda found: found["row"], **group)
    groups = _groups(cells, suite)
    order = list(dict.fromkeys(groups.get(row, "") for row in rows))
    rows.sort(key=lambda row: order.index(groups.get(row, "")))  # stable: methods of a kind stand together
    group |= {"row": REFERENCE, "encoder": CHANCE, "accuracy": 1 / int(cells["classes"].iloc[0])}
    reference = pd.DataFrame([{**group, "scheme": scheme, "judge": judge} for scheme in schemes for judge in judges])
    cells = cells.assign(group=cells["row"].astype(str).map(groups))
    ranked_cells = cells.astype(dict.fromkeys(_KEY, str)).merge(ranks[[*_KEY, *_RANKED[1:]]], on=_KEY, how="left")
    kinds = {"reference": reference, "measured": ranked_cells, "published": known, "seed": singles}
    more = [*seed_columns(cells), *(SET if cells[SET[0]].notna().any() else ())]
    tidy = {kind: _tidy(part.assign(kind=kind), more) for kind, part in kinds.items()}
    return Table(
        parts=captions.caption(cells, singles),
        rows=[REFERENCE, *rows],
        schemes=schemes,
        judges=judges,
        numbers=pd.concat([tidy["reference"], tidy["measured"]], ignore_index=True),
        singles=tidy["seed"],
        marks=marks,
        notes=[*captions.several(cells), *notes, *_unranked(refused)],
        places=leaders(ranks),
        groups=groups,
        published=tidy["published"],
        sources=notes_of(known),
    )


def _groups(cells: pd.DataFrame, suite: Mapping[str, Any]) -> dict[str, str]:
    """What kind of method each row is; of rows that are not finished the suite knows it."""
    known = [*suite.get("cells", []), *cells[["encoder", "method", "scheme"]].astype(str).to_dict("records")]
    return {
        str(one["encoder"]): GIVEN if one["scheme"] == GIVEN else GROUPS.get(str(one["method"]), OTHER) for one in known
    }


def _marks(cells: pd.DataFrame) -> tuple[dict[Key, str], list[str]]:
    """The marks of the numbers that checks speak against, and the notes that say why."""
    notes, marks = Notes(), {}
    for row, scheme, judge, n, text in zip(*(cells[name] for name in _SHOWN), strict=True):
        found = against(str(text), str(judge).partition(" [")[0], int(n))
        marks[row, scheme, judge] = notes.mark(f"{row} {scheme} {heading(judge)}", found)
    return marks, notes.lines()


def _unranked(refused: pd.DataFrame) -> list[str]:
    """The notes that say which columns have no ranking and why."""
    return [
        f"Not ranked: {', '.join(f'{scheme} {heading(judge)}' for scheme, judge in columns)}: {why}."
        for why, columns in (
            (
                str(why).removeprefix("pairs: ").partition(", expected")[0],
                zip(part["scheme"], part["judge"], strict=True),
            )
            for why, part in refused.groupby("why", sort=False)
        )
    ]


def _tidy(cells: pd.DataFrame, more: Sequence[str]) -> pd.DataFrame:
    """Cells with the columns of the CSV, and their types; `more` are those of seeds and estimates."""
    names = [*_GROUP, "row", "encoder", "kind", "scheme", "judge"]
    types: dict[str, Any] = {**dict.fromkeys(names, str), **dict.fromkeys(["tied", "outside"], "boolean")}
    types |= dict.fromkeys(["n", "right", "seeds", "passes", "rank", "last"], "Int64")
    types |= dict.fromkeys(["accuracy", "low", "high", "spread"], "float64")
    types |= {name: "float64" if name in SET else "Int64" for name in more}
    made = cells.reindex(columns=[*names, *_NUMBERS, *more, *_RANKED, *_PUBLISHED])
    return made.astype(types).reset_index(drop=True)
