"""A process that the tests of clusters start: it runs suites on a Ray cluster of two workers, and says what came of it.

`python -m tests.bench.on_ray FOLDER` writes `<FOLDER>/<case>.json` for each of the cases below, on one cluster.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import robustcl
from robustcl.bench import cluster
from robustcl.bench.cluster import Ray
from robustcl.bench.runner import make, prepare
from robustcl.bench.store import Stage, Store
from robustcl.reports import drawing
from tests.bench.test_executors import CLUSTERS
from tests.bench.tiny import Quiet, write_suite

LONG = ["pretrain.at.training.epochs=20"]  # so that it can be caught at it
SPLIT = ["judge.images=360", "judge.batch=60", 'judge.judges=["square-300"]']


class Interrupter(Quiet):
    """Ctrl-C, as soon as a stage has begun."""

    def started(self, stage: Stage) -> None:
        """Noted, and interrupted."""
        super().started(stage)
        os.kill(os.getpid(), signal.SIGINT)


def whole(folder: Path) -> dict[str, Any]:
    """A suite from the front door. A worker is killed after it has kept something; another one goes on from there."""
    suite, killed = write_suite(folder, more=CLUSTERS), list[int]()
    store = Store(folder / "whole")

    def kill() -> None:
        for _ in range(6000):
            for kept in store.root.glob("pretrain/.*/progress/training.safetensors"):
                holder = store.holder("pretrain", kept.parent.parent.name.removeprefix("."))
                if holder and holder.alive:
                    os.kill(holder.pid, signal.SIGKILL)
                    return killed.append(holder.pid)
            time.sleep(0.01)
        return None

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = robustcl.run(suite, runs=store.root, overrides=LONG, executor="ray", workers=2)
    events = [json.loads(line) for path in store.root.glob("pretrain/*/log.jsonl") for line in path.open()]
    return {"table": str(report), "killed": len(killed), "resumed": sum(e["event"] == "resumed" for e in events)}


def split(folder: Path) -> dict[str, Any]:
    """An evaluation of two batches, and who is seen to attack them."""
    job = prepare(write_suite(folder), runs=folder / "split", overrides=SPLIT)
    seen, over = set[int](), threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            for path in (folder / "split").glob("evaluate/.*/progress/batches/*.lock"):
                with suppress(OSError, ValueError):
                    seen.add(int(json.loads(path.read_text())["pid"]))

    thread = threading.Thread(target=look)
    thread.start()
    make(job, Quiet(), ray=Ray())
    over.set()
    thread.join()
    return {"pids": sorted(seen)}


def numbers(folder: Path) -> dict[str, Any]:
    """A loss that is no number."""
    wrong = ["pretrain.at.training.optimiser.lr=1e30", "pretrain.at.training.epochs=2"]
    make(prepare(write_suite(folder), runs=folder / "numbers", overrides=wrong), Quiet(), 1, Ray())
    return {}


def mistake(folder: Path) -> dict[str, Any]:
    """Images that change after they were planned with, named by a relative path."""
    g, path = np.random.default_rng(0), Path("data.npz")
    arrays: dict[str, Any] = {f"{s}_images": g.integers(0, 256, (40, 8, 8), dtype=np.uint8) for s in ("train", "test")}
    labels: dict[str, Any] = {f"{s}_labels": np.arange(40) % 4 for s in ("train", "test")}
    np.savez(path, **arrays, **labels)
    job = prepare(write_suite(folder), runs="mistake", overrides=['data.name="npz"', 'data.path="data.npz"'])
    np.savez(path, **arrays, **{name: part[::-1] for name, part in labels.items()})
    make(job, Quiet(), 1, Ray())
    return {}


def interrupted(folder: Path) -> dict[str, Any]:
    """Ctrl-C, after which nobody works any more."""
    job = prepare(write_suite(folder), runs=folder / "interrupted", overrides=["pretrain.at.training.epochs=4000"])
    watch = Interrupter()
    with suppress(KeyboardInterrupt):
        make(job, watch, ray=Ray())
    stages = [stage for stage in job.plan.stages if stage.label in watch.begun]
    for _ in range(100):
        holders = [job.place.store.holder(stage.kind, stage.key) for stage in stages]
        if not any(holder and holder.alive for holder in holders):
            break
        time.sleep(0.1)
    alive = [holder.pid for holder in holders if holder and holder.alive]
    return {"begun": watch.begun, "alive": alive, "missing": len(job.missing)}


CASES: list[Callable[[Path], dict[str, Any]]] = [whole, split, numbers, mistake, interrupted]


def surroundings() -> list[Any]:
    """What a cluster that starts changes for its own processes alone."""
    return [*map(os.environ.get, cluster._WAYS), os.environ.get("PYTHONPATH"), signal.getsignal(signal.SIGTERM)]


def main(folder: Path) -> None:
    """All cases, an error of one being part of what it says."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    os.chdir(folder)
    mock.patch.object(drawing, "save", return_value=[]).start()  # most of a report's time, and tested elsewhere
    before = surroundings()
    with cluster._connected(Ray(), 2):
        kept = surroundings() == before
        for case in CASES:
            try:
                said = case(folder)
            except Exception as error:
                said = {"error": type(error).__name__, "message": str(error)}
            (folder / f"{case.__name__}.json").write_text(json.dumps({**said, "kept": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
