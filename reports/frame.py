"""The only owner of the tidy frame: every record of a run folder as one row, its verdicts and their summary."""

import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robustcl.bench.findings import UNCHECKED
from robustcl.models.errors import UserError
from robustcl.reports.about import About, read_about
from robustcl.reports.statistics import interval
from robustcl.reports.trust import against, text_of, verdict, why

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
_TOLD = ("fingerprints", "reliability", "findings")  # what a cell's records say of themselves

Judges = Mapping[str, Sequence[str]]


def frame(runs: str | Path) -> pd.DataFrame:
    """Every record of every finished cell of the suite in the folder `runs`, one row each.

    Beside the columns of a record (image, label, judge, attack, answer, right, margin, distance, step, passes) every
    row says which cell it is of: suite, encoder, method, scheme, data, classes, norm, eps (exact text), radius (eps as
    a float), headline (a cell of the table, not of the sweep), judges (JSON: judge -> its attacks), protocol, stage,
    `seed_<role>` (-1 where a cell has no such seed), fingerprints (JSON: judge -> its attack's), reliability (`ok`,
    `suspect`, `unreliable`, or `unchecked`) and findings (JSON: what the checks found). Text is categorical, in the
    order of the suite, and the categories name unfinished cells too, so that a table can show what is missing.
    Errors: `UserError` where `runs` is no run folder or a file in it is damaged or of an unknown schema version.
    """
    folder = Path(runs)
    suite = _suite(folder)
    cells = _cells(suite, folder / "suite.json")
    places = [(number, folder / "evaluate" / str(stage)) for number, stage in enumerate(cells["stage"])]
    places = [(number, stage) for number, stage in places if stage.is_dir()]
    cells = _told(cells, {number: read_about(stage / "records.parquet") for number, stage in places})
    corrupt = {number: folder / "corrupt" / str(suite["cells"][number].get("corrupt", "none")) for number, _ in places}
    places += [(number, stage) for number, stage in corrupt.items() if stage.is_dir()]
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


def judged(records: pd.DataFrame, judges: Judges, where: str = "records") -> dict[str, pd.Series]:
    """What every judge says about the images of one cell: judge -> bool per image, indexed by image; `clean` first.

    An image is robustly right under a judge iff its clean answer is right and every attempted row of the judge is. A
    judge without any row is left out, unless no clean answer is right, which leaves nothing to attempt.
    Corruptions are no attack: this judge's answer is the share of right ones per image, a float in [0, 1], over all of
    its corruptions and severities, and does not ask whether the clean answer is right.
    Errors: `UserError` where records are lost: images without one clean answer, survivors that not every attack of
    the judge was tried on. Such an image must never count as robust.
    """
    clean = records.loc[records["judge"] == CLEAN].set_index("image")["right"].astype(bool)
    if not clean.index.is_unique or not records["image"].isin(clean.index).all():
        raise UserError(f"{where}: images without exactly one clean answer, expected one 'clean' row per image")
    verdict = {CLEAN: clean}
    for judge, attacks in judges.items():
        rows = records.loc[records["judge"] == judge]
        if rows.empty and (clean.any() or judge == CORRUPTIONS):
            continue
        if judge == CORRUPTIONS:
            verdict[judge] = _shares(rows, clean.index, attacks, where)
            continue
        right = clean & ~clean.index.isin(rows.loc[~rows["right"].astype(bool), "image"])
        tried = rows.groupby("image").size().reindex(clean.index, fill_value=0)
        short = tried.index[right & (tried < len(attacks))]
        if len(short):
            raise UserError(
                f"{where}: image {short[0]} was tried by {tried[short[0]]} of the {len(attacks)} attacks of judge "
                f"'{judge}' and never broken, expected all of {', '.join(attacks)}"
            )
        verdict[judge] = right
    return verdict


