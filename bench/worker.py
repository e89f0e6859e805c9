"""The only owner of the worker process: reads stages as JSON lines, makes them, answers with JSON lines."""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustcl.bench.data import read_dataset
from robustcl.bench.executors import from_json
from robustcl.bench.library import Library
from robustcl.bench.offline import go_offline
from robustcl.bench.place import Place
from robustcl.bench.stages import execute
from robustcl.bench.store import Store
from robustcl.models.errors import NumberError, UserError


def main(where: dict[str, Any]) -> None:
    """Serve until the standard input ends."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    if where["offline"]:
        go_offline()
    place = Place(
        store=Store(Path(where["root"])),
        library=Library([read_dataset(table, "data") for table in where["data"]]),
        files={key: Path(path) for key, path in where["files"].items()},
        given=where["given"],
        device=where["device"],
        offline=where["offline"],
    )

    def say(**words: Any) -> None:
        answers.write(json.dumps(words) + "\n")

    for line in _asked():
        try:
            asked = json.loads(line)
            here = replace(place, workers=asked["workers"])
            execute(from_json(asked["stage"]), here, lambda done, total: say(done=done, total=total))
            say(made=True)
        except (UserError, NumberError) as error:
            say(error=type(error).__name__, message=str(error))
        except BrokenPipeError:
            raise
        except Exception:  # told to the process that asked, with its traceback
            say(error="Exception", message=traceback.format_exc())


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
