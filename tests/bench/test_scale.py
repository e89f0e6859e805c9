"""The only owner of the tests of what grows: planning, looks into the store, stages by the clock, the paper's scale."""

import itertools
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcl.bench import encoders, reliability, rows, store
from robustcl.bench import plan as plans
from robustcl.bench.library import Library
from robustcl.bench.pace import flops, wall
from robustcl.bench.plan import Plan, plan
from robustcl.bench.scale import SHAPE, SUSTAINED, at_scale, clock, twin
from robustcl.bench.spec import read_suite
from robustcl.bench.store import Stage, Store
from robustcl.models.encoder import Encoder
from tests.bench.tiny import write_suite


def planned(folder: Path, points: int) -> Plan:
    """The tiny suite as a grid of so many seeds of pretraining."""
    more = f"\n[grid]\n'seeds.pretrain' = {list(range(points))}\n"
    return plan(read_suite(write_suite(folder, more=more)), Library())


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How often a function was called, as a list of one number that goes on counting."""
    count, asked = [0], getattr(owner, name)

    def counting(*given: Any, **named: Any) -> Any:
        count[0] += 1
        return asked(*given, **named)

    monkeypatch.setattr(owner, name, counting)
    return count


@pytest.mark.parametrize(
    ("owner", "name", "each"),
    [
        (store, "digest", 9),  # keys: an encoder, its finetuning and its judge, and where each is asked for
        (rows, "_grid", 4),  # a look at each of two cells
        (encoders, "Encoder", 0),  # networks are built for a look once, and not at every point
    ],
)
def test_planning_grows_with_the_stages_and_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, each: int
) -> None:
    count, found = counted(monkeypatch, owner, name), []
    for points in (2, 4, 8, 16):
        count[0] = 0
        assert len(planned(tmp_path, points).cells) >= points
        found.append(count[0])
    grown = [after - before for before, after in itertools.pairwise(found)]
    assert grown == [grown[0], 2 * grown[0], 4 * grown[0]]
    assert grown[0] <= 2 * each


def test_a_deep_graph_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighteen stages, each of which has the one before twice as its parent: there are 2^18 paths through them."""
    stage = Stage(kind="pretrain", part={})
    for number in range(18):
        stage = Stage(kind="finetune", part={"number": number}, parents={"one": stage, "other": stage})
    known: dict[str, Stage] = {}
    visits = counted(monkeypatch, plans, "enter")
    plans.enter(stage, known)
    assert len(known) == 19
    assert list(known.values())[-1] is stage
    assert visits == [1 + 2 * 18], "each parent of each stage"


def numbered(count: int) -> list[Stage]:
    return [Stage(kind=("evaluate", "finetune")[n % 2], part={"number": n}, label=f"{n}") for n in range(count)]


def test_finished_stages_are_found_by_a_look_at_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, stages = Store(tmp_path / "runs"), numbered(30)
    assert one.finished(stages) == one.begun(stages) == set(), "there is no folder yet"
    for stage in stages[:12]:
        assert one.make(stage, lambda _: {})
    with pytest.raises(ZeroDivisionError):
        one.make(stages[20], lambda _: {"never": 1 / 0})
    looks, stats = counted(monkeypatch, os, "scandir"), counted(monkeypatch, os, "stat")
    assert one.finished(stages) == {stage.key for stage in stages[:12]}
    assert one.begun(stages) == {stages[20].key}
    assert looks == [4], "two kinds, twice"
    assert stats == [0], "no look at a single stage"
    assert {stage.key for stage in stages if one.has(stage)} == one.finished(stages)


def chain(*seconds: float, parent: Stage | None = None) -> list[tuple[Stage, float]]:
    made = []
    for number, of in enumerate(seconds):
        parents = {"before": parent} if parent else {}
        parent = Stage(kind="finetune", part={"number": number, "seconds": of}, parents=parents)
        made.append((parent, of))
    return made


def clocked(stages: list[tuple[Stage, float]], devices: int) -> float:
    return wall([stage for stage, _ in stages], {stage.key: of for stage, of in stages}, devices)


def test_stages_by_the_clock_by_hand() -> None:
    assert clocked([], 3) == 0
    assert [clocked(chain(3, 2, 1), devices) for devices in (1, 2, 64)] == [6, 6, 6], "a chain gains nothing"
    apart = [*chain(4), *chain(3), *chain(2), *chain(1)]
    assert [clocked(apart, devices) for devices in (1, 2, 3, 64)] == [10, 5, 4, 4]
    # The longest path goes first, though its first stage is the shortest: 1 and 5 beside 3.5 and 3. In order it were 9.
    assert clocked([*chain(3), *chain(3.5), *chain(1, 5)], 2) == 6.5
    first, second = chain(2, 5)
    assert clocked([second], 1) == 5, "what is not among them is made already"
    assert clocked([first, second], 1) == 7


def test_more_devices_are_never_better_than_the_longest_path_and_the_work_they_share() -> None:
    g = random.Random(0)
    for _ in range(20):
        stages: list[tuple[Stage, float]] = []
        for number in range(30):
            parents = {f"{n}": of[0] for n, of in enumerate(g.sample(stages, min(len(stages), g.randrange(3))))}
            stages.append((Stage(kind="probe", part={"number": number}, parents=parents), g.uniform(0, 9)))
        work, endless = sum(of for _, of in stages), clocked(stages, 1000)
        longest: dict[str, float] = {}
        for stage, of in stages:
            longest[stage.key] = of + max((longest[p.key] for p in stage.parents.values()), default=0)
        assert clocked(stages, 1) == pytest.approx(work)
        assert endless == pytest.approx(max(longest.values()))
        for devices in (2, 3, 8):
            found = clocked(stages, devices)
            assert max(endless, work / devices) - 1e-9 <= found <= work / devices + endless + 1e-9  # Graham, 1966


def test_a_suite_at_paper_scale_is_planned_without_its_images() -> None:
    assert (twin("table1"), twin("table1-mini"), twin("quickstart"), twin("nobody's")) == (
        "table1",
        "table1",
        None,
        None,
    )
    points, made = at_scale("table1")
    passes = {stage.label: made.cost[stage.key] for stage in made.stages}
    rocl = points[0].pretrain["rocl"].method
    assert passes["pretrain rocl"] == rocl.training.epochs * 50_000 * rocl.facts.units
    judged = {of for label, of in passes.items() if label.startswith("evaluate ")}
    assert judged == {10_000 * (1 + 2 * 20 + 9_728) + reliability.cost(10_000)}, "clean, PGD-20, AutoAttack, checks"
    work = flops(Encoder(points[0].architecture, SHAPE).eval(), torch.zeros(1, *SHAPE))
    assert work == pytest.approx(1.11e9, rel=0.01)
    low, high = clock(points, made, 1)
    assert low == pytest.approx(sum(made.cost.values()) * work / max(SUSTAINED))
    assert high == pytest.approx(low * max(SUSTAINED) / min(SUSTAINED))
    assert clock(points, made, 64)[0] < low / 3
