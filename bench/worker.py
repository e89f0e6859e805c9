"""The only owner of the worker process: reads stages as JSON lines, makes them, answers with JSON lines."""

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from robustcl.bench.errands import answered, arrive, from_json
from robustcl.bench.stages import execute


def main(told: dict[str, Any]) -> None:
    """Serve until the standard input ends."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    place = arrive(told)

    def say(**words: Any) -> None:
        answers.write(json.dumps(words) + "\n")

    for line in _asked():
        asked = json.loads(line)
        stage, here = from_json(asked["stage"]), replace(place, workers=asked["workers"])
        say(**answered(lambda: execute(stage, here, lambda done, total: say(done=done, total=total), wait=False)))  # noqa: B023


def _asked() -> Iterator[str]:
    """What is asked, line by line. This process ends with the one that asks, in the middle of its work too."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield lines.get()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the process that asked is gone: nobody is left to tell
        main(json.loads(sys.argv[1]))
