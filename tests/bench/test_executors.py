"""Where stages run does not change what they make; what goes wrong there is told here."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcl.bench import errands
from robustcl.bench.runner import Job, make, prepare
from robustcl.bench.store import Stage
from robustcl.models.errors import NumberError, UserError
from tests.bench.tiny import Quiet, one_line, visible, write_suite


def job(folder: Path, *overrides: str, runs: str = "runs", more: str = "") -> Job:
    return prepare(write_suite(folder, more=more), runs=folder / runs, overrides=overrides)


CLUSTERS = """
[labels.groups]
encoder = "at"
k = [3]

[pretrain.advcl]
method = "advcl"
labels = "groups"
strong = "digits"
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 1, batch = 512 }
"""


def test_in_process_and_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    here, there = job(tmp_path, runs="one", more=CLUSTERS), job(tmp_path, runs="two", more=CLUSTERS)
    one, two = Quiet(), Quiet()
    make(here, one, workers=1)
    make(there, two, workers=2)
    left, right = visible(tmp_path / "one"), visible(tmp_path / "two")
    assert left == right
    names = {Path(path).name for path in left}
    assert {"records.parquet", "encoder.safetensors", "classifier.safetensors", "labels.npz"} <= names
    assert sorted(one.done) == sorted(two.done) == sorted(stage.label for stage in here.plan.stages)
    assert here.missing == there.missing == []
    again = Quiet()
    make(there, again, workers=2)
    assert again.begun == []


def half_made(root: Path) -> list[Path]:
    """Visible stage folders that lack their note."""
    stages = [path for kind in ("pretrain", "finetune", "evaluate") for path in (root / kind).glob("[!.]*")]
    return [path for path in stages if not (path / "stage.json").exists()]


@pytest.mark.parametrize("workers", [1, 2])
def test_numbers_that_go_wrong_are_one_line(tmp_path: Path, workers: int) -> None:
    broken = job(tmp_path, "pretrain.at.training.optimiser.lr=1e30", "pretrain.at.training.epochs=2")
    with pytest.raises(NumberError) as caught:
        make(broken, Quiet(), workers=workers)
    text = one_line(str(caught.value))
    assert text.startswith("pretrain at: the loss is not finite in epoch 1, step ")
    assert half_made(tmp_path / "runs") == []
    lost = next(stage for stage in broken.plan.stages if stage.label == "pretrain at")
    assert not broken.place.store.has(lost)


def test_a_mistake_found_by_a_worker_is_the_same_line(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    arrays = {f"{s}_images": g.integers(0, 256, (40, 8, 8), dtype=np.uint8) for s in ("train", "test")}
    labels = {f"{s}_labels": np.arange(40) % 4 for s in ("train", "test")}
    path = tmp_path / "data.npz"
    np.savez(path, **arrays, **labels)  # type: ignore[arg-type]
    planned = job(tmp_path, 'data.name="npz"', f'data.path="{path}"', runs="runs")
    np.savez(path, **arrays, **{name: part[::-1] for name, part in labels.items()})  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        make(planned, Quiet(), workers=2)
    expected = "the images have changed since the plan was made; run again"
    assert one_line(caught.value).partition(": ")[2] == expected
    assert half_made(tmp_path / "runs") == []
    make(planned, Quiet(), workers=1)  # in this process the images of the plan are still at hand
    assert planned.missing == []


class Recorded(subprocess.Popen[str]):
    made: "list[Recorded]" = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Recorded.made.append(self)


class Killer(Quiet):
    """Kills every worker at the first stage."""

    def started(self, stage: Stage) -> None:
        for worker in Recorded.made:
            worker.kill()
            worker.wait()


def test_a_killed_worker_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "made", [])
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(RuntimeError, match=r"pretrain .*: the worker process died \(exit code -9\)"):
        make(job(tmp_path), Killer(), workers=2)
    assert len(Recorded.made) == 2
    assert half_made(tmp_path / "runs") == []


def test_stages_survive_json(tmp_path: Path) -> None:
    for stage in job(tmp_path, more=CLUSTERS).plan.stages:
        back = errands.from_json(errands.to_json(stage))
        assert back.key == stage.key
        assert back.label == stage.label
