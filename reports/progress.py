"""The only owner of how far runs are: the state of every stage of a run folder, without disturbing who works there.

What is finished lies in the store, who works at what is told by the claims, and the rest by the ends of the logs.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustcl.bench.journal import NAME
from robustcl.bench.store import Store
from robustcl.models.errors import UserError
from robustcl.reports.capsule import duration
from robustcl.reports.frame import suite_of
from robustcl.reports.logs import ago, attempt, kept, last_events, left, where

DEPTH = 3  # how many folders below the one that was named a run folder may lie
SILENT = 60.0  # seconds without a line of its log after which a stage is said to be silent
_STAGE = re.compile(r"([a-z]+)/\.?([0-9a-f]{16})")


@dataclass(frozen=True, kw_only=True)
class StageState:
    """A stage and its `state`: finished, running, failed, interrupted, waiting for its parents, ready, or damaged.

    `told` says more, `age` is for how many seconds that has been so, `seconds` is how long a finished stage took.
    """

    kind: str
    key: str
    label: str
    parents: Sequence[str] = ()
    state: str = "ready"
    told: str = ""
    age: float | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f" in {duration(self.seconds)}"
        since = "" if self.age is None else f"for {duration(self.age)}"
        if since and self.state != "running":
            since = since.removeprefix("for ") + " ago"
        when = f", {since}" if took else f" {since}" if since else ""
        told = f"{'' if self.state == 'waiting' else ':'} {self.told}" if self.told else ""
        return f"{self.state}{took}{when}{told}"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run folder and its stages, parents first; `unnamed` stages lie there too and are none of the suite."""

    root: Path
    suite: str
    stages: Sequence[StageState]
    unnamed: int = 0

    def __str__(self) -> str:
        states, ages = [stage.state for stage in self.stages], [s.age for s in self.stages if s.age is not None]
        done = states.count("finished")
        now = [state for state in ("running", "failed", "interrupted") if state in states]
        rest = "" if done == len(states) else now[0] if now else "stopped" if done else "not begun"
        last = f"last change {duration(min(ages))} ago" if ages else ""
        head = f"{self.root}: suite {self.suite}, {done} of {len(states)} stages finished"
        return ", ".join(filter(None, [head, rest, last]))


