"""The only owner of killing: work in a fork of this process, which SIGKILL ends at a chosen moment."""

import mmap
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch

from robustcl.models.errors import LostError

Ended = Literal["killed", "finished", "failed", "hangs"]
PATIENCE = 120  # seconds for what takes less than ten
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "shutil.rmtree"}


class Moment(NamedTuple):
    """When to kill: after so many seconds, or at an operation on files, counted from 1; the default is never.

    At a rename the file that was to be renamed is cut to its share `whole` first: the kill came while it was written.
    """

    seconds: float = PATIENCE
    operation: int = 0
    whole: float = 1.0


class Child:
    """A fork that does some work, writes what it prints into the file `said`, and may be killed."""

    def __init__(self, work: Callable[[], object], moment: Moment, said: Path, draws: int) -> None:
        self.moment, self.said, self.began = moment, said, time.monotonic()
        self._count = mmap.mmap(-1, 8)  # shared with the fork, so that it is known after a kill
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, as in robustcl.bench.forks
            self.pid = os.fork()
        if not self.pid:
            self._work(work, draws)

    @property
    def operations(self) -> int:
        """How many operations on files it and its own forks have done."""
        return int.from_bytes(self._count[:8], "little")

    @property
    def seconds(self) -> float:
        """How long it has been there."""
        return time.monotonic() - self.began

    def ended(self) -> Ended | None:
        """How it ended, None while it works; kills it when its time has come."""
        late = self.seconds >= self.moment.seconds
        if late:
            os.kill(self.pid, signal.SIGKILL)
        pid, status = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if not pid:
            return None
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            return "hangs" if self.moment.seconds >= PATIENCE and not self.moment.operation else "killed"
        return "finished" if code == 0 else "killed" if code == _LOST else "failed"

    def end(self) -> None:
        """Kill it now."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _work(self, work: Callable[[], object], draws: int) -> NoReturn:
        code = 1
        try:
            sys.stdout = sys.stderr = file = self.said.open("w", buffering=1)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            torch.manual_seed(draws)  # nothing may hang on torch's own generator, which every process has anew
            sys.addaudithook(self._hear)
            work()
            code = 0
        except LostError:  # the kill came to a process that shared the work
            code = _LOST
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not (event in _CHANGES or (event == "open" and _writes(given))):
            return
        count = self.operations + 1
        self._count[:8] = count.to_bytes(8, "little")
        if count != self.moment.operation:
            return
        if event == "os.rename" and self.moment.whole < 1 and Path(given[0]).is_file():
            os.truncate(given[0], int(Path(given[0]).stat().st_size * self.moment.whole))
        os.kill(os.getpid(), signal.SIGKILL)


_LOST = 3  # the exit code of the command line, too


def wait(child: Child) -> Ended:
    """How it ends."""
    while (ended := child.ended()) is None:
        time.sleep(0.001)
    return ended


def drawn(draws: random.Random, seconds: float, operations: int) -> Moment:
    """A moment of work that takes so long and so many operations: by time or by operation, half of them each."""
    if draws.random() < 0.5:
        return Moment(seconds=draws.uniform(0, seconds))
    whole = draws.choice([1.0, draws.random()])
    return Moment(operation=draws.randint(1, operations), whole=whole)


def _writes(given: tuple[Any, ...]) -> bool:
    """Whether an `open` may change a file; devices and pipes are none."""
    path, mode, flags = given
    if not isinstance(path, str | bytes | os.PathLike) or os.fsdecode(path).startswith("/dev/"):
        return False
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(letter in mode for letter in "wax+")
