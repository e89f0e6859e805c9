"""Curves for TensorBoard: what its own reader finds is what the logs say, while they grow and afterwards."""

import sys
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench.journal import Journal
from robustcl.models.errors import UserError
from robustcl.reports.board import NAME, Board, export
from tests.bench.tiny import one_line

KEY = "0123456789abcdef"
STAGE = "pretrain-at-1-10-01234567"


def journal(root: Path, label: str, folder: str) -> Journal:
    """The journal of a stage that has begun."""
    (root / folder).mkdir(parents=True)
    made = Journal(root / folder, lambda done, total: None)
    made.write("started", label=label)
    return made


def epoch(made: Journal, number: int) -> None:
    """An epoch of this number."""
    curve = {"epoch": number, "lr": 0.1, "loss": 2.0 / number, "val": None if number == 1 else 0.5}
    made.write("epoch", epoch=number, epochs=3, images_per_second=100.0 * number, curve=curve)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard reads in a folder."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder))
    found.Reload()
    return {
        tag: [(event.step, round(event.value, 4)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


@pytest.fixture
def board(tmp_path: Path) -> Board:
    pytest.importorskip("tensorboard")
    return Board(tmp_path / "runs", tmp_path / "board")


def test_curves_grow_with_the_log_and_go_on_when_the_stage_is_finished(board: Board, tmp_path: Path) -> None:
    made = journal(tmp_path / "runs", "pretrain at 1/10", f"pretrain/.{KEY}")
    epoch(made, 1)
    board.write()
    assert scalars(tmp_path / "board" / STAGE)["loss"] == [(1, 2.0)]
    epoch(made, 2)
    with made.path.open("ab") as file:
        file.write(b'{"time": "2026')  # torn for now
    board.write()
    hidden = tmp_path / "runs" / "pretrain" / f".{KEY}"
    hidden.rename(hidden.with_name(KEY))
    board.write()
    found = scalars(tmp_path / "board" / STAGE)
    assert found["loss"] == [(1, 2.0), (2, 1.0)]
    assert found["val"] == [(2, 0.5)]
    assert found["images_per_second"] == [(1, 100.0), (2, 200.0)]
    assert found["peak_memory"][0][1] > 1e6
    assert "epoch" not in found


def test_attacks_are_curves_of_their_judge(board: Board, tmp_path: Path) -> None:
    made = journal(tmp_path / "runs", "evaluate", f"evaluate/{KEY}")
    for attempt in range(2):
        for number, attack in enumerate(("apgd-ce", "square")[: attempt + 1]):
            made.write("attack started", judge="aa", attack=attack)
            made.write("attack finished", judge="aa", attack=attack, right=9 - number, passes_per_second=50)
        made.write("started", label="evaluate", resumed=True)
    board.write()
    found = scalars(tmp_path / "board" / f"evaluate-{KEY[:8]}")
    assert found["aa/right"] == [(1, 9.0), (1, 9.0), (2, 8.0)]
    assert found["aa/passes_per_second"][-1] == (2, 50.0)


def test_the_same_logs_make_the_same_files(board: Board, tmp_path: Path) -> None:
    made = journal(tmp_path / "runs", "pretrain at 1/10", f"pretrain/.{KEY}")
    for number in (1, 2, 3):
        epoch(made, number)
        board.write()
    path = tmp_path / "board" / STAGE / NAME
    live = path.read_bytes()
    assert export(tmp_path / "runs", tmp_path / "board") == [path]
    assert path.read_bytes() == live
    assert export(tmp_path / "runs", tmp_path / "other") == [tmp_path / "other" / STAGE / NAME]
    assert (tmp_path / "other" / STAGE / NAME).read_bytes() == live


def test_logs_of_others_make_no_curve_and_no_error(board: Board, tmp_path: Path) -> None:
    made = journal(tmp_path / "runs", "../../x", f"pretrain/{KEY}")
    with made.path.open("a") as file:
        file.write(
            '[]\n{"time": "never", "event": "epoch", "epoch": "x", "curve": 3}\n\x00\n{"time": 3, "event": "epoch"}\n'
        )
    made.write("epoch", curve={"loss": "low", "lr": 10**400}, epoch=1)
    made.write("epoch", curve={"lr": 1}, epoch=10**30)
    board.write()
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["x-01234567"]
    assert scalars(tmp_path / "board" / "x-01234567").keys() == {"peak_memory"}


def test_without_the_package_or_a_folder_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    lines: dict[str, Any] = {}
    if pytest.importorskip("tensorboard"):
        with pytest.raises(UserError) as caught:
            Board(tmp_path, tmp_path / "file" / "x")
        lines["folder"] = one_line(caught.value)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(UserError) as caught:
        Board(tmp_path, tmp_path / "board")
    lines["package"] = one_line(caught.value)
    assert lines["folder"].endswith("/file/x: Not a directory, expected a writable folder")
    assert lines["package"] == "--tensorboard: not installed, expected pip install 'robustcl[tensorboard]'"
    assert not (tmp_path / "board").exists()
