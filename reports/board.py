"""The only owner of curves for TensorBoard: what the logs of a run folder say, as event files that follow them.

They are written from the logs alone, so that who runs a stage, and where, is no matter. The same log makes the same
bytes: a run that goes on writes its files anew, and a board that shows them sees no point twice.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from robustcl.models.errors import UserError
from robustcl.reports.filenames import slug
from robustcl.reports.logs import Event, Logs, moment

NAME = "events.out.tfevents.robustcl"
_SPEED = ("images_per_second", "passes_per_second", "peak_memory", "peak_cuda_memory", "right")


class Board:
    """A folder of TensorBoard with a run for every stage of the run folder `runs` that has begun.

    Errors: `UserError` where tensorboard is not installed or the folder cannot be made.
    """

    def __init__(self, runs: Path, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise UserError("--tensorboard: not installed, expected pip install 'robustcl[tensorboard]'") from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--tensorboard {folder}: {error.strerror}, expected a writable folder") from None
        self.event, self.summary, self.writer = event_pb2.Event, summary_pb2.Summary, RecordWriter
        self.folder, self.logs, self.attacks = folder, Logs(runs), dict[str, int]()
        self.begun: set[Path] = set()

    def write(self) -> None:
        """Write what was said since the last call. Errors: `OSError`."""
        for key, said in groupby(self.logs.new(), lambda found: found[0]):
            label = self.logs.labels.get(key, key)
            path = self.folder / f"{slug(label)}-{key[:8]}" / NAME
            path.parent.mkdir(exist_ok=True)
            with path.open("ab" if path in self.begun else "wb") as file:
                self.begun.add(path)
                for _, event in said:
                    self._say(key, event, self.writer(file))

    def _say(self, key: str, event: Event, writer: Any) -> None:
        """One event of a stage as TensorBoard's: its numbers, all at one step."""
        when = moment(event)
        if event["event"] == "started":
            self.attacks[key] = 0
            writer.write(self.event(wall_time=when, file_version="brain.Event:2").SerializeToString())
        self.attacks[key] = self.attacks.get(key, 0) + (event["event"] == "attack finished")
        step = event.get("epoch") if event["event"] == "epoch" else self.attacks[key]
        values = [self.summary.Value(tag=tag, simple_value=number) for tag, number in curves(event)]
        if values and isinstance(step, int) and 0 <= step < 1 << 31:
            summary = self.summary(value=values)
            writer.write(self.event(wall_time=when, step=step, summary=summary).SerializeToString())


def export(runs: Path, folder: Path) -> list[Path]:
    """The curves of all that a run folder has logged, in a folder of TensorBoard; the files. Errors: `UserError`."""
    board = Board(runs, folder)
    try:
        board.write()
    except OSError as error:
        raise UserError(f"--tensorboard {folder}: {error.strerror or error}, expected a writable folder") from None
    return sorted(board.begun)


def curves(event: Event) -> Iterator[tuple[str, float]]:
    """The numbers of an event that make curves: those of an epoch over epochs, those of an attack over attacks."""
    if event["event"] not in ("epoch", "attack finished"):
        return
    terms = event.get("curve")
    found = {**(terms if isinstance(terms, dict) else {}), **{name: event.get(name) for name in _SPEED}}
    prefix = f"{event['judge']}/" if "judge" in event else ""
    for name, number in found.items():
        if name != "epoch" and isinstance(number, int | float) and abs(number) < 1e38:
            yield f"{prefix}{name}", float(number)
