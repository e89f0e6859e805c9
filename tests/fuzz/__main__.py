"""The only owner of the fuzz campaign: `python -m tests.fuzz`, every target in a process of its own, and its table.

Options: `--runs N` (executions, 1,000,000 of all targets together), `--target NAME` (again for several), `--seed S`,
`--jobs J` (targets at a time), `--findings FOLDER` (where inputs go that were findings) and `--keep`, which adds what
reaches new code to the corpus in `tests/fuzz/corpus`. Ends with 1 where a reader raised anything but a clean line or a
process ended before its executions were done, with 2 without atheris, and with 130 after Ctrl-C.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target, find, names

CORPUS = Path(__file__).with_name("corpus")
MEMORY = Path("/dev/shm")
LONGEST, SECONDS, MEGABYTES = 2**16, 60, 4096  # of an input, of one execution, of the process
MOST, WEIGHT = 80, 300_000  # files of a target's corpus, and their bytes
KEPT = re.compile("[0-9a-f]{40}")  # the names of inputs that libFuzzer keeps; regressions have words


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one target: its figures, the files of inputs that broke it, and whether it went through."""

    name: str
    whole: bool
    executions: int
    seconds: float
    corpus: int
    coverage: int
    findings: Sequence[Path]
    said: str


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaign and print its table; the exit code."""
    asked = _arguments(given)
    if importlib.util.find_spec("atheris") is None:
        print("python -m tests.fuzz: atheris is not installed, expected the extra 'fuzz'; see tox -e fuzz")
        return 2
    known = {name: find(name) for name in asked.target or names()}
    whole = sum(target.share for target in known.values())
    with tempfile.TemporaryDirectory(prefix="robustcl-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as place:

        def campaign(name: str) -> Outcome:
            runs = round(asked.runs * known[name].share / whole)
            return _fuzzed(name, known[name], runs, asked.seed, Path(place) / name, asked.findings)

        try:
            with ThreadPoolExecutor(asked.jobs) as pool:
                outcomes = list(pool.map(campaign, known))
        except KeyboardInterrupt:
            print(f"python -m tests.fuzz: interrupted; findings so far are in {asked.findings}", file=sys.stderr)
            return 130
        if asked.keep:
            for name in known:
                _keep(name, Path(place) / name)
    print(_table(outcomes))
    broken = [one for one in outcomes if one.findings or not one.whole]
    for one in broken:
        print(f"\n{one.name}: {', '.join(map(str, one.findings)) or 'ended early'}\n{one.said}")
    return 1 if broken else 0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Readers under coverage-guided fuzzing.")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions, of all targets together")
    parser.add_argument("--target", action="append", choices=names(), help="a target; all without")
    parser.add_argument("--seed", type=int, default=1, help="where libFuzzer's mutations begin")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where inputs go that break")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to the corpus")
    asked = parser.parse_args(given)
    if min(asked.runs, asked.jobs) < 1:
        parser.error("--runs and --jobs: expected numbers from 1 on")
    return asked


def _fuzzed(name: str, target: Target, runs: int, seed: int, place: Path, findings: Path) -> Outcome:
    """One target, in a process of its own, which keeps its files in `place`."""
    for part in ("grown", "seeds", "tmp", "found"):
        (place / part).mkdir(parents=True)
    for one, data in target.seeds().items():
        (place / "seeds" / one).write_bytes(data)
    known = [place / "grown", place / "seeds", *filter(Path.is_dir, [CORPUS / name])]
    findings.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_len={LONGEST}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-seed={seed}"]
    flags = [f"-runs={runs}", f"-artifact_prefix={place}/found/{name}-", "-print_final_stats=1", *limits]
    begun = time.monotonic()
    code, said = _process(name, [*flags, *map(str, known)], place)
    found = [Path(shutil.copy(path, findings)) for path in sorted((place / "found").iterdir())]
    executed, covered = re.findall(r"number_of_executed_units: (\d+)", said), re.findall(r"cov: (\d+)", said)
    return Outcome(
        name=name,
        whole=code == 0 and bool(executed),
        executions=int(executed[-1]) if executed else 0,
        seconds=time.monotonic() - begun,
        corpus=sum(1 for folder in known for _ in folder.iterdir()),
        coverage=int(covered[-1]) if covered else 0,
        findings=found,
        said=_told(said),
    )


def _told(said: str) -> str:
    """Of what libFuzzer says the end, and the error that Python did not catch."""
    raised = said.partition("=== Uncaught Python exception: ===")[2].partition("INFO:")[0].splitlines()[-60:]
    return "\n".join([*raised, *said.splitlines()[-12:]])


def _process(name: str, flags: Sequence[str], place: Path) -> tuple[int, str]:
    """How a run of libFuzzer with these flags ended, and what it said."""
    environment = os.environ | {"TMPDIR": str(place / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.fuzz.process", name, *flags]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout + done.stderr


def _keep(name: str, place: Path) -> None:
    """Add what reaches new code to the corpus, the smallest inputs first; regressions that have a name stay."""
    kept, merged = CORPUS / name, place / "merged"
    kept.mkdir(parents=True, exist_ok=True)
    merged.mkdir()
    _process(name, ["-merge=1", str(merged), str(kept), str(place / "grown"), str(place / "seeds")], place)
    for path in kept.iterdir():
        if KEPT.fullmatch(path.name):
            path.unlink()
    files, weight = len(list(kept.iterdir())), sum(path.stat().st_size for path in kept.iterdir())
    for path in sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        files, weight = files + 1, weight + path.stat().st_size
        if files > MOST or weight > WEIGHT:
            break
        shutil.copy(path, kept / path.name)


def _table(outcomes: Sequence[Outcome]) -> str:
    head = ("target", "executions", "seconds", "per second", "corpus", "coverage", "unexplained errors")
    rows = [
        (one.name, f"{one.executions:,}", f"{one.seconds:.0f}", f"{one.executions / max(one.seconds, 1e-9):.0f}",
         str(one.corpus), str(one.coverage), str(len(one.findings)))
        for one in outcomes
    ]  # fmt: skip
    total, seconds = sum(one.executions for one in outcomes), sum(one.seconds for one in outcomes)
    broken = sum(len(one.findings) for one in outcomes)
    rows.append(("all", f"{total:,}", f"{seconds:.0f}", f"{total / max(seconds, 1e-9):.0f}", "", "", str(broken)))
    lines = [head, tuple("-" * len(one) for one in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
