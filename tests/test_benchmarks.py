"""The only owner of the tests of how costs are compared: rounds, ratios, goals, the table and its command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import autoattack, clusters, frequency, peers, pgd, views
from benchmarks.ratio import Ratio, against, compared, interleave, summary, table
from robustcl.pretraining.frequency import high_frequency

TIMED = Ratio(number=4, what="PGD-20", peer="theirs", goal=1.5, ratios=(1.0, 2.0, 1.6))
COUNTED = Ratio(number=7, what="a step", peer="published", metric="units", goal=35.1, ratios=(35.0625,), kind="count")
ABSENT = Ratio(number=5, what="PGD-20", peer="foolbox", goal=1.8, note=peers.absent("foolbox"))


def test_candidates_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []

    def called(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    times = interleave({name: called(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "abcbcacababc"
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert min(min(taken) for taken in times.values()) >= 0


def test_a_busy_candidate_takes_longer_than_an_idle_one() -> None:
    times = interleave({"busy": lambda: sum(range(300_000)), "idle": lambda: None}, rounds=3)
    assert min(times["busy"]) > max(times["idle"])


def test_a_ratio_is_taken_within_its_round_and_held_against_its_goal() -> None:
    times = {"ours": [1.0, 2.0], "theirs": [3.0, 4.0]}
    assert against(times, "ours", "theirs") == (3.0, 2.0)
    made, other = compared([TIMED, ABSENT], times, "ours")
    assert (made.ratios, made.median, made.low, made.high, made.rounds, made.met) == ((3, 2), 2.5, 2, 3, 2, True)
    assert other.met is None
    assert other.ratios == ()


@pytest.mark.parametrize(("goal", "met"), [(1.6, True), (1.7, False), (None, None)])
def test_the_median_meets_the_goal_or_does_not(goal: float | None, met: bool | None) -> None:
    made = Ratio(number=1, what="w", peer="p", goal=goal, ratios=TIMED.ratios)
    assert made.met is met


def test_a_count_may_not_pass_its_goal_and_has_no_spread() -> None:
    assert COUNTED.met is True
    assert Ratio(number=7, what="w", peer="p", goal=35, ratios=(35.0625,), kind="count").met is False
    assert "exact" in COUNTED.cells()


def test_the_table_is_in_the_order_of_the_goals_and_says_what_is_missing() -> None:
    lines = table([COUNTED, ABSENT, TIMED]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["4", "5", "7"]
    assert "1.60x" in lines[2]
    assert "1.00 to 2.00" in lines[2]
    assert "not installed (pip install foolbox)" in lines[3]
    assert "<= 35.1" in lines[4]
    assert summary([COUNTED, ABSENT, TIMED]) == "2 of 2 wanted numbers reached, 1 not measured."


def test_the_command_runs_a_topic_and_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def compare(rounds: int) -> list[Ratio]:
        asked.append(rounds)
        return [TIMED, COUNTED, ABSENT]

    topic = command.Topic(name="toy", about="A toy.", compare=compare, quick=lambda: [ABSENT])
    monkeypatch.setattr(command, "topics", lambda: {"toy": topic})
    made, rows = tmp_path / "made.md", tmp_path / "made.csv"
    command.main(["toy", "--rounds", "2", "--markdown", str(made), "--csv", str(rows)])
    assert asked == [2]
    assert made.read_text() == capsys.readouterr().out
    assert "command: `python -m benchmarks toy --rounds 2 " in made.read_text()
    assert len(rows.read_text().splitlines()) == 1 + 3 + 1
    command.main(["--quick"])
    assert "0 of 0 wanted numbers reached, 1 not measured." in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no")])
def test_a_topic_that_stops_takes_nothing_from_the_others(
    error: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(rounds: int) -> list[Ratio]:
        raise error

    toys = {
        name: command.Topic(name=name, about="A toy.", compare=compare, quick=lambda: [])
        for name, compare in (("good", lambda rounds: [TIMED]), ("bad", fails))
    }
    monkeypatch.setattr(command, "topics", lambda: toys)
    command.main([])
    said = capsys.readouterr()
    assert "1.60x" in said.out
    assert "interrupted" in said.err or "failed: ValueError('no')" in said.out


@pytest.mark.parametrize("wrong", [["toi"], ["--rounds", "0"]])
def test_a_wrong_topic_is_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(wrong)
    assert "expected one of" in capsys.readouterr().err or wrong[0] == "--rounds"


def test_the_topics_are_found() -> None:
    known = {module.__name__.rpartition(".")[2] for module in (autoattack, clusters, frequency, pgd, views)}
    assert command.topics().keys() == known | {"devices", "steps"}, "not what imports a `compare` of something else"
    assert all(topic.about.startswith("The only owner of ") for topic in command.topics().values())


def test_a_peer_that_is_not_installed_is_a_line_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda name: False)
    monkeypatch.setattr(views, "BATCH", 2)
    lines = views.quick()
    assert [line.note for line in lines][:2] == [peers.absent("torchvision"), peers.absent("kornia")]
    assert all(line.met is None for line in lines)


def test_the_published_way_to_high_frequencies_is_ours() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frequency.published(x), high_frequency(x, frequency.RADIUS), rtol=0, atol=1e-6)
