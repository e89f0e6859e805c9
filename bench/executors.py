"""The only owner of where stages run: in this process, or side by side in worker processes of one torch thread each.

A worker is `python -m robustcl.bench.worker`, told its stages as JSON lines: nothing is pickled, and a script that
calls `robustcl.run` is never imported again by its own workers.
"""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Protocol

import torch

from robustcl.bench import forks
from robustcl.bench.agenda import Agenda
from robustcl.bench.errands import directions, environment, settled, to_json
from robustcl.bench.locks import Holder
from robustcl.bench.place import Place, Report
from robustcl.bench.stages import execute
from robustcl.bench.store import Stage
from robustcl.models.errors import LostError


class Watch(Protocol):
    """Who is told what happens; calls may come from several threads."""

    def started(self, stage: Stage) -> None:
        """The stage has begun."""

    def moved(self, stage: Stage, done: int, total: int) -> None:
        """So much of the stage is done."""

    def finished(self, stage: Stage) -> None:
        """The stage lies in the store; one that has not been started here was made by another process."""

    def waiting(self, stage: Stage, holder: Holder) -> None:
        """There is nothing to do before another process is through with the stage, or gone."""


def run_stages(stages: Sequence[Stage], place: Place, workers: int, cost: Mapping[str, int], watch: Watch) -> None:
    """Make every stage that the store lacks, parents first; `stages` are in such an order.

    Other processes may do the same on the same store: what one of them works at is left to it, unless it dies.
    Where fewer stages are ready than there are workers, evaluations take several processes each. Errors of a stage are
    raised here, after the other workers were stopped; what is finished stays.
    """
    agenda = Agenda(stages, place.store, cost)
    if workers > 1:
        # The workers are stopped before the threads are joined, or an error and Ctrl-C would wait for what runs.
        with ThreadPoolExecutor(workers) as threads, _workers(min(workers, len(agenda)), place) as idle:

            def make(stage: Stage, taken: int) -> Future[bool]:
                return threads.submit(_delegate, idle, stage, taken, watch)

            side_by_side(agenda, lambda: workers, make, place.device == "cpu" and forks.possible(), watch)
        return
    while agenda:
        chosen = agenda.next(1, watch.finished)
        for stage in chosen:
            _entered(agenda, stage, execute(stage, place, told(stage, watch), wait=False), watch)
        if agenda and not chosen:
            agenda.rest(watch.waiting)


def side_by_side(
    agenda: Agenda, places: Callable[[], int], make: Callable[[Stage, int], Future[bool]], splits: bool, watch: Watch
) -> None:
    """Have every stage of the agenda made, as many at once as there are `places` for processes.

    `make` is given a stage and how many places it takes: one, or where evaluations can be split those that are to
    spare. It comes to False where another process works at the stage.
    """
    running: dict[Future[bool], tuple[Stage, int]] = {}
    while agenda:
        free = places() - sum(taken for _, taken in running.values())
        chosen = agenda.next(free, watch.finished)
        for stage, taken in zip(chosen, shares(chosen, free if splits else 0), strict=True):
            running[make(stage, taken)] = (stage, taken)
        for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
            stage, _ = running.pop(future)
            _entered(agenda, stage, future.result(), watch)
        if agenda and not running:
            agenda.rest(watch.waiting)


def _entered(agenda: Agenda, stage: Stage, made: bool, watch: Watch) -> None:
    """What came of a stage: it was made here, or another process works at it."""
    if made:
        watch.finished(stage)
        agenda.done(stage)
    else:
        agenda.back(stage)


def told(stage: Stage, watch: Watch) -> Report:
    """What is reported of a stage goes to the watch; the first word says that it has begun."""
    begun = False

    def report(done: int, total: int) -> None:
        nonlocal begun
        if begun:
            watch.moved(stage, done, total)
        else:
            begun = True
            watch.started(stage)

    return report


def default_workers(device: str) -> int:
    """One worker per CPU core this process may use, or per CUDA device; one in all for any other accelerator."""
    if device != "cpu":
        return max(torch.cuda.device_count(), 1) if device == "cuda" else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(chosen: Sequence[Stage], places: int) -> list[int]:
    """How many places each of the chosen stages takes: one, and evaluations those that are to spare."""
    taken = [1] * len(chosen)
    split = [number for number, stage in enumerate(chosen) if stage.kind == "evaluate"]
    for number in range(places - len(chosen) if split else 0):
        taken[split[number % len(split)]] += 1
    return taken


@contextmanager
def _workers(count: int, place: Place) -> Iterator["queue.SimpleQueue[subprocess.Popen[str]]"]:
    """Worker processes that wait for stages; they are stopped when the block ends, however it ends."""
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    where = directions(place)
    devices = max(torch.cuda.device_count(), 1)
    # A session of their own keeps Ctrl-C with us, and -P keeps a user's folder, with its own queue.py or utils.py, from
    # shadowing what a worker imports.
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "robustcl.bench.worker", json.dumps({**where, "device": device})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
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


def _delegate(idle: "queue.SimpleQueue[subprocess.Popen[str]]", stage: Stage, taken: int, watch: Watch) -> bool:
    """Have a worker make the stage, in so many processes; False where another process works at it.

    What was raised there is raised here.
    """
    worker = idle.get()
    assert worker.stdin is not None
    assert worker.stdout is not None
    with suppress(BrokenPipeError):  # it died before it was asked: said below
        worker.stdin.write(json.dumps({"stage": to_json(stage), "workers": taken}) + "\n")
        worker.stdin.flush()
    report = told(stage, watch)
    for line in worker.stdout:
        said = json.loads(line)
        if "done" in said:
            report(said["done"], said["total"])
        else:
            idle.put(worker)
            return settled(said)
    raise LostError(
        f"{stage.label}: the worker process died (exit code {worker.wait()}), out of memory?; "
        "what is finished stays, the same command goes on from there"
    )
