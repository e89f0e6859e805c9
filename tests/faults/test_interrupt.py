"""Ctrl-C, once and twice, and its kin: one line, exit code 130, no process left behind, nothing half visible."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from robustcl.bench import forks, locks
from robustcl.bench.runner import claim, prepare
from robustcl.bench.store import Store
from tests.bench.tiny import visible, write_suite
from tests.faults.disks import Ended, run
from tests.faults.test_disk import nothing_half

pytestmark = pytest.mark.skipif(not forks.possible(), reason="no forks of this process on this platform")
LINE = "robustcl: interrupted; what is finished stays, the same command goes on from there"
FAST = ["--set", "judge.images=8", "--set", "judge.judges=['pgd-1']", "--set", "data.train=64"]


def when(there: Callable[[], object], *numbers: int) -> Callable[[], None]:
    """Send this process signals, at once one after the other, as soon as something is there."""

    def wait() -> None:
        while not there():
            time.sleep(0.001)
        for number in numbers:
            os.kill(os.getpid(), number)

    return lambda: threading.Thread(target=wait, daemon=True).start()


def interrupted(done: Ended) -> None:
    """Whether a command has ended as it should."""
    assert done.code == 130, done.error
    assert "Traceback" not in done.error
    assert done.error.splitlines()[-1] == LINE
    assert done.error.count(LINE) == 1


def processes(root: Path) -> list[str]:
    """The command lines of other processes that name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(root) in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


@pytest.fixture
def suite(imported: None, tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A run folder, and the command that fills it; nobody is left who works at it."""
    root = tmp_path / "runs"
    yield root, ["run", str(write_suite(tmp_path)), "--runs", str(root), *FAST]
    nothing_half(root)
    for _ in range(100):
        if not processes(root):
            break
        time.sleep(0.05)
    assert not processes(root)


HUP, INT, TERM = signal.SIGHUP, signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    "numbers", [[HUP], [INT, INT], *(pytest.param([n], marks=pytest.mark.slow) for n in (INT, TERM))]
)
def test_in_the_middle_of_a_stage(suite: tuple[Path, list[str]], numbers: Sequence[int]) -> None:
    root, words = suite
    one = [*words, "--workers", "1"]
    interrupted(run(one, when(lambda: list(root.glob("pretrain/.*/progress")), *numbers)))
    assert run(one).code == 0
    assert len(visible(root)) > 4


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_while_a_report_is_written(suite: tuple[Path, list[str]], times: int) -> None:
    root, words = suite
    one = [*words, "--workers", "1"]
    interrupted(run(one, when(lambda: list(root.glob("report/.writing-*/table.txt")), *[signal.SIGINT] * times)))
    assert not [path for path in root.glob("report/*") if not path.name.startswith(".")]
    assert run(["report", str(root)]).code == 0
    assert (root / "report" / "table.txt").is_file()


MORE = [pytest.param(*of, marks=pytest.mark.slow) for of in ((1, False), (1, True), (2, False))]


@pytest.mark.parametrize(("times", "later"), [(2, True), *MORE])
def test_while_worker_processes_start_and_while_they_work(
    suite: tuple[Path, list[str]], times: int, later: bool
) -> None:
    root, words = suite
    there = (lambda: list(root.glob("pretrain/.*/progress"))) if later else (lambda: processes(root)[1:])
    interrupted(run([*words, "--workers", "2"], when(there, *[signal.SIGINT] * times)))


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_while_it_waits_for_another_process(suite: tuple[Path, list[str]], times: int) -> None:
    root, words = suite
    job = prepare(words[1], runs=root, overrides=FAST[1::2])
    claim(job)
    seen: list[Ended] = []

    def waiting(folder: Path) -> dict[str, str]:
        asked = time.monotonic()
        seen.append(
            run([*words, "--workers", "1"], when(lambda: time.monotonic() > asked + 2, *[signal.SIGINT] * times))
        )
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(root).make(job.plan.stages[0], waiting)
    interrupted(seen[0])


@pytest.mark.slow
def test_while_a_judge_has_forks(suite: tuple[Path, list[str]], tmp_path: Path) -> None:
    words = (
        "evaluate tests.faults.slow:slow --data digits --eps 1/10 --attacks pgd-20 --images 16 --batch 4 --workers 2"
    )
    root, _ = suite
    there = lambda: list(root.glob("evaluate/.*/progress/batches/*.npz"))  # noqa: E731
    interrupted(run([*words.split(), "--runs", str(root)], when(there, signal.SIGINT)))


@pytest.mark.slow
def test_a_command_that_was_told_to_ignore_a_signal_ignores_it(suite: tuple[Path, list[str]]) -> None:
    """As `nohup` does: the terminal may be closed."""
    root, words = suite

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        when(lambda: list(root.glob("pretrain/.*/progress")), signal.SIGHUP)()

    assert run([*words, "--workers", "1"], prepare).code == 0


def test_a_claim_is_free_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locks.claimed(tmp_path / "lock"):
        raise KeyboardInterrupt
    with locks.claimed(tmp_path / "lock", wait=False) as mine:
        assert mine
