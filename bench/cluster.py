"""The only owner of stages on a Ray cluster: a task per stage, told as JSON, on machines that see one run folder.

What a task makes lies in the store, and so does what a lost one has begun: a retry goes on from there.
"""

import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from robustcl import __version__
from robustcl.bench.agenda import Agenda
from robustcl.bench.errands import directions, environment, settled, to_json
from robustcl.bench.executors import Watch, default_workers, side_by_side, told
from robustcl.bench.place import Place
from robustcl.bench.store import Stage
from robustcl.bench.task import EVERY, REACHED, errand
from robustcl.models.errors import LostError, UserError, unknown
from robustcl.models.value import read, value

_RETRIES = 3  # of a stage whose worker was lost
_LOOK = 0.2  # seconds between two looks at a task that is to begin
_PATIENCE = 60.0  # seconds in which a file system has to show what another machine has written
_MEMORY = 128 * 2**20  # bytes for the objects of Ray, of which we have none
_WAYS = {  # how Ray is to behave
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # it tells of lost workers on the standard output, which is the table's
    "RAY_task_oom_retries": str(_RETRIES),  # for ever, by itself
}


@value
class Ray:
    """A cluster: the one at `address` (`auto`, or HOST:PORT of its head), else one of this machine while the run lasts.

    On `cuda` a stage takes so many `gpus`: with 0.5 two stages share a GPU.
    """

    address: str | None = None
    gpus: float = Field(default=1.0, gt=0)


def asked_for(executor: str, address: str | None, gpus: float | None, device: str) -> Ray | None:
    """The cluster that is asked for; None for the executor `local`. Errors: `UserError` for what cannot be."""
    if executor not in ("local", "ray"):
        raise unknown("--executor", "executor", executor, ["local", "ray"])
    if executor == "local":
        for name, given in {"--address": address, "--gpus-per-stage": gpus}.items():
            if given is not None:
                raise UserError(f"{name} {given}: is of a cluster, expected --executor ray with it")
        return None
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: with --executor ray, expected cpu or cuda: Ray says which GPU")
    if gpus is not None and device == "cpu":
        raise UserError(f"--gpus-per-stage {gpus:g}: with --device cpu, expected cuda")
    return read(Ray, {"address": address, "gpus": 1.0 if gpus is None else gpus}, "--executor ray")


def run_on_ray(
    stages: Sequence[Stage], place: Place, ray: Ray, workers: int | None, cost: Mapping[str, int], watch: Watch
) -> None:
    """Make every stage that the store lacks, parents first, `workers` at once or as many as the cluster has places for.

    Places that are to spare assist with evaluations. Errors: those of a stage; `LostError` where its worker was lost
    again and again; `UserError` without Ray or a cluster, and for a machine that does not see the run folder.
    """
    agenda = Agenda(stages, place.store, cost)
    if not agenda:
        return
    with _connected(ray, workers) as library, ThreadPoolExecutor(len(agenda)) as threads:
        crew = _Crew(library, ray, place, watch)

        def make(stage: Stage, taken: int) -> Future[bool]:
            return threads.submit(crew.make, stage, taken)

        try:
            side_by_side(agenda, lambda: workers or crew.places(), make, True, watch)
        finally:
            crew.over.set()


@contextmanager
def _connected(ray: Ray, workers: int | None) -> Iterator[Any]:
    """The library, connected to a cluster; a connection that the caller has is used, and stays."""
    before = {name: os.environ.get(name) for name in (*_WAYS, "OMP_NUM_THREADS", "PYTHONPATH")}
    os.environ.update(_WAYS | {name: held for name, held in environment().items() if name in before})
    try:
        library = _imported()
        if library.is_initialized():
            yield library
            return
        _start(library, ray, workers)
    finally:
        for name, held in before.items():
            os.environ.pop(name, None) if held is None else os.environ.update({name: held})
    try:
        yield library
    finally:
        library.shutdown()


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("--executor ray: Ray is not installed, expected it: pip install 'robustcl[ray]'") from None


