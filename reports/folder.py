"""The only owner of a run folder as its readers see it: the suite, the records, the stages and their files."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.frame import CORRUPTIONS, frame, suite_of
from robustcl.reports.seeds import pooled
from robustcl.reports.table import Table, tables
from robustcl.reports.verdicts import verdicts


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
        """The `tables` of the records."""
        return tables(self.records)

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
            return dict(json.loads(found[0].read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise UserError(f"{found[0]}: damaged or truncated, expected a whole JSON file") from None

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
