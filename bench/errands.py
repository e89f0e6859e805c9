"""The only owner of how another process is sent for a stage: what it is told as JSON, and what it answers."""

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustcl.bench.data import read_dataset
from robustcl.bench.library import Library
from robustcl.bench.offline import go_offline
from robustcl.bench.place import Place
from robustcl.bench.store import Stage, Store
from robustcl.bench.suite import described
from robustcl.models.errors import LostError, NumberError, UserError

_KINDS = {kind.__name__: kind for kind in (UserError, NumberError, LostError)}


def to_json(stage: Stage) -> dict[str, Any]:
    """A stage with its parents as what JSON can hold."""
    parents = {role: to_json(parent) for role, parent in stage.parents.items()}
    return {"kind": stage.kind, "part": stage.part, "parents": parents, "label": stage.label}


def from_json(held: Mapping[str, Any]) -> Stage:
    """The inverse of `to_json`."""
    parents = {role: from_json(parent) for role, parent in held["parents"].items()}
    return Stage(kind=held["kind"], part=held["part"], parents=parents, label=held["label"])


def directions(place: Place) -> dict[str, Any]:
    """The place as what JSON can hold."""
    return {
        "root": str(place.store.root.resolve()),
        "offline": place.offline,
        "data": [described(data) for data in place.library.datasets],
        "given": place.given,
        "files": {key: str(path) for key, path in place.files.items()},
        "device": place.device,
    }


def arrive(told: Mapping[str, Any]) -> Place:
    """The inverse of `directions`, in the process that was sent; data sets are loaded when they are asked for."""
    if told["offline"]:
        go_offline()
    return Place(
        store=Store(Path(told["root"])),
        library=Library([read_dataset(table, "data") for table in told["data"]]),
        files={key: Path(path) for key, path in told["files"].items()},
        given=told["given"],
        device=told["device"],
        offline=told["offline"],
    )


def answered(work: Callable[[], bool]) -> dict[str, Any]:
    """What `work` comes to, for `settled` in the process that asked."""
    try:
        return {"made": work()}
    except tuple(_KINDS.values()) as error:
        return {"error": type(error).__name__, "message": str(error)}
    except BrokenPipeError:
        raise
    except Exception:  # told to the process that asked, with its traceback
        return {"error": "Exception", "message": traceback.format_exc()}


def settled(answer: Mapping[str, Any]) -> bool:
    """Whether the stage is made, or False where another process works at it. Errors: those of the work."""
    if "error" in answer:
        raise _KINDS.get(answer["error"], RuntimeError)(answer["message"])
    return bool(answer["made"])


def environment() -> dict[str, str]:
    """The environment of a process that is to be sent: one torch thread each, and this checkout where it is one.

    Two threads on a busy two-core machine can be 30 times slower than one.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parent.parent
    if (root / "robustcl").is_dir():  # a checkout, which need not be installed
        env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return env
