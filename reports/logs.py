"""The only owner of reading what stages say of themselves (`log.jsonl`), when they are over or while they work."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustcl.bench.journal import NAME
from robustcl.reports.capsule import duration

_END = 1 << 16  # bytes of a log that say where its stage is

Event = Mapping[str, Any]
"""A line of a log: `time` (ISO, UTC), `event`, and what docs/observability.md says of that event."""


def events(path: Path, start: int = 0) -> tuple[list[Event], int]:
    """The events from byte `start` of a log on, and where the next one will begin; none where there is no log.

    Lines that a kill left torn are passed over; the last one, where it has no end yet, is left for the next call.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            held = file.read()
    except OSError:
        return [], start
    end = held.rfind(b"\n") + 1
    found = (_event(line) for line in held[:end].splitlines())
    return [event for event in found if event], start + end


def last_events(path: Path) -> list[Event]:
    """The last events of a log, however long it is."""
    try:
        size = path.stat().st_size
    except OSError:
        return []
    return events(path, max(0, size - _END))[0]


def attempt(said: Sequence[Event]) -> Sequence[Event]:
    """What the last process said that worked at the stage."""
    begun = [number for number, event in enumerate(said) if event["event"] == "started"]
    return said[begun[-1] :] if begun else said


def where(said: Sequence[Event]) -> str:
    """How far the stage is that said this, for people: `43 %, epoch 13 of 30`."""
    parts = [f"{share:.0%}" for _, share in _shares(said)[-1:]]
    epochs = [event for event in said if event["event"] in ("resumed", "step", "epoch")]
    parts += [f"epoch {event.get('epoch')} of {event.get('epochs')}" for event in epochs[-1:]]
    attacks = [event for event in said if event["event"] == "attack started"]
    parts += [f"{event.get('judge')} with {event.get('attack')}" for event in attacks[-1:]]
    return ", ".join(parts)


def kept(said: Sequence[Event]) -> str:
    """What the next attempt goes on from, in the same words, and "" for nothing: a part of an epoch is begun anew.

    `said` is of all attempts, as the last one may have died before it said what it went on from.
    """
    whole = [event for event in said if event["event"] != "step"]
    return where(whole) if any(share for _, share in _shares(whole)[-1:]) else ""


def left(said: Sequence[Event]) -> str:
    """How long it will take, as fast as it went since this attempt began."""
    points = _shares(said)
    if len(points) < 2 or points[-1][1] - points[0][1] < 0.005:
        return ""
    (begun, first), (now, share) = points[0], points[-1]
    rest = (now - begun).total_seconds() * (1 - share) / (share - first)
    return f"about {duration(max(0.0, rest - max(0.0, (datetime.now(UTC) - now).total_seconds())))} left"


def ago(time: str) -> float | None:
    """How many seconds ago that was, never less than 0, whatever was done to the clock; None for no time."""
    try:
        return max(0.0, (datetime.now(UTC) - _read(time)).total_seconds())
    except (ValueError, OverflowError):
        return None


class Logs:
    """The logs of all stages in a run folder, as they grow; without `old`, from now on."""

    def __init__(self, root: Path, *, old: bool = True) -> None:
        self.root = root
        self.labels: dict[str, str] = {}
        self.read = {} if old else {key: path.stat().st_size for key, path in self._paths().items()}

    def new(self) -> list[tuple[str, Event]]:
        """What was said since the last call, in order for each stage: its key and an event.

        `labels` has the label of every stage that has said one.
        """
        said = []
        for key, path in sorted(self._paths().items()):
            found, self.read[key] = events(path, self.read.get(key, 0))
            for event in found:
                if event["event"] == "started":
                    self.labels[key] = str(event.get("label", key))
                said.append((key, event))
        return said

    def _paths(self) -> dict[str, Path]:
        """The log of every stage, finished ones and those in their hidden folders, by key."""
        return {path.parent.name.removeprefix("."): path for path in self.root.glob(f"*/*/{NAME}")}


def _event(line: bytes) -> Event | None:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(held, dict) and isinstance(held.get("time"), str) and isinstance(held.get("event"), str)
    return held if known else None


def moment(event: Event) -> float:
    """When that was, in seconds since 1970; 0 for no time."""
    try:
        return _read(event["time"]).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def words(event: Event) -> str:
    """An event in a line for people: `epoch: epoch 3, epochs 30, ...`."""
    held = {key: part for key, part in event.items() if key not in ("time", "event", "curve", "label")}
    curve = event.get("curve")
    held |= curve if isinstance(curve, dict) else {}
    told = (f"{key} {f'{part:.4g}' if isinstance(part, float) else part}" for key, part in held.items())
    return f"{event['event']}: {', '.join(told)}"


def _shares(said: Sequence[Event]) -> list[tuple[datetime, float]]:
    """When how much of the stage was done."""
    found = []
    for event in said:
        try:
            of = event["event"]
            if of == "started" and not event["resumed"]:
                share = 0.0
            elif of in ("progress", "interrupted", "failed"):
                share = event["done"] / event["total"]
            elif of in ("resumed", "epoch"):
                share = event["epoch"] / event["epochs"]
            elif of == "step":
                share = (event["epoch"] - 1 + event["step"] / event["steps"]) / event["epochs"]
            else:
                continue
            found.append((_read(event["time"]), min(1.0, max(0.0, share))))
        except (KeyError, TypeError, ValueError, ArithmeticError):  # not as we wrote it
            continue
    return found


def _read(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC)
