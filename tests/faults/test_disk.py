"""Disks that are full, closed or broken at every operation: one line, nothing half visible, and the same in the end."""

import errno
import json
import os
from pathlib import Path

import pytest

from robustcl.bench import forks
from robustcl.models.whole import sha256
from tests.bench.tiny import visible, write_suite
from tests.faults.disks import Ended, failing, limit, noted, run

pytestmark = pytest.mark.skipif(not forks.possible(), reason="no forks of this process on this platform")
FAST = ["--workers", "1", "--set", "judge.images=8", "--set", "judge.judges=['pgd-1']", "--set", "data.train=64"]
REASONS = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)}


@pytest.fixture(scope="module")
def whole(imported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite and with its run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_suite(folder)
    done = run(["run", str(path), "--runs", str(folder / "runs"), *FAST])
    assert done.code == 0, done.error
    return folder


def line(done: Ended) -> str:
    """The one line that a command ended with."""
    assert done.code == 2, done.error
    assert "Traceback" not in done.error
    assert sum(text.startswith("robustcl: ") for text in done.error.splitlines()) == 1
    return done.error.splitlines()[-1]


def nothing_half(root: Path) -> None:
    """Every visible stage holds what its note says, and suite.json is whole."""
    for note in root.glob("[!.]*/[!.]*/stage.json"):
        files = json.loads(note.read_text())["files"]
        assert {name: sha256(note.parent / name) for name in files} == files
    assert all(
        (folder / "stage.json").is_file() for folder in root.glob("[!.]*/[!.]*") if folder.parent.name != "report"
    )
    if (root / "suite.json").exists():
        json.loads((root / "suite.json").read_text())


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for those that nobody sees."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in paths if "/." not in f"/{path.relative_to(folder)}"
    }


@pytest.mark.parametrize(("every", "least"), [(24, 2), pytest.param(1, 40, marks=pytest.mark.slow)])
def test_every_operation_of_a_run_fails_once(whole: Path, tmp_path: Path, every: int, least: int) -> None:
    """Each attempt goes one operation further than the one before, until none is left that has not failed."""
    root, note = tmp_path / "runs", tmp_path / "failed"
    words = ["run", str(whole / "tiny.toml"), "--runs", str(root), *FAST]
    numbers = [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES]
    for attempt in range(400):
        spared = noted(note)
        done = run(words, failing(root, numbers[attempt % 4], spared, note, every=every))
        nothing_half(root)
        if done.code == 0 and len(noted(note)) == len(spared):
            break
        if done.code:
            assert REASONS[numbers[attempt % 4]] in line(done)
    else:
        pytest.fail("the run never ended")
    assert len(noted(note)) >= least
    assert visible(root) == visible(whole / "runs")
    assert outputs(root / "report").keys() == outputs(whole / "runs" / "report").keys()


@pytest.mark.parametrize("size", [1500, 6000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(whole: Path, tmp_path: Path, size: int) -> None:
    root = tmp_path / "runs"
    words = ["run", str(whole / "tiny.toml"), "--runs", str(root), *FAST]
    assert "(File too large)" in line(run(words, limit(size)))
    nothing_half(root)
    if size != 1500:
        return
    assert run(words).code == 0
    assert visible(root) == visible(whole / "runs")


WRITERS = {
    "report": ("report {runs} --page {out}/site --cards {out}/cards", 3, "out"),
    "bless": ("bless {runs} --baseline {out}/baseline.parquet", 1, "out"),
    "check": ("check {runs} --baseline {whole}/baseline.parquet --junit {out}/j.xml --markdown {out}/m.md", 1, "out"),
    "evaluate": (
        "evaluate {model} --data digits --eps 1/10 --attacks pgd-1 --images 8 --runs {fresh} "
        "--save-adversarial {out}/adversarial.npz",
        6,
        "",
    ),
}


@pytest.mark.parametrize("every", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["bless", "check", *(pytest.param(n, marks=pytest.mark.slow) for n in ("report", "evaluate"))]
)
def test_what_a_command_writes_for_the_user_is_the_old_file_or_the_new_one(
    whole: Path, tmp_path: Path, name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    text, few, watched = WRITERS[name]
    (model,) = list((whole / "runs" / "finetune").glob("[!.]*/classifier.safetensors"))[:1]
    out, note = tmp_path / "out", tmp_path / "failed"
    places = {"runs": whole / "runs", "out": out, "whole": whole, "model": model, "fresh": tmp_path / "fresh"}
    out.mkdir()
    if not (whole / "baseline.parquet").exists():
        assert run(["bless", str(whole / "runs"), "--baseline", str(whole / "baseline.parquet")]).code == 0
    words = text.format(**places).split()
    assert run([word.replace("fresh", "other") for word in words]).code in (0, 3)
    new = outputs(out)
    for path in new:
        if name in ("bless", "evaluate"):  # what takes the place of somebody's file
            (out / path).write_bytes((whole / "baseline.parquet").read_bytes() if name == "bless" else b"old")
    old = outputs(out)
    for _ in range(300):
        spared = noted(note)
        done = run(words, failing(tmp_path / watched, errno.ENOSPC, spared, note, every=every or few))
        now = outputs(out)
        assert now.keys() == new.keys()
        assert all(held in (old[path], new[path]) or (name == "check" and not held) for path, held in now.items())
        if len(noted(note)) == len(spared):
            break
        if done.code not in (0, 3):
            assert "(No space left on device)" in line(done)
    assert done.code in (0, 3)
    assert outputs(out) == new
    assert noted(note)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_that_cannot_be_read_is_one_line(whole: Path, tmp_path: Path, every: int) -> None:
    """Each file that a report opens fails once, and the run folder is as it was."""
    before, note = visible(whole / "runs"), tmp_path / "failed"
    for _ in range(100):
        spared = noted(note)
        done = run(["report", str(whole / "runs")], failing(whole, errno.EIO, spared, note, reads=True, every=every))
        if len(noted(note)) == len(spared):
            break
        if done.code:
            line(done)
    assert done.code == 0
    assert noted(note)
    assert visible(whole / "runs") == before


@pytest.mark.usefixtures("imported")
def test_a_table_that_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    def prepare() -> None:
        os.dup2(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), 1)
        limit(10)()

    assert "standard output: cannot be used (File too large)" in line(run(["ls"], prepare))