def listing(folder: Path) -> str:
    """A line for each stage of a run folder; of another folder a line for each run folder below it.

    There, lines below a run folder are its stages that run, failed, or were interrupted. A folder below it that is
    damaged, or another program's, has a line that says so. Errors: `UserError` where `folder` itself is.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a run folder, or one that holds some")
    if (folder / "suite.json").exists():
        run = state_of(folder)
        wide = max((len(stage.label) for stage in run.stages), default=0)
        rows = [f"  {stage.label:<{wide}}  {_with_note(stage, folder)}" for stage in run.stages]
        more = f"  {run.unnamed} more that the suite does not name, or no longer"
        return _lines([str(run), *rows, *([more] if run.unnamed else [])])
    lines = [line for path in _run_folders(folder, DEPTH) for line in _in_short(path)]
    return _lines(lines or [f"{folder}: no run folder in it"])


def state_of(root: Path) -> RunState:
    """How far the run in a folder is. Errors: `UserError` where it is no run folder, or its `suite.json` is damaged."""
    suite, store = suite_of(root), Store(root)
    there = {f"{kind.name}/{path.name}" for kind in _folders(root) for path in kind.iterdir()}
    found = [StageState(kind=at[1], key=at[2], label="") for at in map(_STAGE.fullmatch, sorted(there)) if at]
    planned = _planned(suite, root / "suite.json")
    stages = planned or [replace(stage, label=_label(root, stage)) for stage in found]
    missing = {stage.key: stage.label for stage in stages if f"{stage.kind}/{stage.key}" not in there}
    named = {stage.key for stage in stages}
    return RunState(
        root=root,
        suite=str(suite.get("suite")),
        stages=[_seen(stage, store, there, missing) for stage in stages],
        unnamed=sum(stage.key not in named for stage in found),
    )


def _planned(suite: Mapping[str, Any], path: Path) -> list[StageState]:
    """The stages that a suite has; none where what wrote it did not say, as for given classifiers.

    Errors: `UserError` where they are damaged.
    """
    try:
        rows = [(f"{of['kind']}/{of['key']}", str(of["label"]), of["parents"]) for of in suite.get("stages", [])]
        names = [_STAGE.fullmatch(name) for name, _, _ in rows]
        held = [
            StageState(kind=at[1], key=at[2], label=label, parents=[str(key) for key in parents])
            for at, (_, label, parents) in zip(names, rows, strict=True)
            if at
        ]
    except (KeyError, TypeError):
        held, rows = [], [("", "", [])]
    if len(held) != len(rows):
        raise UserError(f"{path}: damaged, expected kind, key, label and parents of every stage")
    return held


def _seen(stage: StageState, store: Store, there: set[str], missing: Mapping[str, str]) -> StageState:
    """The stage with its state."""
    if stage.key not in missing:
        return replace(stage, state="finished", age=_since_change(store.root / stage.kind / stage.key))
    holder, hidden = store.holder(stage.kind, stage.key), f"{stage.kind}/.{stage.key}"
    every = last_events(store.root / hidden / NAME) if hidden in there else []
    said = attempt(every)
    if holder is not None and holder.alive:
        still = ago(str(said[-1].get("time"))) if said else None
        silent = f"silent for {duration(still)}" if still is not None and still > SILENT else ""
        told = ", ".join(filter(None, [where(said), left(said), silent, f"on {holder.host}, pid {holder.pid}"]))
        return replace(stage, state="running", told=told, age=ago(holder.since))
    if hidden in there:
        last = said[-1] if said else {}
        age = ago(str(last.get("time")))
        if last.get("event") == "failed":
            return replace(
                stage, state="failed", told=str(last.get("reason")).removeprefix(f"{stage.label}: "), age=age
            )
        gone = f"its process on {holder.host}, pid {holder.pid}, is gone" if holder is not None else ""
        stands = f"goes on from {kept(every)}" if kept(every) else ""
        told = ", ".join(filter(None, [str(last.get("reason", "")) or gone, stands]))
        return replace(stage, state="interrupted", told=told, age=age)
    lacks = [missing[key] for key in stage.parents if key in missing]
    more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
    return replace(stage, state="waiting", told=f"for {lacks[0]}{more}") if lacks else stage


def _with_note(stage: StageState, root: Path) -> StageState:
    """A finished stage with what its `stage.json` says of its time, or that this is damaged; records may lack one."""
    note = root / stage.kind / stage.key / "stage.json"
    if stage.state != "finished" or not note.exists():
        return stage
    try:
        made = json.loads(note.read_text(encoding="utf-8"))["made"]
        return replace(stage, seconds=float(made["seconds"]) if "seconds" in made else None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return replace(stage, state="damaged", told="its stage.json; remove the folder to make it anew")


def _label(root: Path, stage: StageState) -> str:
    """What a stage that no suite names is called: by its note, or where there is none yet by its log."""
    folder = root / stage.kind
    try:
        return str(json.loads((folder / stage.key / "stage.json").read_text(encoding="utf-8"))["label"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        said = [*attempt(last_events(folder / f".{stage.key}" / NAME)), {}]
        return str(said[0].get("label") or f"{stage.kind} {stage.key}")


def _in_short(root: Path) -> list[str]:
    """A run folder in a line, with those of its stages below it that somebody may want to look after."""
    try:
        run = state_of(root)
    except UserError as error:
        return [str(error)]
    shown = [stage for stage in run.stages if stage.state in ("running", "failed", "interrupted")]
    return [str(run), *(f"  {stage.label}: {stage}" for stage in shown)]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    for path in _folders(folder) if depth else ():
        if (path / "suite.json").exists():
            yield path
        else:
            yield from _run_folders(path, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, but for hidden ones, links and those nobody may read."""
    try:
        found = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(Path(entry.path) for entry in found if not entry.name.startswith("."))


def _since_change(folder: Path) -> float | None:
    try:
        return max(0.0, time.time() - folder.stat().st_mtime)
    except OSError:
        return None


def _lines(lines: Sequence[str]) -> str:
    """Lines of their own, whatever names hold: what is not printable is shown as Python writes it."""
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
