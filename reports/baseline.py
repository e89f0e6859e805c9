"""The only owner of baselines: the verdicts per image of the rows that a gate watches, as values and as one file."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustcl.models.arrays import check_size
from robustcl.models.errors import UserError, unknown
from robustcl.models.naming import check_seen
from robustcl.models.whole import seal_holds, with_seal, writable, writing
from robustcl.reports.estimate import Estimate, from_table, to_table
from robustcl.reports.frame import CLEAN
from robustcl.reports.seeds import attack, seed_columns
from robustcl.reports.table import RANDOM, heading
from robustcl.reports.verdicts import cell_columns, estimated, summary, verdicts

VERSION, ESTIMATED = b"1", b"2"  # the second where a row is an estimate, which an older reader would misread
NO_THREAT = "-"  # the norm and eps of clean accuracies, which are under no threat
_TEXT = (
    "encoder", "scheme", "data", "norm", "eps", "judge", "seeds", "fingerprint", "content", "protocol", "reliability",
    "why",
)  # fmt: skip
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        ("image", pa.list_(pa.int32())),
        ("label", pa.list_(pa.int16())),
        ("right", pa.list_(pa.bool_())),
    ]
)
_SCHEMAS = {VERSION: _SCHEMA, ESTIMATED: _SCHEMA.append(pa.field("estimate", pa.string()))}


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """One number that a gate watches: a classifier under one judge, with the verdict on every image.

    `seeds` (role -> seed) tell apart what is otherwise of one name; the judge's is among them only where a classifier
    has several. `fingerprint` says which attack, its seed apart; `content` is the fingerprint of the images' pixels
    (empty where the records do not say). `image` (n,) are positions in the official split, ascending, `label` (n,)
    their labels and `right` (n,) the verdicts; of an `estimate`, what is right for certain (see `verdicts.estimated`).
    """

    encoder: str
    scheme: str
    data: str
    norm: str
    eps: str
    judge: str
    seeds: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    content: str = ""
    protocol: str = ""
    reliability: str = ""
    why: str = ""
    image: NDArray[np.int32]
    label: NDArray[np.int16]
    right: NDArray[np.bool_]
    estimate: Estimate | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What the row is called: two rows with one key are the same number at two times."""
        return self.encoder, self.scheme, self.data, self.norm, self.eps, self.judge, *sorted(self.seeds.items())

    @property
    def n(self) -> int:
        """How many images were judged."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """The share of images that are right, or an estimate of it."""
        if self.estimate:
            return self.estimate.accuracy
        return float(self.right.mean()) if len(self.right) else float("nan")

    @property
    def threat(self) -> str:
        """Norm and radius; `-` for a clean accuracy."""
        return self.eps if self.eps == NO_THREAT else f"{self.norm} {self.eps}"

    @property
    def seed_text(self) -> str:
        """The seeds as text: `pretrain 0, finetune 1`."""
        return ", ".join(f"{role} {seed}" for role, seed in sorted(self.seeds.items()))


@dataclass(frozen=True, eq=False, kw_only=True)
class Baseline:
    """The rows that a gate watches, and where they come from (`about`: plain, no times)."""

    rows: tuple[Row, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


def rows_of(records: pd.DataFrame) -> tuple[Row, ...]:
    """The rows of a `frame`: every headline cell under every judge but corruptions, in the frame's order.

    A classifier's clean accuracy is one row, however many threats it is judged under. Corruptions give an image a share
    and no verdict, and are not watched. Errors: `UserError` as `verdicts`, and where two cells have one name.
    """
    shown = records[records["headline"]]
    numbers, answers = summary(shown), verdicts(shown)
    if answers.empty:
        return ()
    keys = [*cell_columns(shown), "judge"]
    clean = shown[shown["judge"] == CLEAN].groupby("stage", observed=True)
    labels = {stage: of.drop_duplicates("image").set_index("image")["label"] for stage, of in clean}
    trust = numbers.drop_duplicates(["stage", "judge"]).set_index(["stage", "judge"])
    parts: list[tuple[pd.DataFrame, Estimate | None]] = [
        (part, None) for _, part in answers.groupby(keys, observed=True, sort=False, dropna=False)
    ]
    for cell, judge, right, of in estimated(shown):
        held = cell.loc[cell.index.repeat(len(right))].assign(judge=judge, image=right.index, right=right.to_numpy())
        parts.append((held, of))
    made = []
    for held, estimate in parts:
        part = held.sort_values("image")
        stage, judge = part["stage"].iloc[0], part["judge"].iloc[0]
        label = labels[stage].reindex(part["image"]).to_numpy(dtype=np.int16)
        made.append(replace(_row(part, label, trust.loc[(stage, judge)]), estimate=estimate))
    return _distinct(made)


def chosen(
    rows: Sequence[Row], encoders: Sequence[str] = (), schemes: Sequence[str] = (), judges: Sequence[str] = ()
) -> tuple[Row, ...]:
    """The rows of these names; without names all, but for the random encoder, a control that nobody deploys.

    Errors: `UserError` for a name that no row has.
    """
    for kind, names in (("encoder", encoders), ("scheme", schemes), ("judge", judges)):
        known = list(dict.fromkeys(getattr(row, kind) for row in rows))
        for name in names:
            if name not in known:
                raise unknown(f"--{kind}", kind, name, known)
    held = [row for row in rows if row.encoder in encoders or (not encoders and row.encoder != RANDOM)]
    held = [row for row in held if not schemes or row.scheme in schemes]
    return tuple(row for row in held if not judges or row.judge in judges)


def names(rows: Sequence[Row]) -> list[str]:
    """A name for every row: encoder, scheme, heading of the judge, and what else tells these rows apart."""
    threats = {row.threat for row in rows} - {NO_THREAT}
    sets, seeds = {row.data for row in rows}, {row.seed_text for row in rows}
    made = []
    for row in rows:
        parts = [row.encoder, row.scheme, heading(row.judge)]
        parts += [f"at {row.threat}"] if len(threats) > 1 and row.threat != NO_THREAT else []
        parts += [f"on {row.data}"] if len(sets) > 1 else []
        parts += [f"(seeds {row.seed_text})"] if len(seeds) > 1 else []
        made.append(" ".join(parts))
    return made


def write_baseline(path: str | Path, baseline: Baseline) -> None:
    """Write a baseline as parquet, whole or not at all; the same baseline gives the same bytes.

    Errors: `UserError` where the file cannot be written.
    """
    target = Path(path)
    version = ESTIMATED if any(row.estimate for row in baseline.rows) else VERSION
    schema = _SCHEMAS[version]
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in baseline.rows] for name in schema.names}
    columns["seeds"] = [json.dumps(dict(seeds), sort_keys=True) for seeds in columns["seeds"]]
    if version == ESTIMATED:
        columns["estimate"] = [json.dumps(to_table(of)) if of else "" for of in columns["estimate"]]
    about = json.dumps(baseline.about, sort_keys=True).encode()
    told = {b"robustcl.baseline": version, b"robustcl.about": about}
    table = pa.table(columns, schema=schema).replace_schema_metadata(told)
    with writable(target, "file"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target, lasting=True) as part:
            pq.write_table(table, part, compression="zstd")
            part.write_bytes(with_seal(part.read_bytes()))


def read_baseline(path: str | Path) -> Baseline:
    """The baseline in a file. Errors: `UserError` where it is missing, damaged, or no baseline."""
    if Path(path).is_dir():
        raise UserError(f"{path}: a folder, expected the file of a baseline")
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such file, expected a baseline; 'robustcl bless RUNS --baseline {path}' writes one"
        )
    try:
        content = Path(path).read_bytes()
        if not seal_holds(content):  # before pyarrow sees it, which may end the process over one wrong bit
            raise ValueError("not as it was written")
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            held = file.schema_arrow.metadata or {}
            version = held.get(b"robustcl.baseline", b"none")
            if version not in _SCHEMAS:
                found = version.decode(errors="replace")
                versions = " or ".join(known.decode() for known in _SCHEMAS)
                what = "not a baseline" if version == b"none" else f"a baseline of unknown version {found}"
                raise UserError(f"{path}: {what}, expected one of version {versions}, as 'robustcl bless' writes")
            check_size(file.metadata, Path(path))
            schema = _SCHEMAS[version]
            table = file.read().select(schema.names).cast(schema)
        held_rows = table.to_pylist()
        check_seen([[row[name] for name in _TEXT] for row in held_rows], str(path))
        rows = [_read(row) for row in held_rows]
        return Baseline(rows=tuple(rows), about=dict(json.loads(held.get(b"robustcl.about", b"{}"))))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated ({reason}), expected a whole baseline") from None


def _row(part: pd.DataFrame, label: NDArray[np.int16], trust: pd.Series) -> Row:
    """A row from its verdicts, one per image, in the order of the images."""
    first = part.iloc[0]
    clean = first["judge"] == CLEAN
    text: dict[str, Any] = {name: str(first[name]) for name in ("encoder", "scheme", "data", "judge", "protocol")}
    return Row(
        **text,
        norm=NO_THREAT if clean else str(first["norm"]),
        eps=NO_THREAT if clean else str(first["eps"]),
        seeds={name.removeprefix("seed_"): int(first[name]) for name in seed_columns(part) if first[name] >= 0},
        fingerprint=attack(str(trust["fingerprint"])),
        content=str(first.get("content", "")),
        reliability=str(trust["reliability"]),
        why=str(trust["why"]),
        image=part["image"].to_numpy(dtype=np.int32),
        label=label,
        right=part["right"].to_numpy(dtype=bool),
    )


def _distinct(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, each once: the judge's seed is in the name where it has to be, clean accuracies are not repeated."""
    bare = [replace(row, seeds={role: s for role, s in row.seeds.items() if role != "judge"}) for row in rows]
    counts = Counter(row.key for row in bare if row.judge != CLEAN)
    made: dict[tuple[Any, ...], Row] = {}
    for whole, short in zip(rows, bare, strict=True):
        row = whole if counts[short.key] > 1 else short
        if row.judge == CLEAN and row.key in made:
            continue
        if row.key in made:
            raise UserError(f"records: two cells are called {names([row])[0]}, expected one of each name")
        made[row.key] = row
    return tuple(made.values())


def _read(held: Mapping[str, Any]) -> Row:
    arrays: dict[str, type[Any]] = {"image": np.int32, "label": np.int16, "right": np.bool_}
    given = {name: np.asarray(held[name], dtype=kind) for name, kind in arrays.items()}
    empty = [name for name in _TEXT if not isinstance(held[name], str)]
    if empty:
        raise ValueError(f"{empty[0]} without text")
    if len({len(array) for array in given.values()}) != 1:
        raise ValueError("lists of unequal length")
    estimate = from_table(json.loads(held["estimate"])) if held.get("estimate") else None
    seeds = dict(json.loads(held["seeds"]))
    if not all(type(seed) is int for seed in seeds.values()):
        raise ValueError("seeds that are no numbers")
    return Row(**{**held, **given, "seeds": seeds, "estimate": estimate})
