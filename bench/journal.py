"""The only owner of what a stage says while it works: `log.jsonl` in its folder, JSON lines that are only appended to.

docs/observability.md has every field. A log is no result: it is in no key, and what the disk refuses of it is left out,
since a stage that can go on should. Whatever stops the stage for the same reason is told by the stage.
"""

import json
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import robustcl

NAME = "log.jsonl"
PAUSE = 5.0  # seconds without a line after which a pulse is written
PULSES = ("step", "progress")  # what may be said at any rate


class Journal:
    """The log of the stage that is made in `folder`; `report` is told how much of the stage is done."""

    def __init__(self, folder: Path, report: Callable[[int, int], None]) -> None:
        self.path, self.report = folder / NAME, report
        self.began, self.last = time.monotonic(), -math.inf
        self.reached: dict[str, int] = {}

    @property
    def seconds(self) -> float:
        """How long this process has worked at the stage."""
        return round(time.monotonic() - self.began, 3)

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. Pulses are for loops: one is left out where something was said in the last seconds."""
        now = time.monotonic()
        if event in PULSES:
            if now - self.last < PAUSE:
                return
        else:
            fields |= memory()
        self.last = now
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        text = json.dumps(_plain(line), ensure_ascii=False, allow_nan=False)
        with suppress(OSError):
            _append(self.path, text.encode(errors="backslashreplace") + b"\n")

    def moved(self, done: int, total: int) -> None:
        """So much of the stage is done."""
        self.reached = {"done": done, "total": total}
        self.write("progress", **self.reached)
        self.report(done, total)

    def end(self, error: BaseException) -> None:
        """Say what ended the stage, a failure or whoever stopped it, and how far it had come."""
        said, stands = (str(error).splitlines() or [""])[0], {"seconds": self.seconds, **self.reached}
        if isinstance(error, Exception):
            self.write("failed", kind=type(error).__name__, reason=said, **stands)
        else:
            self.write("interrupted", reason=said or "Ctrl-C or SIGTERM", **stands)


@contextmanager
def logged(folder: Path, label: str, report: Callable[[int, int], None], **where: Any) -> Iterator[Journal]:
    """The journal of a stage of this label, from its first line to the one that says how it ended.

    `where` is more to say in the first line. An attempt that goes on from another one appends to what that one said.
    """
    held = Journal(folder, report)
    who = {"host": socket.gethostname(), "pid": os.getpid(), "version": robustcl.__version__}
    resumed = next((folder / "progress").glob("*"), None) is not None
    held.write("started", label=label, **who, **where, resumed=resumed)
    try:
        yield held
    except BaseException as error:
        held.end(error)
        raise
    held.write("finished", seconds=held.seconds)


def memory() -> dict[str, int]:
    """The most memory that this process has had, in bytes, and the most of its CUDA device where it uses one."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    found = {"peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
    torch = sys.modules.get("torch")  # what has not imported it uses no device
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_cuda_memory"] = torch.cuda.max_memory_allocated()
    return found


def _append(path: Path, line: bytes) -> None:
    """Append a line in one piece, below one that a killed process left torn."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, b"\n" * torn + line)
    finally:
        os.close(file)


def _plain(held: Any) -> Any:
    """What JSON has words for: what is not a finite number becomes null."""
    if isinstance(held, dict):
        return {str(key): _plain(part) for key, part in held.items()}
    return None if isinstance(held, float) and not math.isfinite(held) else held
