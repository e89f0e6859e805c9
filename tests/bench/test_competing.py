"""Any number of the same command on one store: every stage once, and what a process leaves undone is made by others."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import locks
from robustcl.bench.agenda import Agenda
from robustcl.bench.executors import side_by_side, told
from robustcl.bench.locks import claimed, holder
from robustcl.bench.runner import Job, claim, make, prepare
from robustcl.bench.stages import execute, work_of
from robustcl.bench.store import Stage, Store
from robustcl.models.errors import NumberError, UserError
from tests import forks
from tests.bench.tiny import Quiet, one_line, visible, write_suite
from tests.blocks import ROOT

CLUSTERS = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
SECOND = """
[pretrain.simclr]
method = "simclr"
strong = "digits"
training = { epochs = 1, batch = 512 }

[finetune.SFF]
weak = "digits-weak"
selection = ["last"]
training = { epochs = 1, batch = 256 }
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PATH with a `robustcl` that starts in no time."""
    with forks.commands(tmp_path_factory.mktemp("commands"), ROOT) as folder:
        yield os.pathsep.join([str(folder), os.environ["PATH"]])


def job_script() -> str:
    (script,) = re.findall(r"^cat > job.sh <<'END_OF_FILE'\n(.*?)^END_OF_FILE$", CLUSTERS, re.MULTILINE | re.DOTALL)
    return str(script)


def start(path: str, script: Path) -> "subprocess.Popen[str]":
    """The job script of docs/clusters.md, as Slurm starts it: from anywhere."""
    env = os.environ | {"PATH": path, "SLURM_SUBMIT_DIR": str(script.parent), "SLURM_CPUS_PER_TASK": "1"}
    words, pipe = ["bash", str(script), "tiny.toml", "--runs", "runs"], subprocess.PIPE
    return subprocess.Popen(words, cwd="/", env=env, stderr=pipe, stdout=pipe, text=True)


def kill_a_worker(store: Store, stages: list[Stage]) -> tuple[Stage, int]:
    """SIGKILL to the first process that is seen to work at a stage."""
    for _ in range(6000):
        for stage in stages:
            found = store.holder(stage.kind, stage.key)
            if found and found.alive and found.pid > 0:
                os.kill(found.pid, signal.SIGKILL)
                return stage, found.pid
        time.sleep(0.01)
    pytest.fail("nobody worked")


def test_four_processes_make_every_stage_once_and_one_may_die(path: str, tmp_path: Path) -> None:
    suite = write_suite(tmp_path, more=SECOND)
    alone = prepare(suite, runs=tmp_path / "alone")
    make(alone, Quiet(), workers=1)
    store, labels = Store(tmp_path / "runs"), [stage.label for stage in alone.plan.stages]
    (tmp_path / "job.sh").write_text(job_script())
    running = [start(path, tmp_path / "job.sh") for _ in range(4)]
    stage, _ = kill_a_worker(store, [s for s in alone.plan.stages if s.kind == "finetune"])
    said = [process.communicate(timeout=120) for process in running]
    codes = sorted(process.returncode % 256 for process in running)
    assert codes == [0, 0, 0, 256 - signal.SIGKILL], said
    assert visible(tmp_path / "runs") == visible(tmp_path / "alone")
    made = Counter(re.findall(r"^\[ *\d+/\d+\] (.*) \([\d.]+ s\)", "\n".join(err for _, err in said), re.MULTILINE))
    assert sorted(made) == sorted(labels)
    assert set(made.values()) == {1}
    assert made[stage.label] == 1, "what was left undone was made by another process"
    tables = {out for (out, _), process in zip(said, running, strict=True) if not process.returncode}
    assert len(tables) == 1
    assert [path.name for path in (tmp_path / "runs").glob("*/.[!.]*")] == []


class Watch(Quiet):
    """Notes whom it waits for, and then lets them go on."""

    def __init__(self, go: threading.Event) -> None:
        super().__init__()
        self.waited: list[tuple[str, int]] = []
        self.go = go

    def waiting(self, stage: Stage, holder: locks.Holder) -> None:
        """Noted."""
        self.waited.append((stage.label, holder.pid))
        self.go.set()


@contextmanager
def another(store: Store, stage: Stage, work: Callable[[Path], Any], go: threading.Event) -> Iterator[None]:
    """Somebody who has the claim of a stage, and does `work` when it is let `go`; for a lock a thread is another."""
    at_it = threading.Event()

    def begin(folder: Path) -> Any:
        at_it.set()
        assert go.wait(60)
        return work(folder)

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(store.make, stage, begin)
        try:
            assert at_it.wait(60)
            yield
        finally:
            go.set()
        with suppress(ZeroDivisionError):
            future.result()


def of(job: Job, label: str) -> Stage:
    return next(stage for stage in job.plan.stages if stage.label == label)


def test_what_another_process_makes_is_left_to_it(tmp_path: Path) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    stage, watch = of(job, "pretrain at"), Watch(threading.Event())
    work = work_of(stage, job.place, lambda done, total: None)
    claim(job)
    with another(job.place.store, stage, work, watch.go):
        make(job, watch, workers=1)
    assert watch.waited == [("pretrain at", os.getpid())], "said once"
    assert watch.begun[0] == "pretrain random", "what is free goes first"
    assert sorted(watch.done) == sorted(stage.label for stage in job.plan.stages)
    assert sorted(watch.done) == sorted([*watch.begun, "pretrain at"]), "and it began everything else"
    assert job.missing == []


def in_threads(job: Job, watch: Watch) -> None:
    """What `make` does with two workers, which take half a dozen seconds to start."""
    agenda = Agenda(job.plan.stages, job.place.store, job.plan.cost)
    with ThreadPoolExecutor(2) as threads:

        def made(stage: Stage, taken: int) -> "Future[bool]":
            return threads.submit(execute, stage, job.place, told(stage, watch), wait=False)

        side_by_side(agenda, lambda: 2, made, False, watch)


@pytest.mark.parametrize("made", [lambda job, watch: make(job, watch, workers=1), in_threads], ids=["one", "two"])
def test_what_another_process_fails_at_is_tried_here_once(tmp_path: Path, made: Callable[[Job, Watch], None]) -> None:
    job = prepare(
        write_suite(tmp_path),
        runs=tmp_path / "runs",
        overrides=["pretrain.at.training.optimiser.lr=1e30", "pretrain.at.training.epochs=2"],
    )
    watch = Watch(threading.Event())
    claim(job)
    with (
        another(job.place.store, of(job, "pretrain at"), lambda folder: 1 / 0, watch.go),
        pytest.raises(NumberError, match=r"^pretrain at: the loss is not finite in epoch 1"),
    ):
        made(job, watch)
    assert watch.waited == [("pretrain at", os.getpid())]
    assert watch.begun.count("pretrain at") == 1


def test_the_most_urgent_that_nobody_has_is_next(tmp_path: Path) -> None:
    first, second = (Stage(kind="labels", part={"x": x}, label=x) for x in ("first", "second"))
    child = Stage(kind="finetune", part={}, parents={"labels": second}, label="child")
    store = Store(tmp_path)
    agenda = Agenda([first, second, child], store, {first.key: 5, second.key: 1, child.key: 10})
    elsewhere: list[Stage] = []
    assert agenda.next(2, elsewhere.append) == [second, first], "the path of the second is the costliest"
    agenda.back(second)
    go = threading.Event()
    with another(store, second, lambda folder: {}, go):
        assert agenda.next(2, elsewhere.append) == []
        go.set()
    assert agenda.next(2, elsewhere.append) == [child]
    assert elsewhere == [second]
    agenda.done(child)
    assert agenda
    agenda.done(first)
    assert not agenda


def forged(path: Path, *, host: str = "node7", age: float = 0.0) -> None:
    """The lock file of a process on another machine that gave a sign of life `age` seconds ago."""
    path.write_text(json.dumps({"host": host, "pid": 123, "since": "2026-01-01T00:00:00+00:00"}))
    os.utime(path, times=(time.time() - age, time.time() - age))


def test_locks_that_do_not_reach_other_machines_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_BEAT", 0.4)
    path, over = tmp_path / "lock", threading.Event()
    forged(path)

    def live() -> None:
        while not over.wait(0.1):
            os.utime(path)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(live)
        with pytest.raises(UserError) as caught, claimed(path):
            pytest.fail("two machines at one stage")
        over.set()
    text = one_line(caught.value)
    assert text.startswith(f"{tmp_path}: process 123 on node7 works at what {socket.gethostname()} was let have as ")
    assert "Lustre: flock, NFS: neither nolock nor local_lock" in text
    left = holder(path)
    assert left is not None
    assert left.host == "node7", "the note stays that of who works"


@pytest.mark.parametrize("age", [0.0, 3600.0, -3600.0], ids=["now", "an-hour-ago", "a-clock-that-went-back"])
def test_who_died_on_another_machine_is_succeeded(tmp_path: Path, age: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_BEAT", 0.4)
    path = tmp_path / "lock"
    forged(path, age=age)
    began = time.monotonic()
    with claimed(path, wait=False) as mine:
        assert mine
        assert (time.monotonic() - began > 0.9) == (age == 0.0), "it listens for as long as a sign may come"
        found = holder(path)
        assert found is not None
        assert (found.pid, found.alive) == (os.getpid(), True)


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_BEAT", 0.05)
    path = tmp_path / "lock"
    with claimed(path):
        os.utime(path, times=(0, 0))
        time.sleep(0.5)
        assert path.stat().st_mtime > 0
        signs = threading.active_count()
    assert threading.active_count() == signs - 1
    os.utime(path, times=(0, 0))
    time.sleep(0.2)
    assert path.stat().st_mtime == 0


def test_a_run_that_was_killed_when_it_began_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / ".suite.json.part").write_text('{"schema"')
    Store(tmp_path).claim_suite("tiny", {}, [])
    assert Store(tmp_path).suite("tiny") == {"cells": [], "probes": []}
    assert not (tmp_path / ".suite.json.part").exists()
