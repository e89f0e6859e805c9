"""The only owner of the command `python -m benchmarks`: which topics run, and where their table goes.

    python -m benchmarks [TOPIC ...] [--rounds N | --quick] [--markdown FILE] [--csv FILE]

A topic is a module `benchmarks/<topic>.py` with `compare(rounds: int) -> list[Ratio]`. Where it also has
`quick() -> list[Ratio]`, `--quick` asks for that, and for one round of every other.
"""

import argparse
import csv
import datetime
import importlib
import os
import pkgutil
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import threadpoolctl
import torch

import benchmarks
from benchmarks import peers
from benchmarks.ratio import Ratio, summary, table

Compare = Callable[[int], list[Ratio]]
ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One module that compares: its name, what its first docstring line says, and how it is asked."""

    name: str
    about: str
    compare: Compare
    quick: Callable[[], list[Ratio]]


def topics() -> dict[str, Topic]:
    """The topics by name."""
    found = {}
    for _, name, _ in pkgutil.iter_modules(benchmarks.__path__):
        if name.startswith("__"):
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        compare: Compare | None = getattr(module, "compare", None)
        if compare is not None and compare.__module__ == module.__name__:  # a module may import another one's
            about = (module.__doc__ or "").partition("\n")[0]
            quick = getattr(module, "quick", lambda once=compare: once(1))
            found[name] = Topic(name=name, about=about, compare=compare, quick=quick)
    return found


def machine() -> str:
    """The processor, its cores as this process sees them, and the system."""
    known = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    name = known[0] if known else platform.processor() or platform.machine()
    extra = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in _flags()]
    return f"{name} ({', '.join(extra)}), {os.cpu_count()} cores, {platform.system()}" if extra else name


def header(command: str) -> str:
    """When, where and with what the numbers came about, as a Markdown list."""
    threads = f"threads: {torch.get_num_threads()}, CPU time of the process"
    known = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"date: {today}", f"machine: {machine()}", threads, f"Python {platform.python_version()}, {known}"]
    return "\n".join(f"- {line}" for line in [*lines, f"command: `{command}`"])


def save_csv(path: Path, ratios: Sequence[Ratio]) -> None:
    """One row per line and round, with the numbers as they were measured."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["goal", "what", "peer", "metric", "kind", "wanted", "round", "found", "note"])
        for of in ratios:
            for number, found in enumerate(of.ratios, start=1):
                wanted = "" if of.goal is None else f"{of.goal:g}"
                line = [of.number or "", of.what, of.peer, of.metric, of.kind, wanted, number, f"{found:.6g}", of.note]
                rows.writerow(line)


def run(asked: Sequence[Topic], rounds: int, quick: bool) -> list[Ratio]:
    """The lines of these topics, with one thread. A topic that fails or is stopped takes nothing from the others."""
    torch.set_num_threads(1)
    made: list[Ratio] = []
    with threadpoolctl.threadpool_limits(1):
        for topic in asked:
            print(f"{topic.name}: {topic.about}", file=sys.stderr, flush=True)
            try:
                made += topic.quick() if quick else topic.compare(rounds)
            except KeyboardInterrupt:
                print("interrupted; what was measured before is below", file=sys.stderr)
                break
            except Exception as error:  # hours of other topics may lie behind it
                traceback.print_exc()
                made.append(Ratio(number=None, what=topic.name, peer="", note=f"failed: {error!r}"))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the topics that are named, or all, and print their table last."""
    known = topics()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios of cost: ours beside each peer.")
    parser.add_argument("topic", nargs="*", help=f"one or more of: {', '.join(known)} (all where none is named)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds that are counted (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round of small comparisons, to see that all runs")
    parser.add_argument("--markdown", type=Path, help="write the table here too, below when and where it was measured")
    parser.add_argument("--csv", type=Path, help="write every round of every line here")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.topic) - set(known))
    if unknown or options.rounds < 1:
        wrong = f"topic {', '.join(unknown)}, expected one of {', '.join(known)}" if unknown else "rounds below 1"
        parser.error(wrong)
    made = run([known[name] for name in options.topic or known], options.rounds, options.quick)
    given = sys.argv[1:] if arguments is None else arguments
    text = f"{header(' '.join(['python -m benchmarks', *given]))}\n\n{table(made)}\n\n{summary(made)}\n"
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.csv:
        save_csv(options.csv, made)
    print(text, end="")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _flags() -> set[str]:
    return {flag for line in _cpuinfo() if line.startswith("flags") for flag in line.partition(":")[2].split()}


if __name__ == "__main__":
    main()