def _start(library: Any, ray: Ray, workers: int | None) -> None:
    own = {"num_cpus": workers or default_workers("cpu"), "object_store_memory": _MEMORY, "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    ending = signal.getsignal(signal.SIGTERM)
    try:
        library.init(ray.address or "local", log_to_driver=False, logging_level="ERROR", **({} if ray.address else own))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        if not ray.address:
            raise UserError(f"--executor ray: none on this machine ({reason}), expected --address of one") from None
        raise UserError(
            f"--address {ray.address}: no Ray cluster ({reason}), expected auto or HOST:PORT of its head; one that "
            "asks for a token needs RAY_AUTH_MODE=token"
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, ending)  # Ray puts its own there


class _Crew:
    """The tasks of one run."""

    def __init__(self, library: Any, ray: Ray, place: Place, watch: Watch) -> None:
        self.library, self.store, self.watch = library, place.store, watch
        self.over = threading.Event()  # set when nothing is to run any more
        self.where = json.dumps({**directions(place), "folder": str(Path.cwd()), "version": __version__})
        self.needs = {"CPU": 1.0} | ({"GPU": ray.gpus} if place.device == "cuda" else {})
        self.task, self.place = library.remote(errand), {"num_cpus": 1, "num_gpus": self.needs.get("GPU", 0)}
        if not self.places():
            needed = " and ".join(f"{need:g} {name}" for name, need in self.needs.items())
            raise UserError(f"--executor ray: no machine of the cluster has {needed}, as a stage needs")

    def places(self) -> int:
        """How many tasks the machines that are there can work at, at once."""
        nodes = [node["Resources"] for node in self.library.nodes() if node["Alive"]]
        return sum(min(int(has.get(name, 0) / need + 1e-9) for name, need in self.needs.items()) for has in nodes)

    def make(self, stage: Stage, taken: int) -> bool:
        """Have the stage made, `taken` - 1 tasks assisting; False where a process outside this run works at it."""
        said, report, made = json.dumps(to_json(stage)), told(stage, self.watch), False
        tasks = [self.task.options(**self.place, max_retries=_RETRIES).remote(self.where, said, assists=False)]
        try:
            begun = False
            while not self.library.wait(tasks[:1], timeout=EVERY if begun else _LOOK)[0]:
                if self.over.is_set():
                    return False
                if reached := self._reached(stage):
                    report(*reached)
                    for _ in range(0 if begun else taken - 1):  # only now: one that came first would take its place
                        helper = self.task.options(**self.place, max_retries=0)
                        tasks.append(helper.remote(self.where, said, assists=True))
                    begun = True
            answer = self._answer(stage, tasks[0])
            made = settled(answer)
        finally:
            for task in () if made else tasks:  # who assists would go on to the end of an evaluation that is given up
                self.library.cancel(task, force=True)
        if made and answer["worked"]:
            report(1, 1)
        return made and self._seen(stage, answer["host"])

    def _reached(self, stage: Stage) -> tuple[int, int] | None:
        """How far the stage is, where a task is at it."""
        try:
            reached = json.loads((self.store.hidden(stage) / REACHED).read_text())
        except (OSError, ValueError):
            return None
        holder = self.store.holder(stage.kind, stage.key)
        return (reached["done"], reached["total"]) if holder and holder.alive else None

    def _answer(self, stage: Stage, task: Any) -> dict[str, Any]:
        errors = self.library.exceptions
        try:
            answer: dict[str, Any] = json.loads(self.library.get(task))
        except errors.RayTaskError as error:  # our own errors are answers: this one could not begin
            reason = str(error).strip().rpartition("\n")[2]
            raise UserError(
                f"{stage.label}: a Ray worker cannot run robustcl ({reason}), expected {__version__} on every machine"
            ) from None
        except errors.RayError as error:
            raise LostError(
                f"{stage.label}: its Ray worker was lost, and {_RETRIES} more that tried again "
                f"({type(error).__name__}), out of memory?; what is finished stays, the same command goes on from there"
            ) from None
        return answer

    def _seen(self, stage: Stage, host: str) -> bool:
        patience = time.monotonic() + _PATIENCE
        while not self.store.has(stage):
            if self.over.is_set():
                return False
            if time.monotonic() > patience:
                raise UserError(
                    f"{self.store.root}: {stage.label} was made on {host} and is not seen here, expected a folder on "
                    "a file system that all machines share"
                )
            time.sleep(EVERY)
        return True
