"""A real kill -9 in the middle of every kind of attack, and the resumed records, byte for byte."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import records
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.threat import Threat
from tests.bench.killed import ATTACKS, Counting, setting
from tests.bench.tiny import images_for, network

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


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_lost_batches_come_back_the_same_in_every_norm(tmp_path: Path, norm: Any) -> None:
    """The package's attacks keep state from batch to batch, as where a ball shrinks; none of it may count."""
    model = network(size=6)
    images = images_for(model, 18, size=6)
    threat = Threat({"l2": "1/5", "l1": "1/2"}[norm], norm=norm)
    given = Trial(threat=threat, judges={name: [attack] for name, attack in ATTACKS.items() if name != "transfer"})
    kept = dataclasses.replace(given, keep=tmp_path, batch=4)
    first = judge(model, images, kept)
    for path in sorted(tmp_path.glob("*.npz"))[::2]:
        path.unlink()
    assert judge(model, images, kept).equals(first)
    assert set(first["right"]) == {True, False}
