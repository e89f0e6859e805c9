"""The only owner of the tests of a dry run: the state of its stages, what each kind comes to, what all of it costs."""

import os
import re
import socket
from pathlib import Path

import pytest

from robustcl.bench import locks
from robustcl.bench.runner import Job, claim, prepare
from robustcl.bench.stages import execute
from robustcl.outline import outline
from tests.bench.test_imports import save_images
from tests.bench.tiny import write_suite


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """The tiny suite with an encoder made, its finetuning begun and its sibling's under way."""
    made = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    claim(made)
    by_label = {stage.label: stage for stage in made.plan.stages}
    execute(by_label["pretrain at"], made.place, lambda done, total: None)
    with pytest.raises(KeyboardInterrupt):
        made.place.store.make(by_label["finetune at SLF"], _interrupted)
    return made


def _interrupted(folder: Path) -> dict[str, str]:
    raise KeyboardInterrupt


def rows(text: str) -> dict[str, list[str]]:
    """Label -> state, passes, time."""
    found = (re.split(r"\s{2,}", line) for line in text.split("\n\n")[1].splitlines())
    return {label: rest for label, *rest in found}


def test_every_stage_says_its_state(job: Job) -> None:
    made = rows(outline(job))
    assert made["stage"] == ["state", "passes", "device time"]
    states = {label: rest[0] for label, rest in made.items()}
    assert states["pretrain at"] == "there"
    assert states["finetune at SLF"] == "begun"
    assert states["pretrain random"] == "to make"
    stage = next(stage for stage in job.plan.stages if stage.label == "finetune at SLF")
    lock = job.place.store.root / ".locks" / f"finetune-{stage.key}"
    with locks.claimed(lock):
        assert rows(outline(job))["finetune at SLF"][0] == f"working ({socket.gethostname()} {os.getpid()})"


def test_what_is_left_of_each_kind_adds_up(job: Job) -> None:
    parts = outline(job).split("\n\n")
    kinds = {name: rest for name, *rest in (line.split() for line in parts[2].splitlines())}
    assert kinds["pretrain"][:2] == ["2", "1"]
    assert kinds["all"][:2] == ["7", "6"]
    counted = {name: int(of[2].replace(",", "")) for name, of in kinds.items() if name != "kind"}
    assert counted.pop("all") == sum(counted.values()) > 0
    missing = set(job.missing)
    assert sum(counted.values()) == sum(job.plan.cost.get(key, 0) for key in missing)
    assert parts[3].startswith(f"at most {sum(counted.values()):,} passes: ")


def test_a_suite_of_ones_own_has_a_clock_and_no_paper(job: Job) -> None:
    (line,) = outline(job).split("\n\n")[4].splitlines()
    assert re.fullmatch(r"by the clock, at most: .+ on 1, .+ on 8, .+ on 64 devices like this one, .+", line)


def test_a_mini_twin_tells_what_the_paper_comes_to(tmp_path: Path) -> None:
    made = prepare(
        "table1-mini",
        runs=tmp_path / "runs",
        overrides=[
            f"data.path={save_images(tmp_path / 'images.npz')}",
            "data.train=64",
            "judge.images=8",
            "table.rows=['at']",
        ],
    )
    last = outline(made).splitlines()[-1]
    assert last.startswith("table1 at paper scale: 39 stages, at most 8,359,107,072 passes; by the clock ")
    assert "on 1, " in last
    assert "on 64 GPUs that sustain 60 to 15 TFLOP/s" in last
    assert not (tmp_path / "runs").exists()
