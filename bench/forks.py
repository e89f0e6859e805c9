"""The only owner of forked processes that share a piece of work: they have what this one has, nothing is pickled."""

import json
import os
import selectors
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from robustcl.models.errors import LostError, NumberError, UserError

Told = Callable[[int], None]
"""Told how much more is done."""
Work = Callable[[int, Told], None]
"""The part of this number, 0 and up."""


def possible() -> bool:
    """Whether a process that has computed gradients may be forked: torch keeps threads for them beside a device."""
    return hasattr(os, "fork") and not torch.accelerator.is_available()


def in_forks(work: Work, count: int, told: Told) -> None:
    """`work` for every number below `count`, each in a fork of one torch thread; `told` is called here.

    The forks are gone when this ends, however it ends, and when this process does. Ctrl-C is left to this process.
    Errors: the first `UserError`, `NumberError` or, as text, any other of a fork; `LostError` where one died.
    """
    with _children(work, count) as children, selectors.DefaultSelector() as waiting:
        for child in children:
            waiting.register(child.answers, selectors.EVENT_READ, child)
        while waiting.get_map():
            for key, _ in waiting.select():
                if _read(key.data, told):
                    waiting.unregister(key.fileobj)


@dataclass
class _Child:
    pid: int
    answers: int  # the end of the pipe that it answers into
    said: bytes = b""


def _read(child: _Child, told: Told) -> bool:
    """Whether the child is through, after what it has said by now."""
    piece = os.read(child.answers, 1 << 16)
    *lines, child.said = (child.said + piece).split(b"\n")
    for line in lines:
        said = json.loads(line)
        if "error" in said:
            kind = {"UserError": UserError, "NumberError": NumberError}.get(said["error"], RuntimeError)
            raise kind(said["message"])
        if "made" in said:
            return True
        told(said["done"])
    if not piece:
        raise LostError(
            "a process that shared the work died, out of memory?; what is finished stays where it is kept, "
            "the same command goes on from there"
        )
    return False


@contextmanager
def _children(work: Work, count: int) -> Iterator[list[_Child]]:
    life = os.pipe()
    made: list[_Child] = []
    try:
        for number in range(count):
            reads, writes = os.pipe()
            with warnings.catch_warnings():
                # Python warns of a fork beside threads. Those of torch idle here, and a fork computes in its own one.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if not pid:
                os.close(life[1])
                _serve(work, number, writes, life[0])
            os.close(writes)
            made.append(_Child(pid, reads))
        yield made
    finally:
        for child in made:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            os.close(child.answers)
        for end in life:
            os.close(end)


def _serve(work: Work, number: int, answers: int, life: int) -> NoReturn:
    """What a fork does: its part, with answers as JSON lines."""

    def say(**words: Any) -> None:
        told = json.dumps(words).encode() + b"\n"
        while told:
            told = told[os.write(answers, told) :]

    def follow() -> None:
        os.read(life, 1)  # nobody ever writes: this returns when the parent is gone
        os._exit(1)

    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        threading.Thread(target=follow, daemon=True).start()
        work(number, lambda count: say(done=count))
        say(made=True)
    except (UserError, NumberError) as error:
        say(error=type(error).__name__, message=str(error))
    except BaseException:  # told to the process that asked, with its traceback
        say(error="Exception", message=traceback.format_exc())
    finally:
        os._exit(0)
