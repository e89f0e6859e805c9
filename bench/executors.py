"""The only owner of where stages run: in this process, or side by side in worker processes of one torch thread each.

A worker is `python -m robustcl.bench.worker`, told its stages as JSON lines: nothing is pickled, and a script that
calls `robustcl.run` is never imported again by its own workers.
"""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from robustcl.bench import forks
from robustcl.bench.place import Place
from robustcl.bench.stages import execute
from robustcl.bench.store import Stage
from robustcl.bench.suite import described
from robustcl.models.errors import LostError, NumberError, UserError


class Watch(Protocol):
    """Who is told what happens; calls may come from several threads."""

    def started(self, stage: Stage) -> None:
        """The stage has begun."""

    def moved(self, stage: Stage, done: int, total: int) -> None:
        """So much of the stage is done."""

    def finished(self, stage: Stage) -> None:
        """The stage lies in the store."""


def run_stages(stages: Sequence[Stage], place: Place, workers: int, cost: Mapping[str, int], watch: Watch) -> None:
    """Make every stage that the store lacks, parents first; `stages` are in such an order.

    Of the stages that are ready, the one on the costliest path goes first. Where fewer are ready than there are
    workers, evaluations take several processes each. Errors of a stage are raised here, after the other workers were
    stopped; what is finished stays.
    """
    todo = {stage.key: stage for stage in stages if not place.store.has(stage)}
    if workers == 1:
        for stage in todo.values():
            watch.started(stage)
            execute(stage, place, lambda done, total, stage=stage: watch.moved(stage, done, total))  # type: ignore[misc]
            watch.finished(stage)
        return
    urgent = _urgency(list(todo.values()), cost)
    running: dict[Future[None], tuple[Stage, int]] = {}
    # The workers are stopped before the threads are joined, or an error and Ctrl-C would wait for every running stage.
    with ThreadPoolExecutor(workers) as threads, _workers(min(workers, len(todo)), place) as idle:
        while todo or running:
            blocked = todo.keys() | {stage.key for stage, _ in running.values()}
            ready = [s for s in todo.values() if not blocked & {parent.key for parent in s.parents.values()}]
            free = workers - sum(taken for _, taken in running.values())
            chosen = sorted(ready, key=lambda stage: -urgent[stage.key])[:free]
            for stage, taken in zip(chosen, shares(chosen, free, place.device), strict=True):
                del todo[stage.key]
                watch.started(stage)
                running[threads.submit(_delegate, idle, stage, taken, watch)] = (stage, taken)
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                future.result()
                watch.finished(running.pop(future)[0])


def default_workers(device: str) -> int:
    """One worker per CPU core this process may use, or per CUDA device; one in all for any other accelerator."""
    if device != "cpu":
        return max(torch.cuda.device_count(), 1) if device == "cuda" else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(chosen: Sequence[Stage], free: int, device: str) -> list[int]:
    """How many processes each of the chosen stages takes: one, and evaluations on a CPU those that are to spare."""
    taken = [1] * len(chosen)
    split = [number for number, stage in enumerate(chosen) if stage.kind == "evaluate"]
    if split and device == "cpu" and forks.possible():
        for number in range(free - len(chosen)):
            taken[split[number % len(split)]] += 1
    return taken


def to_json(stage: Stage) -> dict[str, Any]:
    """A stage with its parents as what JSON can hold."""
    parents = {role: to_json(parent) for role, parent in stage.parents.items()}
    return {"kind": stage.kind, "part": stage.part, "parents": parents, "label": stage.label}


def from_json(held: Mapping[str, Any]) -> Stage:
    """The inverse of `to_json`."""
    parents = {role: from_json(parent) for role, parent in held["parents"].items()}
    return Stage(kind=held["kind"], part=held["part"], parents=parents, label=held["label"])


def _urgency(stages: Sequence[Stage], cost: Mapping[str, int]) -> dict[str, int]:
    """The cost of the costliest path from each stage to an end."""
    urgent = {stage.key: cost.get(stage.key, 0) for stage in stages}
    for stage in reversed(stages):
        for parent in stage.parents.values():
            if parent.key in urgent:
                urgent[parent.key] = max(urgent[parent.key], cost.get(parent.key, 0) + urgent[stage.key])
    return urgent


@contextmanager
def _workers(count: int, place: Place) -> Iterator["queue.SimpleQueue[subprocess.Popen[str]]"]:
    """Worker processes that wait for stages; they are stopped when the block ends, however it ends."""
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    # One torch thread each: two on a busy two-core machine can be 30 times slower. A session of their own keeps Ctrl-C
    # with us, and -P keeps a user's folder, with its own queue.py or utils.py, from shadowing what a worker imports.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parent.parent
    if (root / "robustcl").is_dir():  # a checkout, which need not be installed
        env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    where = {
        "root": str(place.store.root.resolve()),
        "offline": place.offline,
        "data": [described(data) for data in place.library.datasets],
        "given": place.given,
        "files": {key: str(path) for key, path in place.files.items()},
    }
    devices = max(torch.cuda.device_count(), 1)
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "robustcl.bench.worker", json.dumps({**where, "device": device})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        for device in (f"cuda:{i % devices}" if place.device == "cuda" else place.device for i in range(count))
    ]
    for worker in started:
        idle.put(worker)
    try:
        yield idle
    finally:
        for worker in started:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]


def _delegate(idle: "queue.SimpleQueue[subprocess.Popen[str]]", stage: Stage, taken: int, watch: Watch) -> None:
    """Have a worker make the stage, in so many processes; raise here what was raised there."""
    worker = idle.get()
    assert worker.stdin is not None
    assert worker.stdout is not None
    with suppress(BrokenPipeError):  # it died before it was asked: said below
        worker.stdin.write(json.dumps({"stage": to_json(stage), "workers": taken}) + "\n")
        worker.stdin.flush()
    for line in worker.stdout:
        said = json.loads(line)
        if "done" in said:
            watch.moved(stage, said["done"], said["total"])
        elif "error" in said:
            kind = {"UserError": UserError, "NumberError": NumberError}.get(said["error"], RuntimeError)
            raise kind(said["message"])
        else:
            idle.put(worker)
            return
    raise LostError(
        f"{stage.label}: the worker process died (exit code {worker.wait()}), out of memory?; "
        "what is finished stays, the same command goes on from there"
    )
