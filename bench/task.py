"""The only owner of what a Ray worker does: it looks whether it sees what it is told of, and makes a stage or assists.

How far it is lies beside the progress of the stage, where the process that asked can see it.
"""

import json
import os
import socket
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from robustcl import __version__
from robustcl.bench.errands import answered, arrive, from_json
from robustcl.bench.place import Place, find_device
from robustcl.bench.stages import assist, execute
from robustcl.bench.store import write_json
from robustcl.models.errors import UserError

EVERY = 1.0  # seconds between two words on how far a stage is
REACHED = "progress/reached.json"  # in the folder of a stage that is being made


def errand(where: str, said: str, *, assists: bool) -> str:
    """Make a stage, or assist who makes it: the answer as JSON, as both arguments are."""
    worked, last = False, 0.0

    def work() -> bool:
        place, stage = _place(where), from_json(json.loads(said))

        def report(done: int, total: int) -> None:
            nonlocal worked, last
            if not worked or time.monotonic() - last > EVERY:
                worked, last = True, time.monotonic()
                write_json(place.store.hidden(stage) / REACHED, {"done": done, "total": total})

        if assists:
            assist(stage, place)
            return True
        return execute(stage, place, report, wait=False)

    return json.dumps({**answered(work), "worked": worked, "host": socket.gethostname()})


@lru_cache(maxsize=1)
def _place(where: str) -> Place:
    """The place as this machine sees it. Errors: `UserError` where it does not."""
    torch.set_num_threads(1)
    directed, host = json.loads(where), socket.gethostname()
    if directed["version"] != __version__:
        raise UserError(f"{host}: robustcl {__version__}, expected {directed['version']} as where the run was started")
    for path in (Path(directed["folder"]), Path(directed["root"], "suite.json")):
        if not path.exists():
            raise UserError(f"{path}: not there on {host}, expected a file system that all machines share")
    os.chdir(directed["folder"])  # paths in a suite may begin there
    find_device(directed["device"])
    return replace(arrive(directed), shared=True)
