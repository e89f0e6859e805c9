"""How much is said on the way: levels of the command line, and what follows a run beside it."""

import sys
import threading
from pathlib import Path

import pytest

from robustcl import cli
from robustcl.console import beside
from robustcl.reports import drawing
from tests.bench.tiny import write_suite
from tests.reports.test_board import scalars


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["robustcl", *map(str, words)])
    cli.main()


def test_levels_and_curves_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "save", lambda *_, **__: [])  # most of the time, and tested elsewhere
    suite: list[str | Path] = ["run", write_suite(tmp_path), "--workers", "1", "--set", "pretrain.at.training.epochs=2"]
    run(monkeypatch, *suite, "--log-level", "debug", "--tensorboard", "board")
    loud = capsys.readouterr()
    assert "[  7/7] " in loud.err
    assert "        pretrain at: started: host " in loud.err
    assert "        pretrain at: epoch: epoch 2, epochs 2, images 1437, " in loud.err
    assert "        evaluate at SLF at 1/10: attack finished: judge apgd-ce, attack apgd-ce, right " in loud.err
    (folder,) = (tmp_path / "board").glob("pretrain-at-*")
    assert [step for step, _ in scalars(folder)["loss"]] == [1, 2]
    assert len(list((tmp_path / "board").iterdir())) == 7

    run(monkeypatch, *suite, "--log-level", "quiet", "--runs", "again")
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out.replace("again", "runs/tiny") == loud.out

    run(monkeypatch, "report", "again", "--tensorboard", "later")
    told = capsys.readouterr()
    assert [path for path in (tmp_path / "later").glob("*/*") if str(path.relative_to(tmp_path)) not in told.out] == []
    (folder,) = (tmp_path / "later").glob("pretrain-at-*")
    assert [step for step, _ in scalars(folder)["loss"]] == [1, 2]


def test_evaluate_says_as_much_as_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "save", lambda *_, **__: [])
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    words = ["evaluate", "mine.py:net", "--data", "digits", "--eps", "1/10", "--attacks", "pgd-2", "--images", "20"]
    run(monkeypatch, *words, "--log-level", "quiet", "--runs", "one")
    assert capsys.readouterr().err == ""
    run(monkeypatch, *words, "--log-level", "debug", "--runs", "two")
    told = capsys.readouterr().err
    assert "at 1/10: clean: images 20, right " in told
    assert "at 1/10: attack finished: judge pgd-2, attack pgd-2, right " in told
    run(monkeypatch, "ls", "runs", ".")
    assert "suite evaluate, 2 of 2 stages finished" in capsys.readouterr().out


def test_what_follows_a_run_is_done_again_and_again_and_once_at_the_end() -> None:
    count, enough, before = list[int](), threading.Event(), threading.active_count()

    def work() -> None:
        count.append(1)
        if len(count) == 3:
            enough.set()

    with beside([work], seconds=0.001):
        assert enough.wait(10)
    after = len(count)
    with beside([work], seconds=1000):
        pass
    assert len(count) == after + 1
    assert threading.active_count() == before


def test_what_the_disk_refuses_is_given_up_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    done, tried = list[int](), list[int]()

    def full() -> None:
        tried.append(1)
        raise OSError(28, "No space left on device", "board/x")

    with beside([full, lambda: done.append(1)], seconds=0.001):
        while len(done) < 3:
            pass
    assert len(tried) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: [Errno 28] No space left on device: 'board/x'; ")
