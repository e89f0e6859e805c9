"""The only owner of running what a document shows: its blocks of code, as a reader would."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SET_UP = "<!-- set-up -->"
SHELLS = {"bash", "console"}
RECORDS = ROOT / "docs" / "results" / "table1-mini" / "mnist"


class Block(NamedTuple):
    """Lines `first` (counted from 1) and on of a document, in one language."""

    document: Path
    language: str
    first: int
    lines: list[str]


def blocks(document: Path) -> list[Block]:
    """The fenced blocks that run, in order; those right below the comment `<!-- set-up -->` do not."""
    found: list[Block] = []
    before, fence, runs = "", "", False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.match(r"\s*(`{3,}|~{3,})\s*(\w*)", line)
        if not fence and mark:
            fence, runs = mark[1], mark[2] in {"python", *SHELLS} and before.strip() != SET_UP
            found += [Block(document, mark[2], number + 1, [])] * runs
        elif fence and line.strip() == fence:
            fence = ""
        elif runs and fence:
            found[-1].lines.append(line)
        before = line
    return found


def parts(document: Path) -> list[list[Block]]:
    """What runs together: python blocks with no shell block between them share a namespace, a shell block is alone."""
    grouped = groupby(enumerate(blocks(document)), lambda at: at[0] if at[1].language in SHELLS else "python")
    return [[block for _, block in group] for _, group in grouped]


def place(part: list[Block]) -> str:
    return f"{part[0].document.relative_to(ROOT).as_posix()}:{part[0].first}"


def python_source(part: list[Block]) -> str:
    """One program in which every line keeps its number in the document, so that a traceback points there."""
    lines: list[str] = []
    for block in part:
        lines += [""] * (block.first - 1 - len(lines)) + block.lines
    return "\n".join(lines) + "\n"


def shell_source(block: Block) -> str:
    """The lines of a `bash` block; of a `console` block those behind the prompt `$ `."""
    shown = block.lines if block.language == "bash" else [line[2:] for line in block.lines if line.startswith("$ ")]
    return "\n".join(shown) + "\n"


def installed() -> bool:
    try:
        return bool(importlib.metadata.version("robustcl"))
    except importlib.metadata.PackageNotFoundError:
        return False


def desk(folder: Path) -> Path:
    """The folder of a reader, who has a `models` package of his own."""
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("raise SystemExit('this is the models of the reader')\n")
    return folder


def desk_after_a_run(folder: Path) -> Path:
    """The same after the quick start; for its run folder stands one with records and without weights."""
    shutil.copytree(RECORDS, desk(folder) / "runs" / "quickstart")
    return folder


def run(part: list[Block], folder: Path) -> None:
    """Run blocks that belong together in `folder`, where what earlier parts wrote lies; one that fails is an error."""
    block = part[0]
    # What runs is the installed copy, of which coverage would see nothing, and for which it takes half of the time.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTEST_ADDOPTS"] = "-p no:robustcl -p robustcl.testing"  # as installed, of this very checkout
    if not installed():
        environment["PYTHONPATH"] = str(ROOT)
        if block.language in SHELLS:
            pytest.skip("robustcl is not installed, so there is no command to run")
    if block.language in SHELLS:
        command = ["bash", "-euo", "pipefail", "-c", shell_source(block)]
    else:
        code = f"exec(compile({python_source(part)!r}, {str(block.document)!r}, 'exec'))"
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{place(part)} ends with {done.returncode}\n{done.stdout}{done.stderr}"
