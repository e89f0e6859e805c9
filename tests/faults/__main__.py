"""The only owner of the kill harness as a command: `python -m tests.faults`, which tox's environment `faults` runs.

Every kind of stage, and three kinds of whole commands, are killed with SIGKILL at seeded random moments and resumed.
Exit code 1, with the seed and the moments, where anything was lost, doubled, half visible or of other bytes; 2 for what
cannot be played, 130 after Ctrl-C.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from robustcl.bench import forks
from robustcl.models.errors import UserError
from tests.faults.campaign import Tally, campaign
from tests.faults.scenes import KINDS, scenes


def main(words: Sequence[str] | None = None) -> int:
    """Kill, print a row for each kind, and say what was wrong: the exit code."""
    given = _given(words)
    if not forks.possible():
        print("no fork of this process on this platform, or beside an accelerator: nothing is killed")
        return 0
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            chosen = scenes(Path(folder), given.kind or KINDS, given.scene)
            tallies = campaign(chosen, given.kills, given.seed, Path(folder), _progress)
    except UserError as error:
        print(f"python -m tests.faults: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npython -m tests.faults: interrupted", file=sys.stderr)
        return 130
    print("\r", end="", file=sys.stderr)
    wrong = [line for tally in tallies for line in tally.wrong]
    print(*wrong, sep="\n", file=sys.stderr)
    rows = [tally.row for tally in tallies]
    names = list(rows[0])
    for line in [names, *(map(str, row.values()) for row in rows)]:
        print(" ".join(f"{text:>9}" for text in line))
    if given.out:
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 1 if wrong else 0


def _given(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill and resume, and compare.")
    parser.add_argument("--kills", type=int, default=200, help="for each kind; default 200")
    parser.add_argument("--seed", type=int, default=0, help="of all moments; default 0")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="only these kinds")
    parser.add_argument("--scene", nargs="+", help="only the scenes of these names")
    parser.add_argument("--out", type=Path, help="a CSV file for the table")
    given = parser.parse_args(words)
    if given.kills < 1:
        parser.error("--kills: expected a number from 1 on")
    return given


def _progress(tally: Tally) -> None:
    print(f"\r{tally.kind}: {tally.kills} kills, {len(tally.wrong)} wrong ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
