"""The only owner of signals that end a command: the first one ends it in order, a second one at once."""

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

TEXT = "interrupted; what is finished stays, the same command goes on from there"
CODE = 130
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a scheduler, a terminal that is closed


def mind() -> None:
    """End like Ctrl-C at each of these signals; one that this process was told to ignore (nohup) stays ignored."""
    if threading.current_thread() is threading.main_thread():
        _set(_first)


def _set(answer: object) -> None:
    for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, answer)  # type: ignore[arg-type]


def _first(number: int, frame: FrameType | None) -> NoReturn:
    """Workers are stopped and hidden folders cleared while this goes up."""
    _set(_at_once)
    raise KeyboardInterrupt


def _at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing is cleared any more, and nothing has to be: what is visible is whole, and workers follow this process."""
    os.write(2, f"robustcl: {TEXT}\n".encode())
    os._exit(CODE)
