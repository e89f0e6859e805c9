"""The only owner of a run folder as its readers see it: the suite, the records, the stages and their files."""

import glob
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from robustcl.models.arrays import read_arrays
from robustcl.models.errors import UserError
from robustcl.models.naming import check_seen, is_file_name
from robustcl.reports.answers import Answers, heard
from robustcl.reports.frame import CORRUPTIONS, Cells, frame, shaped, suite_of
from robustcl.reports.seeds import pooled
from robustcl.reports.table import Table, tables
from robustcl.reports.verified import NOTE, note, verified

Arrays = dict[str, NDArray[Any]]
_NOTE = {"key": str, "kind": str, "label": str, "part": dict, "parents": dict, "made": dict}
_EMPTY = {key: kind() for key, kind in _NOTE.items()}
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
    def finished(self) -> Cells:
        """The finished cells, whose records are read when asked for."""
        return Cells.of(self.root)

    @cached_property
    def answers(self) -> Answers:
        """What the judges say of every finished cell: all that most readers need, and a fiftieth of the records."""
        return heard(self.finished)

    @cached_property
    def records(self) -> pd.DataFrame:
        """The `frame` of all records at once; do not change it, all readers share it."""
        return frame(self.root)

    @cached_property
    def tables(self) -> list[Table]:
        """The `tables` of the answers, published numbers beside them."""
        return tables(self.answers, self.suite)

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The `pooled` numbers of all cells, those of the sweep included, under every judge but corruptions."""
        found = pooled(self.answers)[0]
        return found[found["judge"] != CORRUPTIONS].reset_index(drop=True)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The cells of the suite in its order, finished or not, as `suite.json` has them."""
        return [dict(cell) for cell in self.suite["cells"]]

    def stage(self, key: str) -> dict[str, Any] | None:
        """The `stage.json` of the finished stage with this key: kind, label, part, parents (role -> key), made.

        `made` says how it came about: git commit, versions, device, seconds, peak_memory (bytes).
        """
        path = self._path(key, NOTE)
        if path is None:
            return None
        held = _EMPTY | {"key": key} | shaped(note(path.parent), _NOTE, path)
        check_seen(held, str(path))
        shaped(held["parents"], dict.fromkeys(held["parents"], str), path)
        return held

    def file(self, key: str, name: str) -> Path | None:
        """A file of the finished stage with this key, such as `curve.csv`, as it was written.

        Errors: `UserError` for what is no key, and for a file that has changed.
        """
        path = self._path(key, name)
        return verified(path) if path else None

    def _path(self, key: str, name: str) -> Path | None:
        if not is_file_name(key):
            raise UserError(f"{self.root}: {key!r} is no stage, expected its key, a folder in this one")
        found = sorted(self.root.glob(f"*/{glob.escape(key)}/{name}"))
        return found[0] if found else None

    def lineage(self, key: str) -> dict[str, dict[str, Any]]:
        """The stage with this key and all it was built on, by key, parents first: each as `stage` gives it."""
        made: dict[str, dict[str, Any]] = {}
        self._before(key, (), made)
        return made

    def _before(self, key: str, below: tuple[str, ...], made: dict[str, dict[str, Any]]) -> None:
        """Enter a stage and what it was built on into `made`, parents first, each once."""
        if key in below:
            raise UserError(f"{self.root}: stage {key} is built on itself, expected stages in no circle")
        stage = None if key in made else self.stage(key)
        if stage is not None:
            for parent in stage["parents"].values():
                self._before(parent, (*below, key), made)
            made[key] = stage

    def curve(self, key: str) -> pd.DataFrame | None:
        """The training curve of the finished stage with this key, one row per epoch: the loss by its named terms."""
        path = self.file(key, "curve.csv")
        try:
            return None if path is None else pd.read_csv(path)
        except (OSError, ValueError) as error:  # pandas' errors of reading, and text that is none
            raise UserError(f"{path}: damaged ({error}), expected a training curve") from None

    def probes(self, name: str) -> list[Probed]:
        """What the finished probes of this name wrote, in the order of the suite; `part` is what their keys hold.

        `thumbnails`, in every run folder: `image` (n,) int32 positions in the official split, `label` (n,), `pixels`
        (n, c, h, w) uint8. What the others write say their files in `bench/probes`.
        """
        found = []
        for held in self.suite.get("probes", []):
            entry = shaped(held, {"stage": str, **dict.fromkeys(_ENTRY, str), "seeds": dict}, self.root / "suite.json")
            path = self.file(entry.get("stage", ""), "arrays.npz") if entry.get("probe") == name else None
            if path is not None:
                of = {key: entry.get(key, "") for key in _ENTRY}
                part = (self.stage(entry["stage"]) or _EMPTY)["part"]
                found.append(Probed(**of, part=part, arrays=arrays_of(path)))
        return found


def arrays_of(path: Path) -> Arrays:
    """The arrays that a probe wrote. Errors: `UserError` where they are damaged."""
    try:
        return read_arrays(path)
    except ValueError:
        raise UserError(f"{path}: damaged or truncated, expected the whole arrays of a probe") from None
