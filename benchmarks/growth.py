"""The only owner of what growth is measured by: plans, stores, schedules and reports, each in a process of its own.

    python -m benchmarks.growth WHAT [GIVEN ...]

prints what it came to as JSON, with `peak`, the most memory that the process held, in bytes.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def plan(points: str) -> dict[str, Any]:
    """Reading and planning a grid of so many points, and claiming a folder for it."""
    from robustcl.bench import plan as plans
    from robustcl.bench.library import Library
    from robustcl.bench.spec import read_suite
    from robustcl.bench.store import Store
    from robustcl.bench.suite import resolved

    table = _suite(int(points))
    began = time.perf_counter()
    read = read_suite("scale", table=table)
    made = plans.plan(read, Library())
    planned = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        said = {"points": [resolved(point) for point in read], "cost": dict(made.cost)}
        Store(Path(folder) / "runs").claim_suite("scale", said, list(made.cells), made.probes, made.stages)
        written = (Path(folder) / "runs" / "suite.json").stat().st_size
    times = {"seconds": planned - began, "claim": time.perf_counter() - planned}
    return {**times, "stages": len(made.stages), "json": written / 1e6}


def _suite(points: int) -> dict[str, Any]:
    """Three encoders under two schemes at three radii, for so many seeds: 37 stages a seed."""
    trained = {"strong": "digits"}
    return {
        "data": {"name": "digits"},
        "encoder": {"name": "resnet", "depth": 18},
        "threat": {"norm": "linf", "eps": "1/10"},
        "labels": {"own": {"encoder": "simclr", "k": [10]}},
        "pretrain": {
            "simclr": {"method": "simclr", **trained},
            "at": {"method": "supervised", "objective": "adversarial", "weak": "digits-weak"},
            "advcl": {"method": "advcl", "labels": "own", "weak": "digits-weak", **trained},
        },
        "finetune": {name: {"weak": "digits-weak", "selection": ["last"]} for name in ("SLF", "AFF")},
        "judge": {"judges": ["pgd-20", "autoattack"], "images": 100, "sweep": {"eps": ["1/20", "1/5"]}},
        "grid": {"seeds.pretrain": list(range(points))},
    }


def _stages(count: int) -> list[Any]:
    from robustcl.bench.store import Stage

    return [Stage(kind="evaluate", part={"number": number}, label=f"number {number}") for number in range(count)]


def store(count: str) -> dict[str, float]:
    """So many stages claimed, written and looked for, a second."""
    from robustcl.bench.store import Store

    stages = _stages(int(count))
    with tempfile.TemporaryDirectory() as folder:
        one = Store(Path(folder) / "runs")
        keys = rate(lambda: [stage.key for stage in stages], len(stages))
        made = rate(lambda: [one.make(stage, lambda _: {}) for stage in stages], len(stages))
        looks = rate(lambda: [one.has(stage) for stage in stages], len(stages))
        listed = rate(lambda: one.finished(stages), len(stages))
        held = rate(lambda: [one.holder(stage.kind, stage.key) for stage in stages], len(stages))
    return {
        "keys of stages": keys,
        "empty stages claimed, written and renamed": made,
        "looks for a stage, one by one": looks,
        "looks for stages, a folder at a time": listed,
        "looks for who works at a stage": held,
    }


def schedule(count: str) -> dict[str, float]:
    """So many stages given away, a second."""
    from robustcl.bench.pace import wall

    stages, found = _stages(int(count)), {}
    chains = _chains(int(count))
    found["stages simulated, on 64 devices"] = rate(
        lambda: wall(chains, {stage.key: 1.0 for stage in chains}, 64), len(chains)
    )
    found["stages as lines to another process, and back"] = rate(lambda: _piped(stages), len(stages))
    if (ray := _ray()) is not None:
        found["empty Ray tasks, two CPUs"] = rate(lambda: ray(stages), len(stages))
    return found


def _chains(count: int) -> list[Any]:
    """As many stages as a graph like that of a suite: an encoder, two finetunings of it, three judges of each."""
    from robustcl.bench.store import Stage

    made: list[Any] = []
    for number in range(count // 9):
        encoder = Stage(kind="pretrain", part={"number": number})
        tuned = [Stage(kind="finetune", part={"scheme": name}, parents={"encoder": encoder}) for name in "ab"]
        parts = [(one, {"eps": eps}) for one in tuned for eps in range(3)]
        made += [encoder, *tuned, *(Stage(kind="evaluate", part=p, parents={"classifier": one}) for one, p in parts)]
    return made


def _piped(stages: list[Any]) -> None:
    """What a worker process costs beside its work: a stage as a line of JSON, and a line back."""
    script = "import sys, json\nfor line in sys.stdin: json.loads(line); print('{}', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for stage in stages:
            worker.stdin.write(json.dumps({"kind": stage.kind, "part": dict(stage.part), "parents": {}}) + "\n")
            worker.stdout.readline()
        worker.stdin.close()


def _ray() -> Callable[[list[Any]], object] | None:
    try:
        import ray
    except ImportError:
        return None
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    empty = ray.remote(lambda stage: None)
    ray.get([empty.remote(number) for number in range(8)])  # the workers have started
    return lambda stages: ray.get([empty.remote(stage.label) for stage in stages])


def write(cells: str, folder: str) -> dict[str, int]:
    """A run folder of so many cells."""
    from benchmarks.madeup import write_run

    return write_run(Path(folder), int(cells))


def table(folder: str) -> dict[str, float]:
    """The tables of a run folder."""
    from robustcl.reports import writers
    from robustcl.reports.folder import RunFolder

    began = time.perf_counter()
    writers.save(RunFolder(Path(folder)).tables, Path(folder) / "table")
    return {"seconds": time.perf_counter() - began}


def report(folder: str) -> dict[str, float]:
    """The whole report of a run folder."""
    from robustcl.reports import report as reports

    began = time.perf_counter()
    reports.report(folder)
    return {"seconds": time.perf_counter() - began}


def rate(work: Callable[[], object], count: int) -> float:
    """How many a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _peak() -> int:
    """The most memory that this process held, in bytes; Linux says it of what ran before it, too, but here."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure what is named, and print what it came to."""
    what: dict[str, Callable[..., Any]] = {of.__name__: of for of in (plan, store, schedule, write, table, report)}
    found = what[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**found, "peak": _peak()}))


if __name__ == "__main__":
    main()
