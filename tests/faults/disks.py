"""The only owner of disks that refuse: a command in a fork whose file operations fail, or whose files may not grow."""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from zlib import crc32

from robustcl import cli

WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock", "os.utime")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Ended(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    error: str


class Operation(NamedTuple):
    """A file operation, by what it does to which path below the watched folder."""

    event: str
    path: str


def run(words: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Ended:
    """A command of robustcl in a fork of this process, after `prepare` was called there."""
    pipes = [os.pipe() for _ in range(2)]
    child = os.fork()
    if not child:
        _serve(words, prepare, [writes for _, writes in pipes])
    said = ["", ""]

    def listen(number: int) -> None:
        with os.fdopen(pipes[number][0], errors="replace") as answers:
            said[number] = answers.read()

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(2)]
    for (_, writes), thread in zip(pipes, threads, strict=True):
        os.close(writes)
        thread.start()
    for thread in threads:
        thread.join()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *said)


def limit(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def failing(
    root: Path, number: int, spared: set[Operation], note: Path, *, reads: bool = False, every: int = 1
) -> Callable[[], None]:
    """The first operation below `root` that is not in `spared` fails with the error `number`; `note` says which.

    What is opened to be read is left alone, or with `reads` nothing else is touched. With `every` it is one in so many
    operations, always the same ones.
    """
    base, failed = str(root.resolve()), [False]

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if failed[0] or event not in WRITES:
            return
        found = _operation(base, event, given)
        if found is None or found in spared or (event == "open" and bool(given[2] & _WRITING) == reads):
            return
        if (reads and event != "open") or crc32("".join(found).encode()) % every:
            return
        failed[0] = True
        with note.open("a") as file:
            file.write(f"{found.event}\t{found.path}\n")
        raise OSError(number, os.strerror(number))

    return lambda: sys.addaudithook(hook)


def noted(note: Path) -> set[Operation]:
    """The operations that have failed so far."""
    lines = note.read_text().splitlines() if note.exists() else []
    return {Operation(*line.split("\t")) for line in lines}


def _operation(base: str, event: str, given: tuple[Any, ...]) -> Operation | None:
    """What an event of the interpreter says, or None for one that is elsewhere."""
    place = given[0]
    if event == "fcntl.flock":
        place = Path(f"/proc/self/fd/{place if isinstance(place, int) else place.fileno()}").readlink()
    if not isinstance(place, str | bytes | os.PathLike):
        return None
    path = os.path.abspath(os.fsdecode(place))  # noqa: PTH100 (a link stays what it is)
    return Operation(event, _plain(os.path.relpath(path, base))) if path.startswith(base + "/") else None


def _plain(path: str) -> str:
    """A path without the random part of a temporary name."""
    parts = path.split("/")
    return "/".join(part[:-8] if part.startswith((".writing-", "ground-")) else part for part in parts)


def _serve(words: Sequence[str], prepare: Callable[[], None], files: Sequence[int]) -> NoReturn:
    code: object = 1
    try:
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        sys.argv = ["robustcl", *words]
        for number in (signal.SIGINT, signal.SIGHUP):  # which nohup, and a shell in the background, have ignored
            signal.signal(number, signal.SIG_DFL)
        prepare()
        cli.main()
        code = 0
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