def verdicts(records: pd.DataFrame, *, shares: bool = False) -> pd.DataFrame:
    """One row per cell, judge and image with `right`, the verdict of the judge; the judge `clean` included.

    Corruptions, under which an image has a share and no verdict, are left out; with `shares` they are in, and `right`
    is a share in [0, 1] throughout.
    `records` is a `frame` or a part of one that keeps the clean rows. Errors: as `judged`.
    """
    parts = []
    for first, _, answers in _split(records):
        for judge, right in answers.items():
            if judge == CORRUPTIONS and not shares:
                continue
            right = right.astype(float) if shares else right
            part = first.loc[first.index.repeat(len(right))].reset_index(drop=True)
            parts.append(part.assign(judge=judge, image=right.index.to_numpy(), right=right.to_numpy()))
    return _joined(parts, records, ["judge", "image", "right"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and judge: n, right, accuracy, low, high (the 95 % Wilson interval), how reliable, and passes.

    Accuracies are shares in [0, 1]; passes are the forward-equivalents that the judge spent. `fingerprint` is the
    judge's; `reliability` and `why` say what the checks hold against its number. The accuracy under
    corruptions is the mean of the images' shares; its interval is that of a mean of n of them, since the same n images
    come again under every corruption and are not so many more; `right` is missing there. Errors: as `judged`.
    """
    parts = []
    for first, rows, answers in _split(frame):
        spent = rows.groupby("judge", observed=True)["passes"].sum()
        part = first.loc[first.index.repeat(len(answers))].reset_index(drop=True)
        part["judge"] = list(answers)
        part["n"] = [len(right) for right in answers.values()]
        part["right"] = pd.array([int(r.sum()) if r.dtype == bool else None for r in answers.values()], dtype="Int64")
        part["accuracy"] = [float(right.mean()) for right in answers.values()]
        part[["low", "high"]] = [interval(right) for right in answers.values()]
        part["passes"] = [int(spent.get(judge, 0)) for judge in answers]
        parts.append(part.assign(**_trust(first, part)))
    trust = ["fingerprint", "reliability", "why"]
    return _joined(parts, frame, ["judge", "n", "right", "accuracy", "low", "high", *trust, "passes"])


def cell_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that say which cell a row is of."""
    return [str(name) for name in frame.columns if name not in RECORDS.names]


def _shares(rows: pd.DataFrame, images: pd.Index, attacks: Sequence[str], where: str) -> pd.Series:
    """The share of right answers per image, each of which has one row per corruption and severity."""
    answers = rows.groupby("image")["right"]
    tried = answers.size().reindex(images, fill_value=0)
    short = tried.index[tried != len(attacks)]
    if len(short):
        raise UserError(
            f"{where}: image {short[0]} was shown under {tried[short[0]]} of the {len(attacks)} corruptions and "
            "severities, expected all of them"
        )
    return answers.mean().reindex(images)


def _trust(first: pd.DataFrame, cells: pd.DataFrame) -> dict[str, list[str]]:
    """The columns fingerprint, reliability and why for every judge of one cell."""
    findings, told = (str(first[name].iloc[0]) if name in first else "" for name in ("findings", "fingerprints"))
    known = json.loads(told or "{}")
    found = [against(findings, str(judge), int(n)) for judge, n in zip(cells["judge"], cells["n"], strict=True)]
    prints = [str(known.get(judge, "")) for judge in cells["judge"]]
    return {"fingerprint": prints, "reliability": [verdict(of) for of in found], "why": [why(of) for of in found]}


def _split(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.Series]]]:
    """Every cell of a frame: its description (one row), its records, what its judges say."""
    if records.empty:
        return
    columns = cell_columns(records)
    number = records.groupby(columns, observed=True, sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    for positions in np.split(order, np.cumsum(np.bincount(number))[:-1]):
        rows = records.iloc[positions]
        first = rows[columns].iloc[[0]]
        names = [str(first[name].iloc[0]) for name in ("encoder", "scheme", "norm", "eps") if name in columns]
        judges = json.loads(str(first["judges"].iloc[0]))
        yield first, rows, judged(rows, judges, where=f"records of {' '.join(names)}")


def _joined(parts: list[pd.DataFrame], records: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The parts below each other, judges in the order of the records; without a part an empty frame of its columns."""
    if not parts:
        return pd.DataFrame({name: [] for name in [*cell_columns(records), *columns]})
    rows = pd.concat(parts, ignore_index=True)
    known = records["judge"]
    order = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else dict.fromkeys(rows["judge"])
    rows["judge"] = pd.Categorical(rows["judge"], categories=list(order))
    return rows


def _suite(folder: Path) -> dict[str, Any]:
    path = folder / "suite.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a run folder")
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder, expected a suite.json in it")
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path}: damaged or truncated, expected a whole JSON file") from None
    found = suite.get("schema") if isinstance(suite, dict) else None
    if found != SUITE_SCHEMA:
        raise UserError(f"{path}: schema version {found!r} is unknown, expected {SUITE_SCHEMA}")
    return dict(suite)


def _cells(suite: Mapping[str, Any], path: Path) -> pd.DataFrame:
    """The cells of the suite in its order, one row each, finished or not."""
    try:
        rows = [_cell(cell) | {"suite": suite["suite"]} for cell in suite["cells"]]
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
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
                "reliability": of.reliability.verdict if of.reliability else UNCHECKED,
                "findings": text_of(of.reliability),
            }
        )
    told = pd.DataFrame(rows, columns=list(_TOLD), index=cells.index)
    return cells.assign(**{name: told[name].astype("category") for name in _TOLD})


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    names = ("encoder", "method", "scheme", "data", "norm", "eps", "protocol", "stage")
    text = {name: str(cell[name]) for name in names}
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
                found, expected = version.decode(), RECORDS_SCHEMA.decode()
                raise UserError(f"{path}: records of schema version {found} are unknown, expected {expected}")
            return file.read().select(RECORDS.names).cast(RECORDS).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated ({reason}), expected whole records") from None
