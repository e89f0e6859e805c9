"""The only owner of how far plans, stores and reports go: seconds, memory and looks at the disk as their number grows.

    python -m benchmarks.scale [--quick] [PART ...]

The parts are `passes`, `paper`, `plan`, `store`, `schedule` and `records`; each prints a table of docs/scaling.md. What
is measured runs in a process of its own; `records` writes a run folder of 100 million records below the folder for
temporary files (1.5 GB), has it reported with at most 4 GB of memory, and removes it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustcl.reports.writers import grid

Lines = list[list[str]]
LIMIT = 4 * 2**30  # bytes of memory that a report may take
DEVICES = (1, 8, 64)


def passes(quick: bool) -> str:
    """Seconds of a pass, per image, of two encoders on one core."""
    import torch

    from robustcl.bench.pace import flops, measure
    from robustcl.models.architecture import read_architecture
    from robustcl.models.encoder import Encoder

    torch.set_num_threads(1)
    lines = []
    for table in ({"name": "tiny", "width": 8, "blocks": [1, 1, 1]}, {"name": "resnet", "depth": 18}):
        encoder, x = Encoder(read_architecture(table, "scale"), (3, 32, 32)).eval(), torch.rand(64, 3, 32, 32)
        found = [measure(encoder, x) for _ in range(1 if quick else 3)]
        forward, gradient = (
            sorted(held)[len(held) // 2] for held in zip(*((p.forward, p.gradient) for p in found), strict=True)
        )
        each = [f"{flops(encoder, x) / 1e9:.3f}", f"{1e3 * forward:.3g}", f"{1e3 * gradient:.3g}"]
        lines.append([str(encoder.architecture), *each, f"{flops(encoder, x) / forward / 1e9:.0f}"])
    return grid(["encoder, at 3x32x32", "GFLOP a pass", "ms forward", "ms with gradient", "GFLOP/s"], lines)


def paper(quick: bool) -> str:
    """The suites of the paper: stages, passes, device-hours and hours by the clock on several GPUs."""
    from robustcl.bench.scale import MINI, at_scale, clock
    from robustcl.bench.tables import suites
    from robustcl.models.errors import UserError

    lines = []
    names = [name.removesuffix(MINI) for name in suites() if name.endswith(MINI)]
    for name in [name for name in names if name in suites()][: 2 if quick else None]:
        try:
            points, plan = at_scale(name)
        except UserError as error:
            lines.append([name, str(error)])
            continue
        of = [f"{len(plan.stages)}", f"{sum(plan.cost.values()) / 1e9:.1f}"]
        hours = [[seconds / 3600 for seconds in clock(points, plan, devices)] for devices in DEVICES]
        lines.append([name, *of, *(f"{low:.0f} to {high:.0f}" for low, high in hours)])
    return grid(["suite", "stages", "10^9 passes", *(f"hours, {n} GPU{'s' if n > 1 else ''}" for n in DEVICES)], lines)


def plan(quick: bool) -> str:
    """Planning a grid, and writing down what it is of."""
    lines = []
    for points in (3, 27) if quick else (27, 90, 270):
        found = apart("_plan", points)
        lines.append(
            [f"{found['stages']:,}", f"{found['seconds']:.1f}", f"{found['claim']:.1f}", f"{found['json']:.1f}"]
        )
        lines[-1].append(f"{found['peak'] / 2**20:.0f}")
    return grid(["stages", "s to plan", "s to claim", "MB suite.json", "MiB at most"], lines, names=0)


def store(quick: bool) -> str:
    """Looking for stages, and claiming them, on the disk below the folder for temporary files."""
    found = apart("_store", 1_000 if quick else 10_000)
    lines = [[name, f"{number:,.0f}"] for name, number in found.items() if name != "peak"]
    return grid(["what", "a second"], lines)


def schedule(quick: bool) -> str:
    """How many stages a second can be given away, with workers and with Ray, where it is installed."""
    found = apart("_schedule", 100 if quick else 1_000)
    lines = [[name, f"{number:,.0f}"] for name, number in found.items() if name != "peak"]
    return grid(["what", "a second"], lines)


def records(quick: bool) -> str:
    """Tables, and the whole report, of run folders of more and more records."""
    lines = []
    for cells in (48, 96) if quick else (96, 480, 2_400):
        with tempfile.TemporaryDirectory(prefix="robustcl-scale-") as folder:
            made = apart("_write", cells, folder)
            for what in ("table",) if quick or cells > 480 else ("table", "report"):
                found = apart(f"_{what}", folder, limit=LIMIT)
                of = [f"{cells:,}", f"{made['records'] / 1e6:.1f}", f"{made['bytes'] / made['records']:.1f}", what]
                lines.append([*of, f"{found['seconds']:.0f}", f"{found['peak'] / 2**20:,.0f}"])
                print(lines[-1], file=sys.stderr, flush=True)
    return grid(["cells", "10^6 records", "bytes each", "what", "s", "MiB at most"], lines, names=0)


def apart(what: str, *given: object, limit: int | None = None) -> dict[str, Any]:
    """What a function of this module came to in a process of its own, with its `peak` memory in bytes.

    `limit` is the address space that it may have: what asks for more ends with an error.
    """
    command = [sys.executable, "-m", "benchmarks.scale", "--apart", what, *map(str, given)]
    capped = (lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))) if limit else None
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=capped, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _plan(points: str) -> dict[str, Any]:
    from robustcl.bench.library import Library
    from robustcl.bench.plan import plan
    from robustcl.bench.spec import read_suite
    from robustcl.bench.store import Store
    from robustcl.bench.suite import resolved

    table = _suite(int(points))
    began = time.perf_counter()
    read = read_suite("scale", table=table)
    made = plan(read, Library())
    planned = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        said = {"points": [resolved(point) for point in read], "cost": dict(made.cost)}
        Store(Path(folder) / "runs").claim_suite("scale", said, list(made.cells), made.probes)
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


def _store(count: str) -> dict[str, float]:
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


def _schedule(count: str) -> dict[str, float]:
    from robustcl.bench.pace import wall

    stages, found = _stages(int(count)), {}
    chains = _chains(int(count))
    found["stages simulated, on 64 devices"] = rate(
        lambda: wall(chains, {stage.key: 1.0 for stage in chains}, 64), len(chains)
    )
    found["stages told to a worker through a pipe, and back"] = rate(lambda: _piped(stages), len(stages))
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


def _write(cells: str, folder: str) -> dict[str, int]:
    from benchmarks.madeup import write_run

    return write_run(Path(folder), int(cells))


def _table(folder: str) -> dict[str, float]:
    from robustcl.reports import writers
    from robustcl.reports.folder import RunFolder

    began = time.perf_counter()
    writers.save(RunFolder(Path(folder)).tables, Path(folder) / "table")
    return {"seconds": time.perf_counter() - began}


def _report(folder: str) -> dict[str, float]:
    from robustcl.reports.report import report

    began = time.perf_counter()
    report(folder)
    return {"seconds": time.perf_counter() - began}


def rate(work: Callable[[], object], count: int) -> float:
    """How many a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


PARTS: dict[str, Callable[[bool], str]] = {of.__name__: of for of in (passes, paper, plan, store, schedule, records)}


def main() -> None:
    """Print the tables of the parts that are named, or of all."""
    if sys.argv[1:2] == ["--apart"]:
        found = globals()[sys.argv[2]](*sys.argv[3:])
        print(json.dumps({**found, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="How far things go.")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="which tables; all where none is named")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all runs")
    options = parser.parse_args()
    for name in options.part or PARTS:
        print(f"{PARTS[name].__doc__}\n\n{PARTS[name](options.quick)}\n", flush=True)


if __name__ == "__main__":
    main()
