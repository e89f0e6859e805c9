"""torchrun starts the command line: one table, one line for a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustcl.bench.runner import prepare
from robustcl.bench.together import join
from robustcl.models.errors import UserError
from tests.bench.tiny import write_suite

ROOT = Path(__file__).parents[2]


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "robustcl", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_suite_by_torchrun(tmp_path: Path) -> None:
    path, runs = write_suite(tmp_path), tmp_path / "runs"
    done = torchrun("run", str(path), "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| scheme | encoder") == 1
    assert prepare(path, runs=runs).missing == []
    for words, line in (
        (("run", str(path), "--set", "pretrain.at.methd=3"), "unknown key 'methd'"),
        (("run", str(path), "--runs", str(runs), "--workers", "2"), "--workers 2: within a process group, whose"),
        (("evaluate", "a.py:b", "--data", "digits", "--eps", "1/10"), "evaluate: started by torchrun, expected it by"),
    ):
        wrong = torchrun(*words)
        said = [told for told in wrong.stderr.splitlines() if told.startswith("robustcl:")]
        assert said
        assert all(line in told for told in said)
        assert "Traceback" not in wrong.stderr.partition("torch/distributed")[0]


def test_without_torchrun_nothing_is_joined() -> None:
    assert join("cuda:1") == "cuda:1"


def test_a_numbered_device_cannot_serve_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="--device cuda:1: started by torchrun, expected cpu, or cuda for one GPU per"):
        join("cuda:1")
