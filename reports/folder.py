"""The only owner of a run folder as its readers see it: the suite, the records, the stages and their files."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustcl.models.errors import UserError
from robustcl.reports.frame import CORRUPTIONS, frame, suite_of
from robustcl.reports.seeds import pooled
from robustcl.reports.table import Table, tables
from robustcl.reports.verdicts import verdicts

STAGE_SCHEMA = 1
Arrays = dict[str, NDArray[Any]]
_ENTRY = ("probe", "encoder", "method", "scheme", "data", "seeds")


@dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """What a finished probe wrote: `arrays` by name, and of which encoder, scheme and data (empty where of none)."""

    probe: str
    encoder: str
    method: str
    scheme: str
    data: str
    seeds: dict[str, int]
    part: dict[str, Any]
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run folder. What is not finished, or was not kept beside its records, is None or empty, never made up.

    Errors: `UserError` where `root` is no run folder or a file in it is damaged.
    """

    root: Path

    @cached_property
    def suite(self) -> dict[str, Any]:
        """`suite.json`: `suite` (its name), `resolved` (what it says, every default filled in), `cells`."""
        return suite_of(self.root)

    @cached_property
    def records(self) -> pd.DataFrame:
        """The `frame` of all records; do not change it, all readers share it."""
        return frame(self.root)

    @cached_property
    def tables(self) -> list[Table]:
        """The `tables` of the records, published numbers beside them."""
        return tables(self.records, self.suite)

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The `pooled` numbers of all cells, those of the sweep included, under every judge but corruptions."""
        return pooled(self.records[self.records["judge"] != CORRUPTIONS])[0]

    @cached_property
    def answers(self) -> pd.DataFrame:
        """The `verdicts` of the cells of the table: one row per cell, judge and image."""
        return verdicts(self.records[self.records["headline"]])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The cells of the suite in its order, finished or not, as `suite.json` has them."""
        return [dict(cell) for cell in self.suite["cells"]]

    def stage(self, key: str) -> dict[str, Any] | None:
        """The `stage.json` of the finished stage with this key: kind, label, part, parents (role -> key), made.

        `made` says how it came about: git commit, versions, device, seconds, peak_memory (bytes).
        """
        found = sorted(self.root.glob(f"*/{key}/stage.json"))
        if not found:
            return None
        try:
            note = dict(json.loads(found[0].read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise UserError(f"{found[0]}: damaged or truncated, expected a whole JSON file") from None
        if note.get("schema", STAGE_SCHEMA) != STAGE_SCHEMA:
            raise UserError(f"{found[0]}: schema version {note['schema']!r} is unknown, expected {STAGE_SCHEMA}")
        return note

    def file(self, key: str, name: str) -> Path | None:
        """A file of the finished stage with this key, such as `curve.csv`."""
        found = sorted(self.root.glob(f"*/{key}/{name}"))
        return found[0] if found else None

    def lineage(self, key: str) -> dict[str, dict[str, Any]]:
        """The stage with this key and all it was built on, by key, parents first: each as `stage` gives it."""
        note = self.stage(key)
        if note is None:
            return {}
        made: dict[str, dict[str, Any]] = {}
        for parent in note["parents"].values():
            made |= self.lineage(parent)
        return made | {key: note}

    def curve(self, key: str) -> pd.DataFrame | None:
        """The training curve of the finished stage with this key, one row per epoch: the loss by its named terms."""
        path = self.file(key, "curve.csv")
        return None if path is None else pd.read_csv(path)

    def probes(self, name: str) -> list[Probed]:
        """What the finished probes of this name wrote, in the order of the suite; `part` is what their keys hold.

        `thumbnails`, in every run folder: `image` (n,) int32 positions in the official split, `label` (n,), `pixels`
        (n, c, h, w) uint8. What the others write say their files in `bench/probes`.
        """
        found = []
        for entry in self.suite.get("probes", []):
            path = self.file(entry["stage"], "arrays.npz") if entry["probe"] == name else None
            if path is not None:
                note, of = self.stage(entry["stage"]) or {}, {key: entry[key] for key in _ENTRY}
                found.append(Probed(**of, part=note["part"], arrays=_arrays(path)))
        return found


def _arrays(path: Path) -> Arrays:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile, zlib.error):
        raise UserError(f"{path}: damaged or truncated, expected the whole arrays of a probe") from None
