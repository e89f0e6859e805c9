"""The only owner of stages and their directories: `<runs>/<kind>/<key>/` appears whole or not at all.

In the key: everything that changes a number. Beside it, in `stage.json`: where, when and with what it was made.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from robustcl.bench import locks
from robustcl.bench.ground import firm
from robustcl.models.errors import UserError
from robustcl.models.value import digest
from robustcl.models.whole import intact, sealed, settle, sha256, writable, writing

SCHEMA = 1
_OURS = (".locks", ".suite.json.part")  # what a kill may leave of a claim, before there is a suite.json
_PLACE = ("encoder", "scheme", "data", "norm", "eps")  # where a cell stands in a table


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A piece of work: its kind, what it is (plain), and the stages it builds on. `label` is for people alone."""

    kind: str
    part: Mapping[str, Any]
    parents: Mapping[str, "Stage"] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def key(self) -> str:
        """The hash of kind, part and parents: 16 hexadecimal digits."""
        parents = {role: parent.key for role, parent in self.parents.items()}
        return digest({"kind": self.kind, "part": self.part, "parents": parents})


class Store:
    """A run folder. Errors: `UserError` where it cannot be written or what it holds cannot be read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: Stage) -> Path:
        """Where a finished stage lies."""
        return self.root / stage.kind / stage.key

    def hidden(self, stage: Stage) -> Path:
        """Where a stage lies while it is made."""
        return self.root / stage.kind / f".{stage.key}"

    def has(self, stage: Stage) -> bool:
        """Whether the stage is finished."""
        return self.folder(stage).is_dir()

    def finished(self, stages: Iterable[Stage]) -> set[str]:
        """The keys of those that are finished: one look at the folder of each kind, however many stages there are."""
        return self._with(stages, "")

    def begun(self, stages: Iterable[Stage]) -> set[str]:
        """The keys of those that were begun and are not finished, found in the same way."""
        return self._with(stages, ".")

    def _with(self, stages: Iterable[Stage], mark: str) -> set[str]:
        wanted = [(stage.kind, stage.key) for stage in stages]
        there: dict[str, set[str]] = {}
        for kind in {kind for kind, _ in wanted}:
            with suppress(FileNotFoundError), os.scandir(self.root / kind) as entries:
                there[kind] = {entry.name for entry in entries if entry.is_dir()}
        return {key for kind, key in wanted if f"{mark}{key}" in there.get(kind, ())}

    def file(self, stage: Stage, name: str) -> Path:
        """A file of a finished stage. Errors: `UserError` where it is missing or not as it was written."""
        path = self.folder(stage) / name
        written = self.note(stage)["files"].get(name)
        if written is None or not path.is_file():
            raise UserError(f"{path}: missing, expected it beside stage.json; remove the folder to make it anew")
        if sha256(path) != written:
            raise UserError(f"{path}: not as it was written (truncated or changed); remove the folder to make it anew")
        return path

    def note(self, stage: Stage) -> dict[str, Any]:
        """The stage's `stage.json`."""
        path = self.folder(stage) / "stage.json"
        try:
            found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            raise UserError(f"{path}: missing or truncated; remove the folder to make it anew") from None
        if found.get("schema") != SCHEMA:
            raise UserError(f"{path}: schema {found.get('schema')}, expected {SCHEMA}; by another robustcl version")
        if found.get("key") != stage.key:
            raise UserError(f"{path}: key {found.get('key')}, expected {stage.key}")
        if not intact(found) or not isinstance(found.get("files"), dict) or not isinstance(found.get("made"), dict):
            raise UserError(f"{path}: not as it was written (changed); remove the folder to make it anew")
        return found

    def make(self, stage: Stage, work: Callable[[Path], Mapping[str, Any]], *, wait: bool = True) -> bool:
        """Let `work` fill a hidden folder, then rename it. Who comes second waits, and finds it done.

        `work` gets the hidden folder, with what an interrupted attempt left there, and returns what to note beside
        the key. What it keeps for a restart lies in `progress/` and is dropped at the end. Without `wait` the answer is
        False where another process works at the stage.
        """
        with writable(self.root), self._claimed(stage.kind, stage.key, wait=wait) as mine:
            if not mine:
                return False
            hidden = self.hidden(stage)
            # First, as this makes the cache of a network file system look at the folder anew.
            hidden.mkdir(parents=True, exist_ok=True)
            if self.has(stage):
                with suppress(OSError):
                    hidden.rmdir()
                return True
            for left in [path for path in hidden.rglob(".*") if path.is_file()]:
                left.unlink(missing_ok=True)  # half written when a process was killed; who assists may still be at it
            if not (hidden / "stage.json").exists():  # else it was made, and its process died before the rename
                made = work(hidden)
                for path in hidden.iterdir():  # what is noted is whole, also after the machine lost its power
                    settle(path)
                write_json(hidden / "stage.json", sealed(_noted(stage, hidden, made)))
            if (hidden / "progress").exists():
                shutil.rmtree(hidden / "progress")
            settle(hidden)
            hidden.rename(self.folder(stage))
            settle(hidden.parent)
            return True

    def holder(self, kind: str, key: str) -> locks.Holder | None:
        """Who works at a stage, or left it undone; None for neither."""
        return locks.holder(self._lock(kind, key))

    @contextmanager
    def beside(self, stage: Stage) -> Iterator[Path]:
        """A folder for a process that helps another one with a stage: it reads the progress, what it writes is lost."""
        with TemporaryDirectory() as folder:
            (Path(folder) / "progress").symlink_to(self.hidden(stage).resolve() / "progress")
            yield Path(folder)

    def _lock(self, *name: str) -> Path:
        return self.root / ".locks" / "-".join(name)

    def _claimed(self, *name: str, wait: bool = True) -> AbstractContextManager[bool]:
        path = self._lock(*name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return locks.claimed(path, wait=wait)

    def claim_suite(
        self,
        name: str,
        resolved: Mapping[str, Any],
        cells: list[dict[str, Any]],
        probes: Sequence[Any] = (),
        stages: Sequence[Stage] = (),
    ) -> None:
        """Write `suite.json`, which readers start from. Errors: `UserError` where the folder is another suite's."""
        self.suite(name)  # which refuses, before the claim is laid down in a folder of somebody else's
        firm(self.root)
        with writable(self.root), self._claimed("suite"):
            self.suite(name)
            self._enter(name, resolved, cells, probes, stages)

    def suite(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Cells and probes of `suite.json`, none in a new folder. Errors: `UserError` where it is another suite's."""
        path = self.root / "suite.json"
        if path.exists():
            held = _suite(path)
            if held["suite"] != name:
                raise UserError(
                    f"{self.root}: written by suite '{held['suite']}', expected '{name}'; choose another --runs folder"
                )
            return {key: list(held[key]) for key in ("cells", "probes")}
        with writable(self.root):
            if self.root.exists() and any(child.name not in _OURS for child in self.root.iterdir()):
                raise UserError(f"{self.root}: not empty and not a run folder, expected a new one")
        return {"cells": [], "probes": []}

    def add(self, name: str, cells: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]] = ()) -> None:
        """Enter cells and probes into `suite.json`; a cell for the same place of the table replaces the one there.

        Errors: as `claim_suite`.
        """
        self.suite(name)
        if not (self.root / "suite.json").exists():
            firm(self.root)
        with writable(self.root), self._claimed("suite"):
            held = self.suite(name)
            found = {tuple(cell[key] for key in _PLACE): cell for cell in [*held["cells"], *cells]}
            looked = {probe["stage"]: probe for probe in [*held["probes"], *probes]}
            self._enter(name, {}, list(found.values()), list(looked.values()))

    def _enter(
        self,
        name: str,
        resolved: Mapping[str, Any],
        cells: Sequence[dict[str, Any]],
        probes: Sequence[Any],
        stages: Sequence[Stage] = (),
    ) -> None:
        """Write `suite.json`, for who has its claim: two that write at once would tear it."""
        what = {"schema": SCHEMA, "suite": name, "resolved": resolved, "cells": list(cells), "probes": list(probes)}
        write_json(self.root / "suite.json", sealed({**what, "stages": [_entry(stage) for stage in stages]}))


def write_json(path: Path, held: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all, also where the machine then loses its power."""
    with writing(path, lasting=True) as part:
        part.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _entry(stage: Stage) -> dict[str, Any]:
    parents = list(dict.fromkeys(parent.key for parent in stage.parents.values()))
    return {"kind": stage.kind, "key": stage.key, "label": stage.label, "parents": parents}


def _noted(stage: Stage, folder: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """What `stage.json` says."""
    held = [path for path in sorted(folder.iterdir()) if path.is_file()]
    parents = {role: parent.key for role, parent in stage.parents.items()}
    what = {"kind": stage.kind, "key": stage.key, "label": stage.label, "part": stage.part, "parents": parents}
    return {"schema": SCHEMA, **what, "files": {path.name: sha256(path) for path in held}, "made": made}


def _suite(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not intact(held):
            raise ValueError
        found = {"suite": str(held["suite"]), "cells": list(held["cells"]), "probes": list(held.get("probes", []))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        wrong = "truncated, changed or not a suite's"
        raise UserError(f"{path}: {wrong}; remove it or choose another --runs folder") from None
    if held.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {held.get('schema')}, expected {SCHEMA}; by another robustcl version")
    return found
