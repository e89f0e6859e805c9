"""The store: whole or not at all, found again, and every damage named."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench.store import Stage, Store
from robustcl.models.errors import UserError
from tests.bench.tiny import one_line

ROOT = Path(__file__).parents[2]
STAGE = Stage(kind="pretrain", part={"x": 1}, label="pretrain x")


def fill(folder: Path) -> dict[str, Any]:
    (folder / "out.txt").write_text("hello")
    (folder / "progress").mkdir(exist_ok=True)
    (folder / "progress" / "half").write_text("half")
    return {"seconds": 1}


def test_a_stage_appears_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen: list[bool] = []

    def work(folder: Path) -> dict[str, Any]:
        made = fill(folder)
        seen.append(store.has(STAGE))
        return made

    store.make(STAGE, work)
    assert seen == [False]
    assert sorted(path.name for path in store.folder(STAGE).iterdir()) == ["out.txt", "stage.json"]
    assert store.file(STAGE, "out.txt").read_text() == "hello"
    assert store.note(STAGE)["made"] == {"seconds": 1}
    store.make(STAGE, lambda folder: pytest.fail("made twice"))
    assert [path.name for path in (tmp_path / "pretrain").iterdir()] == [STAGE.key]


def test_work_that_raises_leaves_nothing_visible_and_its_progress(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> dict[str, Any]:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make(STAGE, fails)
    assert not store.has(STAGE)
    assert [path.name for path in (tmp_path / "pretrain").glob("[!.]*")] == []
    found: list[str] = []

    def goes_on(folder: Path) -> dict[str, Any]:
        found.append((folder / "progress" / "half").read_text())
        return fill(folder)

    store.make(STAGE, goes_on)
    assert found == ["half"]
    assert store.has(STAGE)


def flip(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("damage", [flip, lambda content: content[:-1], lambda content: content + b" "])
def test_a_changed_file_is_named(tmp_path: Path, damage: Any) -> None:
    store = Store(tmp_path)
    store.make(STAGE, fill)
    path = store.folder(STAGE) / "out.txt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        store.file(STAGE, "out.txt")
    assert one_line(caught.value).startswith(f"{path}: not as it was written")


def test_missing_files_and_broken_notes_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make(STAGE, fill)
    with pytest.raises(UserError, match=r"other\.txt: missing"):
        store.file(STAGE, "other.txt")
    note = store.folder(STAGE) / "stage.json"
    text = note.read_text()
    unsealed = {name: held for name, held in json.loads(text).items() if name != "seal"}
    for broken, says in (
        (text[:50], "truncated"),
        ("[" * 100_000, "truncated"),
        (text.replace(STAGE.key, "0" * 16), f"expected {STAGE.key}"),
        (json.dumps(unsealed | {"files": None}), "changed"),
        (json.dumps(unsealed | {"made": [1]}), "changed"),
    ):
        note.write_text(broken)
        with pytest.raises(UserError) as caught:
            store.file(STAGE, "out.txt")
        assert says in one_line(caught.value)
        assert str(note) in str(caught.value)


def test_notes_are_the_same_bytes_wherever_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share a store may differ in their locale; reports read UTF-8."""
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "latin-1")
    named = Stage(kind="pretrain", part={"name": "données"}, label="pretrain données")
    store = Store(tmp_path)
    store.claim_suite("données", {}, [])
    store.make(named, fill)
    for path in (tmp_path / "suite.json", store.folder(named) / "stage.json"):
        assert "données".encode() in path.read_bytes()
    assert store.note(named)["label"] == "pretrain données"
    store.claim_suite("données", {}, [])


def test_foreign_and_other_folders_are_refused_untouched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a run folder"):
        store.claim_suite("tiny", {}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    other = Store(tmp_path / "other")
    other.claim_suite("tiny", {}, [])
    before = (tmp_path / "other" / "suite.json").read_bytes()
    with pytest.raises(UserError) as caught:
        other.claim_suite("big", {}, [])
    assert "written by suite 'tiny', expected 'big'" in one_line(caught.value)
    assert (tmp_path / "other" / "suite.json").read_bytes() == before
    (tmp_path / "other" / "suite.json").write_bytes(before[:20])
    with pytest.raises(UserError, match="truncated"):
        other.claim_suite("tiny", {}, [])


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file in place of a folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        for claims in (True, False):
            with pytest.raises(UserError) as caught:
                Store(root).claim_suite("tiny", {}, []) if claims else Store(root).make(STAGE, fill)
            assert one_line(caught.value).startswith(f"{root}: cannot be written (")


SLOW = """
import sys, time
from pathlib import Path
from tests.bench.test_store import STAGE, Store, fill

def work(folder):
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")
    time.sleep(0.5)
    return fill(folder)

Store(Path(sys.argv[1])).make(STAGE, work)
"""


def test_two_processes_make_a_stage_once(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-c", SLOW, str(tmp_path / "runs"), str(mark)]
    racers = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [racer.wait(60) for racer in racers] == [0, 0]
    assert len(mark.read_text().splitlines()) == 1
    assert Store(tmp_path / "runs").has(STAGE)


def test_keys_are_of_kind_part_and_parents_alone() -> None:
    same = Stage(kind="pretrain", part={"x": 1}, label="another label")
    others = [
        Stage(kind="finetune", part={"x": 1}),
        Stage(kind="pretrain", part={"x": 2}),
        Stage(kind="pretrain", part={"x": 1}, parents={"a": STAGE}),
        Stage(kind="pretrain", part={"x": 1}, parents={"b": STAGE}),
    ]
    assert same.key == STAGE.key
    assert len({STAGE.key, *(other.key for other in others)}) == 5


def test_who_works_at_a_stage_is_told_and_who_died_at_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.holder(STAGE.kind, STAGE.key) is None
    seen: list[Any] = []

    def work(folder: Path) -> dict[str, Any]:
        seen.append((store.holder(STAGE.kind, STAGE.key), store.make(STAGE, fill, wait=False)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.make(STAGE, work)
    held, other = seen[0]
    assert (held.pid, held.alive, other) == (os.getpid(), True, False)
    left = store.holder(STAGE.kind, STAGE.key)
    assert left is not None
    assert (left.pid, left.alive, left.since) == (os.getpid(), False, held.since)
    assert store.make(STAGE, fill, wait=False)
    assert store.holder(STAGE.kind, STAGE.key) is None
