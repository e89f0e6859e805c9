"""A store on a file system that cannot keep its promise is refused, before anything is written."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import ground
from robustcl.bench.ground import COPYING, firm
from robustcl.bench.runner import claim, prepare
from robustcl.bench.store import Store
from robustcl.models.errors import UserError
from tests.bench.tiny import one_line, write_suite

Rename = Callable[..., None]
TRUE = os.rename


def copying(old: Any, new: Any, **_: Any) -> None:
    """As file systems over object stores do it."""
    if Path(old).is_dir():
        if Path(new).is_dir() and any(Path(new).iterdir()):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        shutil.copytree(old, new, dirs_exist_ok=True)
        shutil.rmtree(old)
    else:
        shutil.copy(old, new)
        Path(old).unlink()


def half(old: Any, new: Any, **_: Any) -> None:
    """The old name stays."""
    (shutil.copytree if Path(old).is_dir() else shutil.copy)(old, new)


def merging(old: Any, new: Any, **_: Any) -> None:
    """A folder is put over another one."""
    if Path(new).is_dir():
        shutil.rmtree(new)
    TRUE(old, new)


def fails(number: int) -> Rename:
    def rename(old: Any, new: Any, **_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return rename


LOOSE: dict[str, tuple[Rename, str]] = {
    "copying": (copying, "renames by copying"),
    "half": (half, "leaves the old name behind when it renames"),
    "merging": (merging, "renames a folder over one that holds files"),
    "exdev": (fails(errno.EXDEV), "cannot rename (Invalid cross-device link)"),
    "enosys": (fails(errno.ENOSYS), "cannot rename (Function not implemented)"),
    "eio": (fails(errno.EIO), "cannot be written (Input/output error)"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_file_system_without_atomic_renames_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, wrong = LOOSE[name]
    store = Store(tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(UserError) as caught:
            store.claim_suite("tiny", {}, [])
    assert wrong in one_line(caught.value)
    assert one_line(caught.value).startswith(f"{tmp_path / 'runs'}: ")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["runs", "runs/.locks"]
    store.claim_suite("tiny", {}, [])  # nothing that was tried is in the way


def test_it_is_refused_for_a_given_classifier_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose folder has no suite: its first row begins it."""
    monkeypatch.setattr(os, "rename", copying)
    with pytest.raises(UserError, match="renames by copying"):
        Store(tmp_path / "runs").add("evaluate", [])
    assert not (tmp_path / "runs" / "suite.json").exists()


def test_locks_that_do_not_lock_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, wrong in ((None, "gives one lock to two at once"), (errno.ENOLCK, "has no locks (")):

        def lock(file: Any, how: int, number: int | None = number) -> None:
            if number:
                raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lock)
            with pytest.raises(UserError) as caught:
                firm(tmp_path)
        assert f"{tmp_path}: its file system {wrong}" in one_line(caught.value)


@pytest.mark.parametrize(
    ("mount", "kind"),
    [(f"fuse.{kind} s3", f"fuse.{kind}") for kind in COPYING]
    + [("fuse mountpoint-s3", "mountpoint-s3"), ("fuse blobfuse2", "blobfuse2"), ("ext4 s3", "")],
)
def test_file_systems_over_object_stores_are_known_by_name(
    mount: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts, bucket = tmp_path / "mountinfo", tmp_path / "a bucket of données"
    bucket.mkdir()
    place = str(bucket.resolve()).replace(" ", "\\040")
    lines = f"22 1 0:21 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:22 / {place} rw,nosuid shared:1 - {mount} rw\n"
    mounts.write_text(lines, encoding="utf-8")
    monkeypatch.setattr(ground, "MOUNTS", mounts)
    firm(tmp_path)  # beside it
    if not kind:
        firm(bucket / "runs")
        return
    with pytest.raises(UserError, match=f"is on {kind}, which renames by copying") as caught:
        firm(bucket / "runs")
    assert one_line(caught.value)


def test_a_run_claims_firm_ground_and_leaves_nothing_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(write_suite(tmp_path), runs=tmp_path / "runs")
    claim(job)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".locks", "suite.json"]
    assert not list((tmp_path / "runs" / ".locks").glob("ground*"))
    monkeypatch.setattr(os, "rename", copying)
    with pytest.raises(UserError, match="renames by copying"):
        claim(job)
