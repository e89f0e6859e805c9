"""A Ray cluster of two workers makes what one process makes; what goes wrong there is one line here."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import robustcl
from robustcl.bench import cluster, stages, task
from robustcl.bench.batches import Batches
from robustcl.bench.cluster import Ray, asked_for
from robustcl.bench.errands import directions
from robustcl.bench.library import Library
from robustcl.bench.place import Place
from robustcl.bench.runner import claim, make, prepare
from robustcl.bench.stages import assist, execute
from robustcl.bench.store import Stage, Store
from robustcl.models.errors import LostError, UserError
from tests.bench import on_ray
from tests.bench.test_executors import CLUSTERS
from tests.bench.tiny import Quiet, one_line, visible, write_suite
from tests.blocks import ROOT

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra robustcl[ray]")
Case = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a process has run all cases of `on_ray`, and what it printed."""
    folder = tmp_path_factory.mktemp("ray")
    words = [sys.executable, "-m", "tests.bench.on_ray", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "out").write_text(done.stdout)
    (folder / "err").write_text(done.stderr)
    return folder


@pytest.fixture
def case(folder: Path) -> Case:
    return lambda name: dict(json.loads((folder / f"{name}.json").read_text()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes that this process makes."""
    folder = tmp_path_factory.mktemp("alone")
    make(prepare(write_suite(folder, more=CLUSTERS), runs=folder / "runs", overrides=on_ray.LONG), Quiet(), workers=1)
    return visible(folder / "runs")


@needs_ray
def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed_at_work(
    case: Case, folder: Path, alone: dict[str, bytes]
) -> None:
    said = case("whole")
    assert "| advcl" in said["table"]
    assert (said["killed"], said["resumed"]) == (1, 1)
    assert visible(folder / "whole") == alone
    assert [path.name for path in (folder / "whole").glob("*/.[!.]*")] == []


@needs_ray
def test_workers_to_spare_attack_batches_of_an_evaluation(case: Case, folder: Path, tmp_path: Path) -> None:
    assert len(case("split")["pids"]) == 2
    make(prepare(write_suite(tmp_path), runs=tmp_path / "runs", overrides=on_ray.SPLIT), Quiet(), workers=1)
    assert visible(folder / "split") == visible(tmp_path / "runs")


@needs_ray
def test_errors_of_a_stage_are_the_same_lines(case: Case) -> None:
    said = case("numbers")
    assert said["error"] == "NumberError"
    assert one_line(said["message"]).startswith("pretrain at: the loss is not finite in epoch 1, step ")
    said = case("mistake")
    assert said["error"] == "UserError"
    assert one_line(said["message"]).partition(": ")[2] == (
        "the images have changed since the plan was made; run again"
    )


@needs_ray
def test_ctrl_c_stops_the_tasks(case: Case) -> None:
    said = case("interrupted")
    assert said["begun"]
    assert said["missing"]
    assert said["alive"] == []


@needs_ray
def test_ray_is_quiet_and_leaves_the_process_as_it_was(case: Case, folder: Path) -> None:
    assert case("whole")["kept"]
    assert (folder / "out").read_text() == ""
    lines = (folder / "err").read_text().splitlines()
    assert lines
    assert all(line.startswith(("[", " " * 8)) for line in lines), "the console's lines alone"


def test_a_worker_that_is_lost_again_and_again(tmp_path: Path) -> None:
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    class WorkerCrashedError(RayError):
        pass

    def crew(error: Exception) -> Any:
        def get(task: object) -> None:
            raise error

        crew = object.__new__(cluster._Crew)
        errors = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        crew.library = SimpleNamespace(get=get, exceptions=errors)
        return crew

    stage = Stage(kind="pretrain", part={}, label="pretrain at")
    with pytest.raises(LostError) as lost:
        crew(WorkerCrashedError("many\nlines"))._answer(stage, None)
    assert one_line(str(lost.value)).startswith(
        "pretrain at: its Ray worker was lost, and 3 more that tried again (WorkerCrashedError), out of memory?; what "
    )
    with pytest.raises(UserError) as absent:
        crew(RayTaskError("ray::task\n  trace\nNo module named 'robustcl'"))._answer(stage, None)
    assert one_line(absent.value) == (
        "pretrain at: a Ray worker cannot run robustcl (No module named 'robustcl'), expected "
        f"{robustcl.__version__} on every machine"
    )


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a task is told of its place, in a folder that is left again."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    store.claim_suite("tiny", {}, [])
    where = directions(Place(store=store, library=Library()))
    yield {**where, "folder": str(tmp_path), "version": robustcl.__version__}
    task._place.cache_clear()


def test_a_machine_that_does_not_see_the_same_files_says_so(told: dict[str, Any], tmp_path: Path) -> None:
    def error(**other: str) -> str:
        answer = json.loads(task.errand(json.dumps({**told, **other}), json.dumps(STAGE), assists=False))
        assert answer["error"] == "UserError"
        assert not answer["worked"]
        return one_line(answer["message"])

    host = socket.gethostname()
    elsewhere = f"not there on {host}, expected a file system that all machines share"
    assert error(folder="/nowhere/at/all") == f"/nowhere/at/all: {elsewhere}"
    (tmp_path / "other").mkdir()
    assert error(root=str(tmp_path / "other")) == f"{tmp_path / 'other' / 'suite.json'}: {elsewhere}"
    assert error(version="0.0") == f"{host}: robustcl {robustcl.__version__}, expected 0.0 as where the run was started"
    assert error(device="cuda:77").startswith("--device cuda:77: not available (")


STAGE = {"kind": "pretrain", "part": {"data": "0" * 16}, "parents": {}, "label": "pretrain at"}


def test_what_was_made_where_nobody_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.0)
    crew = object.__new__(cluster._Crew)
    crew.store, crew.over = Store(tmp_path), threading.Event()
    with pytest.raises(UserError) as caught:
        crew._seen(Stage(kind="pretrain", part={}, label="pretrain at"), "node7")
    assert one_line(caught.value) == (
        f"{tmp_path}: pretrain at was made on node7 and is not seen here, expected a folder on a file system that all "
        "machines share"
    )


def test_places_are_counted_machine_by_machine() -> None:
    def places(gpus: float, *nodes: dict[str, float]) -> int:
        found = [{"Alive": node.pop("alive", True), "Resources": node} for node in nodes]
        crew = object.__new__(cluster._Crew)
        crew.library = SimpleNamespace(nodes=lambda: found)
        crew.needs = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        return crew.places()

    assert places(0, {"CPU": 4.0}, {"CPU": 2.0, "alive": False}, {"GPU": 2.0}) == 4
    assert places(0.1, {"CPU": 32.0, "GPU": 1.0}) == 10
    assert places(0.5, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}) == 3 + 2
    assert places(2, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}) == 0, "no machine has two"


def test_what_does_not_go_together_is_refused() -> None:
    assert asked_for("local", None, None, "mps") is None
    assert asked_for("ray", "auto", 0.5, "cuda") == Ray(address="auto", gpus=0.5)
    for given, says in (
        (("rey", None, None, "cpu"), "--executor: unknown executor 'rey', expected one of local, ray; did you mean"),
        (("local", "auto", None, "cpu"), "--address auto: is of a cluster, expected --executor ray with it"),
        (("local", None, 0.5, "cuda"), "--gpus-per-stage 0.5: is of a cluster, expected --executor ray with it"),
        (("ray", None, None, "cuda:1"), "--device cuda:1: with --executor ray, expected cpu or cuda: Ray says which"),
        (("ray", None, 0.5, "cpu"), "--gpus-per-stage 0.5: with --device cpu, expected cuda"),
        (("ray", None, 0.0, "cuda"), "--executor ray.gpus: 0.0 is wrong, expected greater than 0"),
    ):
        with pytest.raises(UserError) as caught:
            asked_for(*given)
        assert one_line(caught.value).startswith(says)


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as caught:
        robustcl.run(write_suite(tmp_path), runs=tmp_path / "runs", executor="ray")
    assert one_line(caught.value) == ("--executor ray: Ray is not installed, expected it: pip install 'robustcl[ray]'")


def test_nobody_assists_at_what_nobody_makes(tmp_path: Path) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    claim(job)
    stage = next(stage for stage in job.plan.stages if stage.kind == "evaluate")
    assist(stage, job.place)
    assert not (tmp_path / "runs" / "evaluate").exists()


def test_an_evaluation_that_died_at_its_end_attacks_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    stage, place = next(stage for stage in job.plan.stages if stage.kind == "evaluate"), replace(job.place, shared=True)
    for parent in job.plan.stages[: job.plan.stages.index(stage)]:
        execute(parent, place, lambda done, total: None)
    with monkeypatch.context() as patched:
        patched.setattr(stages, "provenance", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(stage, place, lambda done, total: None)
    kept: list[Path | None] = []
    monkeypatch.setattr(Batches, "save", lambda desk, *_: kept.append(desk.folder))
    assert execute(stage, place, lambda done, total: None)
    assert {folder for folder in kept if folder} == set(), "the checks alone attack, which keep nothing"


def test_who_assists_is_sent_away_from_what_failed() -> None:
    waits, begun, cancelled = iter([[], ["a task"]]), list[bool](), list[bool]()

    def remote(where: str, said: str, *, assists: bool) -> bool:
        begun.append(assists)
        return assists

    crew: Any = object.__new__(cluster._Crew)
    crew.library = SimpleNamespace(
        wait=lambda tasks, timeout: [next(waits)],
        get=lambda task: json.dumps({"error": "UserError", "message": "a mistake"}),
        cancel=lambda task, force: cancelled.append(task),
        exceptions=SimpleNamespace(RayError=OSError, RayTaskError=OSError),
    )
    crew.watch, crew.where, crew.place, crew.over = Quiet(), "", {}, threading.Event()
    crew.task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote))
    crew._reached = lambda stage: (0, 1)
    with pytest.raises(UserError, match="a mistake"):
        crew.make(Stage(kind="evaluate", part={}, label="evaluate at"), 3)
    assert begun == cancelled == [False, True, True]
