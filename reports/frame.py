"""The only owner of the tidy frame: every record of a run folder as one row, and what its cells say of themselves."""

import json
from collections.abc import Mapping, Sequence
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
from robustcl.models.value import plain
from robustcl.models.whole import intact
from robustcl.reports.about import About, read_about
from robustcl.reports.trust import text_of
from robustcl.reports.verified import verified

SUITE_SCHEMA = 1
RECORDS_SCHEMA = b"1"
RECORDS = pa.schema(
    [
        ("image", pa.int32()),
        ("label", pa.int16()),
        ("judge", pa.string()),
        ("attack", pa.string()),
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
    """
    folder = Path(runs)
    suite = suite_of(folder)
    cells = _cells(suite, folder / "suite.json")
    places = [(number, folder / "evaluate" / str(stage)) for number, stage in enumerate(cells["stage"])]
    places = [(number, stage) for number, stage in places if stage.is_dir()]
    cells = _told(cells, {number: read_about(verified(stage / "records.parquet")) for number, stage in places})
    corrupt = {number: folder / "corrupt" / str(suite["cells"][number].get("corrupt", "none")) for number, _ in places}
    more = [(number, stage) for number, stage in corrupt.items() if stage.is_dir()]
    places += [(number, verified(stage / "records.parquet").parent) for number, stage in more]
    finished = [number for number, _ in places]
    tables = [_records(stage / "records.parquet") for _, stage in places]
    rows: pd.DataFrame = pa.concat_tables([RECORDS.empty_table(), *tables]).to_pandas()
    planned: list[Judges] = [json.loads(text) for text in cells["judges"]]
    names = {
        "judge": [judge for judges in planned for judge in judges],
        "attack": [attack for judges in planned for attacks in judges.values() for attack in attacks],
    }
    for column, known in names.items():
        order = dict.fromkeys([CLEAN, *known, *sorted(rows[column].unique())])
        rows[column] = pd.Categorical(rows[column], categories=list(order))
    of_row = np.repeat(np.array(finished, dtype=np.intp), [table.num_rows for table in tables])
    return pd.concat([cells.iloc[of_row].reset_index(drop=True), rows], axis=1)


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
        raise UserError(f"{path}: damaged, not as it was written; the command that wrote it writes it again")
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
    numbers = {"classes": int(cell["classes"]), "radius": float(Fraction(text["eps"]))}
    seeds = {f"seed_{role}": int(seed) for role, seed in cell["seeds"].items()}
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
        empty = next((name for name in RECORDS.names if table.column(name).null_count), None)
        if empty is not None:
            raise UserError(f"{path}: damaged, rows without '{empty}', expected whole records")
        return table.cast(RECORDS).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated ({reason}), expected whole records") from None
