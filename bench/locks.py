"""The only owner of claims: which process works at what in a store; a claim ends with its holder, however that ends."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

_PAUSE = 0.2  # seconds between two tries


class Holder(NamedTuple):
    """A process that holds a claim, or the last that did and died with it."""

    host: str
    pid: int
    since: str  # ISO, UTC
    alive: bool


@contextmanager
def claimed(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """The claim that the lock file at `path` stands for; False where another has it and this one does not wait.

    The kernel frees a lock when its holder dies, on this machine or, as file systems for clusters do it, on another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        while not _locked(lock.fileno(), fcntl.LOCK_EX):
            if not wait:
                yield False
                return
            time.sleep(_PAUSE)
        said = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lock.truncate(0)
        lock.write(json.dumps(said))
        lock.flush()
        yield True
        lock.truncate(0)  # not after an error: what was left undone says whose it was


def holder(path: Path) -> Holder | None:
    """Who holds the claim, or held it last and left its work undone; None for neither."""
    try:
        with path.open() as lock:
            if not lock.read(1):  # given back: nothing to look at, so that no lock is taken from under a claimer's nose
                return None
            alive = not _locked(lock.fileno(), fcntl.LOCK_SH)
            lock.seek(0)
            said = json.loads(lock.read())
            return Holder(host=str(said["host"]), pid=int(said["pid"]), since=str(said["since"]), alive=alive)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
