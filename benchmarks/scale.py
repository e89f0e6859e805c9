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
from collections.abc import Callable
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
    from robustcl.bench.plan import Plan
    from robustcl.bench.scale import MINI, at_scale, clock
    from robustcl.bench.tables import suites

    names = [name.removesuffix(MINI) for name in suites() if name.endswith(MINI)]
    found = [(name, *at_scale(name)) for name in [name for name in names if name in suites()][: 2 if quick else None]]
    stages = {stage.key: stage for _, _, made in found for stage in made.stages}
    cost = {key: passes for _, _, made in found for key, passes in made.cost.items() if key in stages}
    every = Plan(cells=(), stages=list(stages.values()), cost=cost)  # they are of one network, and share encoders
    lines = []
    for name, points, made in [*found, ("all of them, what they share once", found[0][1], every)]:
        of = [f"{len(made.stages)}", f"{sum(made.cost.values()) / 1e9:.1f}"]
        hours = [[seconds / 3600 for seconds in clock(points, made, devices)] for devices in DEVICES]
        lines.append([name, *of, *(f"{low:.0f} to {high:.0f}" for low, high in hours)])
    return grid(["suite", "stages", "10^9 passes", *(f"hours, {n} GPU{'s' if n > 1 else ''}" for n in DEVICES)], lines)


def plan(quick: bool) -> str:
    """Planning a grid, and writing down what it is of."""
    lines = []
    for points in (3, 27) if quick else (27, 90, 270):
        found = apart("plan", points)
        lines.append(
            [f"{found['stages']:,}", f"{found['seconds']:.1f}", f"{found['claim']:.1f}", f"{found['json']:.1f}"]
        )
        lines[-1].append(f"{found['peak'] / 2**20:.0f}")
    return grid(["stages", "s to plan", "s to claim", "MB suite.json", "MiB at most"], lines, names=0)


def store(quick: bool) -> str:
    """Looking for stages, and claiming them, on the disk below the folder for temporary files."""
    found = apart("store", 1_000 if quick else 10_000)
    lines = [[name, f"{number:,.0f}"] for name, number in found.items() if name != "peak"]
    return grid(["what", "a second"], lines)


def schedule(quick: bool) -> str:
    """How many stages a second can be given away, with workers and with Ray, where it is installed."""
    found = apart("schedule", 100 if quick else 1_000)
    lines = [[name, f"{number:,.0f}"] for name, number in found.items() if name != "peak"]
    return grid(["what", "a second"], lines)


def records(quick: bool) -> str:
    """Tables, and the whole report, of run folders of more and more records."""
    lines = []
    for cells in (48, 96) if quick else (96, 480, 2_400):
        with tempfile.TemporaryDirectory(prefix="robustcl-scale-") as folder:
            made = apart("write", cells, folder)
            for what in ("table",) if quick or cells > 480 else ("table", "report"):
                found = apart(what, folder, limit=LIMIT)
                of = [f"{cells:,}", f"{made['records'] / 1e6:.1f}", f"{made['bytes'] / made['records']:.1f}", what]
                lines.append([*of, f"{found['seconds']:.0f}", f"{found['peak'] / 2**20:,.0f}"])
                print(lines[-1], file=sys.stderr, flush=True)
    return grid(["cells", "10^6 records", "bytes each", "what", "s", "MiB at most"], lines, names=0)


def apart(what: str, *given: object, limit: int | None = None) -> dict[str, Any]:
    """What `benchmarks.growth` measured in a process of its own, with its `peak` memory in bytes.

    `limit` is the address space that it may have: what asks for more ends with an error.
    """
    command = [sys.executable, "-m", "benchmarks.growth", what, *map(str, given)]
    capped = (lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))) if limit else None
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=capped, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


PARTS: dict[str, Callable[[bool], str]] = {of.__name__: of for of in (passes, paper, plan, store, schedule, records)}


def main() -> None:
    """Print the tables of the parts that are named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="How far things go.")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help="which tables; all where none is named")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all runs")
    options = parser.parse_args()
    for name in options.part or PARTS:
        print(f"{PARTS[name].__doc__}\n\n{PARTS[name](options.quick)}\n", flush=True)


if __name__ == "__main__":
    main()
