"""Names on the console: a terminal obeys none, and what runs foreign code says so."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robustcl.cli import main
from tests.bench.tiny import write_suite

EVALUATE = ("--data", "digits", "--eps", "1/10", "--images", "4", "--attacks", "pgd-1")
MODEL = """from pathlib import Path
import torch
Path("ran").touch()
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
Robustcl = Callable[..., int]


@pytest.fixture
def robustcl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robustcl:
    """The command in this process and in a folder with `x.py`: its exit code."""
    monkeypatch.chdir(tmp_path)
    Path("x.py").write_text(MODEL)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # that of the tests stays

    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["robustcl", *words])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return command


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "\x1b[31mred.py:model", *EVALUATE),
        ("evaluate", "x.py:model", "--data", "digits", "--eps", "\x1b[31m"),
        ("evaluate", "x.py:model", "--data", "\x1b]0;title\x07", "--eps", "1/10"),
        ("evaluate", "x.py:model", *EVALUATE, "--\x1b[31m"),
        ("run", "\x1b[2Jsuite"),
        ("run", "quickstart", "--set", "pretrain.\x1b[31m.method=simclr"),
        ("report", "\x9b31mruns"),
        ("bless", "\x9b31mruns", "--baseline", "\x1b[31m"),
        ("fetch", "\x1b[31m", "data"),
    ],
)
def test_what_is_said_of_a_name_is_one_line_that_no_terminal_obeys(
    words: tuple[str, ...], robustcl: Robustcl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # where nothing is blessed
    assert robustcl(*words) == 2
    said = capsys.readouterr().err.removesuffix("\n")
    assert said.isprintable()
    assert "\\x" in said


def test_a_row_with_control_characters_is_refused_before_anything_is_judged(
    robustcl: Robustcl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robustcl("evaluate", "x.py:model", *EVALUATE, "--name", "\x1b[31mred", "--runs", "runs") == 2
    assert "control characters" in capsys.readouterr().err
    assert not list(Path().rglob("records.parquet"))


@pytest.mark.parametrize("command", ["evaluate", "run"])
def test_help_says_what_runs_code(command: str, robustcl: Robustcl, capsys: pytest.CaptureFixture[str]) -> None:
    assert robustcl(command, "--help") == 0
    assert "runs that code" in " ".join(capsys.readouterr().out.replace("\u2502", " ").split())


def test_a_dry_run_calls_the_factory_of_a_suite_as_it_says(robustcl: Robustcl) -> None:
    assert robustcl("run", str(write_suite(Path())), "--dry-run") == 0
    assert not Path("ran").exists()
    told = write_suite(Path(), "told", '[reference.x]\nfactory = "x.py:model"\n')
    assert robustcl("run", str(told), "--dry-run") == 0
    assert Path("ran").exists()
