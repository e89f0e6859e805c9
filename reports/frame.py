"""The only owner of the tidy frame: every record of a run folder as one row beside its cell; all, or cell by cell."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robustcl.bench.findings import UNCHECKED
from robustcl.models.arrays import check_size
from robustcl.models.errors import UserError
from robustcl.models.naming import check_seen, is_file_name
from robustcl.models.value import fraction, plain
from robustcl.models.whole import intact
from robustcl.reports.about import About, read_about
from robustcl.reports.trust import text_of
from robustcl.reports.verified import verified

SUITE_SCHEMA = 1
RECORDS_SCHEMA = b"1"
_NAME = pa.dictionary(pa.int32(), pa.string())
RECORDS = pa.schema(
    [
        ("image", pa.int32()),
        ("label", pa.int16()),
        ("judge", _NAME),
        ("attack", _NAME),
        ("answer", pa.int16()),
        ("right", pa.bool_()),
        ("margin", pa.float32()),
        ("distance", pa.float32()),
        ("step", pa.int32()),
        ("passes", pa.int32()),
    ]
)
CLEAN, CORRUPTIONS = "clean", "corruptions"
_TEXT = ("suite", "encoder", "method", "scheme", "data", "norm", "eps", "judges", "protocol", "stage")
_TOLD = ("fingerprints", "content", "reliability", "findings", "designs")  # what a cell's records say of themselves

Judges = Mapping[str, Sequence[str]]


def frame(runs: str | Path) -> pd.DataFrame:
    """Every record of every finished cell of the suite in the folder `runs`, one row each.

    Beside the columns of a record (image, label, judge, attack, answer, right, margin, distance, step, passes) every
    row says which cell it is of: suite, encoder, method, scheme, data, classes, norm, eps (exact text), radius (eps as
    a float), headline (a cell of the table, not of the sweep), judges (JSON: judge -> its attacks), protocol, stage,
    `seed_<role>` (-1 where a cell has no such seed), fingerprints (JSON: judge -> its attack's), content (the
    fingerprint of the judged images, empty where the records do not say), reliability (`ok`, `suspect`, `unreliable`,
    or `unchecked`), findings (JSON: what the checks found) and designs (JSON: how the judges that are estimates drew
    their images, see `estimate`). Text is categorical, in the order of the suite, and the
    categories name unfinished cells too, so that a table can show what is missing.
    Errors: `UserError` where `runs` is no run folder or a file in it is damaged or of an unknown schema version.

    It holds about 100 bytes a record in memory; where that is too much, `Cells` is the same one cell at a time.
    """
    return Cells.of(runs).frame()


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """The finished cells of a run folder, whose records are read when they are asked for.

    `described` has a row for each, with the columns of a `frame` that say which cell a row is of; `files` are those of
    their records. `names` are the judges and attacks that the suite plans, in its order. Iterating gives the `frame`
    of one cell after the other.
    """

    described: pd.DataFrame
    files: Sequence[Sequence[Path]]
    names: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, runs: str | Path) -> "Cells":
        """Those of the suite in the folder `runs`. Errors: as `frame`, but for records that are damaged inside."""
        folder = Path(runs)
        suite = suite_of(folder)
        cells = _cells(suite, folder / "suite.json")
        planned: list[Judges] = [json.loads(text) for text in cells["judges"]]
        names = {
            "judge": [judge for judges in planned for judge in judges],
            "attack": [attack for judges in planned for attacks in judges.values() for attack in attacks],
        }
        done = [number for number, stage in enumerate(cells["stage"]) if (folder / "evaluate" / str(stage)).is_dir()]
        files = {}
        for number in done:
            corrupt = folder / "corrupt" / str(suite["cells"][number].get("corrupt", "none"))
            places = [folder / "evaluate" / str(cells["stage"].iloc[number]), *([corrupt] if corrupt.is_dir() else [])]
            files[number] = [verified(place / "records.parquet") for place in places]
        told = _told(cells, {number: read_about(of[0]) for number, of in files.items()})
        order = {column: list(dict.fromkeys([CLEAN, *known])) for column, known in names.items()}
        return cls(described=told.iloc[done].reset_index(drop=True), files=list(files.values()), names=order)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.files)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """The `frame` of each cell."""
        return (self.frame([number]) for number in range(len(self)))

    def where(self, kept: pd.Series) -> "Cells":
        """Those of which this is true; `kept` (n,) is in the order of `described`."""
        numbers = np.flatnonzero(kept).tolist()
        shown = self.described.iloc[numbers].reset_index(drop=True)
        return replace(self, described=shown, files=[self.files[number] for number in numbers])

    def frame(self, numbers: Iterable[int] | None = None) -> pd.DataFrame:
        """The `frame` of these cells, or of all. Errors: `UserError` for damaged records and of an unknown schema."""
        chosen = list(range(len(self)) if numbers is None else numbers)
        tables = [[_records(path) for path in self.files[number]] for number in chosen]
        counts = [sum(table.num_rows for table in of) for of in tables]
        held = pa.concat_tables([RECORDS.empty_table(), *(table for of in tables for table in of)])
        rows: pd.DataFrame = held.unify_dictionaries().to_pandas()
        for column, known in self.names.items():
            order = dict.fromkeys([*known, *sorted(rows[column].cat.remove_unused_categories().cat.categories)])
            rows[column] = rows[column].cat.set_categories(list(order))
        of_row = np.repeat(np.array(chosen, dtype=np.intp), counts)
        return pd.concat([self.described.iloc[of_row].reset_index(drop=True), rows], axis=1)


def suite_of(folder: Path) -> dict[str, Any]:
    """What `suite.json` in a run folder says. Errors: `UserError` where there is none, or it is damaged."""
    path = folder / "suite.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a run folder")
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder, expected a suite.json in it")
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: damaged or truncated, expected a whole JSON file") from None
    found = suite.get("schema") if isinstance(suite, dict) else None
    if found != SUITE_SCHEMA:
        raise UserError(f"{path}: schema version {found!r} is unknown, expected {SUITE_SCHEMA}")
    if not intact(suite):
        raise UserError(f"{path}: damaged, not as it was written; remove it and give the same command again")
    check_seen(suite, str(path))
    return shaped(suite, {"suite": str, "cells": list, "resolved": dict}, path)


def shaped(held: Any, keys: Mapping[str, type], path: Path) -> dict[str, Any]:
    """A table of a file whose keys, where it has them, are of these types. Errors: `UserError` for one that is not."""
    for key, kind in keys.items():
        if not isinstance(held, Mapping) or (key in held and not isinstance(held[key], kind)):
            raise UserError(f"{path}: damaged, expected a table with another '{key}' in it")
    return dict(held)


def _cells(suite: Mapping[str, Any], path: Path) -> pd.DataFrame:
    """The cells of the suite in its order, one row each, finished or not."""
    try:
        rows = [_cell(cell) | {"suite": suite["suite"]} for cell in suite["cells"]]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}), expected the cells of a suite") from None
    names = [*_TEXT[:6], "classes", *_TEXT[6:], "radius", "headline", "fingerprints"]
    seeds = dict.fromkeys(name for row in rows for name in row if name.startswith("seed_"))
    cells = pd.DataFrame(rows, columns=[*names, *seeds])
    for name in _TEXT:
        order: Any = dict.fromkeys(cells[name])
        order = sorted(order, key=Fraction) if name == "eps" else order
        cells[name] = pd.Categorical(cells[name], categories=list(order), ordered=name == "eps")
    types: dict[str, Any] = {"classes": "int64", "radius": "float64", "headline": "bool"}
    return cells.fillna(dict.fromkeys(seeds, -1)).astype(types | dict.fromkeys(seeds, "int64"))


def _told(cells: pd.DataFrame, about: Mapping[int, About]) -> pd.DataFrame:
    """The cells with what their records say of themselves; the fingerprints of a suite are known before."""
    rows = []
    for number, planned in enumerate(cells["fingerprints"]):
        of = about.get(number, About())
        rows.append(
            {
                "fingerprints": planned if planned != "{}" else json.dumps(of.fingerprints),
                "content": str(of.protocol.get("part", {}).get("data", "")),
                "reliability": of.reliability.verdict if of.reliability else UNCHECKED,
                "findings": text_of(of.reliability),
                "designs": json.dumps({judge: plain(design) for judge, design in of.designs.items()}, sort_keys=True),
            }
        )
    told = pd.DataFrame(rows, columns=list(_TOLD), index=cells.index)
    return cells.assign(**{name: told[name].astype("category") for name in _TOLD})


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    names = ("encoder", "method", "scheme", "data", "norm", "eps", "protocol", "stage")
    text = {name: str(cell[name]) for name in names}
    for key in (cell["stage"], cell.get("corrupt", "none")):
        if not is_file_name(key):
            raise ValueError(f"{key!r} is no stage")
    if int(cell["classes"]) < 1:
        raise ValueError(f"{cell['classes']} classes")
    judges = {str(judge): [str(attack) for attack in attacks] for judge, attacks in cell["judges"].items()}
    numbers = {"classes": int(cell["classes"]), "radius": float(fraction(text["eps"], "eps"))}
    seeds = {f"seed_{role}": int(seed) for role, seed in cell["seeds"].items()}
    if max(map(abs, (numbers["classes"], *seeds.values()))) >= 2**63:
        raise ValueError("a number beyond 64 bits")
    prints = {str(judge): str(of) for judge, of in cell.get("fingerprints", {}).items()}
    json_text = {"judges": json.dumps(judges), "fingerprints": json.dumps(prints)}
    return {**text, **numbers, **seeds, **json_text, "headline": bool(cell["headline"])}


def _records(path: Path) -> pa.Table:
    """The records of one cell, their types checked. Errors: `UserError` that names the file."""
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(b"robustcl.records", b"none")
            if version != RECORDS_SCHEMA:
                found, expected = version.decode(errors="replace"), RECORDS_SCHEMA.decode()
                raise UserError(f"{path}: records of schema version {found} are unknown, expected {expected}")
            check_size(file.metadata, path)
            table = file.read().select(RECORDS.names)
        if not table.num_rows:
            raise UserError(f"{path}: holds no record, expected those of an image at least")
        empty = next((name for name in RECORDS.names if table.column(name).null_count), None)
        if empty is not None:
            raise UserError(f"{path}: damaged, rows without '{empty}', expected whole records")
        return table.cast(RECORDS).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated ({reason}), expected whole records") from None
