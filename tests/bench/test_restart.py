"""A real kill -9 in the middle of every kind of attack, and the resumed records, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustcl.bench import records
from robustcl.bench.evaluate import judge
from tests.bench.killed import ATTACKS, Counting, setting

ROOT = Path(__file__).parents[2]
NAMES = [*ATTACKS, "wrapped"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per attack, as the kill left it."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.bench.killed", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for name in NAMES for word in (name, "-9")], done.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_resumed_after_kill_9_the_records_are_the_same_bytes(killed: Path, tmp_path: Path, name: str) -> None:
    whole, again = Counting(), Counting()
    records.write(tmp_path / "whole.parquet", judge(whole, *setting(name, None)))
    kept = sorted(path.name for path in (killed / name).glob("*.npz"))
    assert any(path.startswith("002") for path in kept), "it died after the judge before had finished"
    records.write(tmp_path / "again.parquet", judge(again, *setting(name, killed / name)))
    assert again.calls < whole.calls, "finished batches are not attacked again"
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
