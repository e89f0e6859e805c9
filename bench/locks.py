"""The only owner of claims: which process works at what in a store; a claim ends with its holder, however that ends."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple, TextIO

from robustcl.models.errors import UserError

_PAUSE = 0.2  # seconds between two tries
_BEAT = 10.0  # seconds between two signs of life of a holder
_FRESH = 60.0  # seconds after which no sign of life is due any more, whatever the network was busy with


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
    Errors: `UserError` where a process on another machine is seen to work at what this one was let have as well.
    """
    with path.open("a+") as lock:
        while not _locked(lock.fileno(), fcntl.LOCK_EX):
            if not wait:
                yield False
                return
            time.sleep(_PAUSE)
        _alone(path, lock)
        said = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lock.truncate(0)
        lock.write(json.dumps(said))
        lock.flush()
        os.fsync(lock.fileno())  # for other machines to read
        with _beating(lock.fileno()):
            yield True
        lock.truncate(0)  # not after an error: what was left undone says whose it was


def holder(path: Path) -> Holder | None:
    """Who holds the claim, or held it last and left its work undone; None for neither."""
    try:
        with path.open() as lock:
            if not os.fstat(lock.fileno()).st_size:  # given back: no lock is taken from under a claimer's nose
                return None
            return _said(lock, alive=not _locked(lock.fileno(), fcntl.LOCK_SH))
    except (OSError, ValueError):  # ValueError: no text, so of nobody's
        return None


def _said(lock: TextIO, *, alive: bool) -> Holder | None:
    try:
        lock.seek(0)
        said = json.loads(lock.read())
        return Holder(host=str(said["host"]), pid=int(said["pid"]), since=str(said["since"]), alive=alive)
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):  # torn, or of somebody else's
        return None


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _beating(file: int) -> Iterator[None]:
    """Signs of life for other machines, as changes of the lock file's time, until the block ends."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _alone(path: Path, lock: TextIO) -> None:
    """Errors: `UserError` where a holder on another machine goes on giving signs of life, though the lock is ours.

    One that died a moment ago left a fresh sign as well, but no further one follows. Times are those of the file
    system, which machines agree on; none of their own clocks is asked.
    """
    last = _said(lock, alive=True)
    if last is None or last.host == socket.gethostname():
        return
    sign = os.fstat(lock.fileno()).st_mtime
    with TemporaryFile(dir=path.parent) as new:
        now = os.fstat(new.fileno()).st_mtime
    patience = time.monotonic() + 2.5 * _BEAT
    while abs(now - sign) <= _FRESH and time.monotonic() < patience:
        time.sleep(_PAUSE)
        with path.open() as again:  # a network file system asks its server when a file is opened
            if os.fstat(again.fileno()).st_mtime != sign:
                raise UserError(
                    f"{path.parent}: process {last.pid} on {last.host} works at what {socket.gethostname()} was let "
                    "have as well, expected locks that reach other machines; mount the file system with them "
                    "(Lustre: flock, NFS: neither nolock nor local_lock), or use one machine"
                )
