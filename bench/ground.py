"""The only owner of what a store asks of its file system: renames at once, locks that conflict; tried, not believed."""

import errno
import fcntl
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from robustcl.models.errors import UserError
from robustcl.models.whole import writable

MOUNTS = Path("/proc/self/mountinfo")
COPYING = ("s3fs", "gcsfuse", "goofys", "rclone", "mountpoint-s3", "s3ql", "blobfuse", "blobfuse2", "ossfs", "cosfs")
"""File systems over object stores, which rename a folder by copying one object after the other."""


def firm(root: Path) -> None:
    """See whether stages in `root` can appear whole or not at all. It is tried beside the locks, and nothing stays.

    Errors: `UserError` where a rename is no single step or locks do not conflict, and where `root` cannot be written.
    """
    with writable(root):
        locks = root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        copying = [kind for kind in _kinds(root) if kind.removeprefix("fuse.") in COPYING]
        wrong = f"is on {copying[0]}, which renames by copying" if copying else ""
        if not wrong:
            with tempfile.TemporaryDirectory(dir=locks, prefix="ground-") as hidden:
                wrong = _renames(Path(hidden)) or _locks(Path(hidden))
    if wrong:
        raise UserError(
            f"{root}: its file system {wrong}, expected one with atomic renames and locks; choose another folder"
        )


def _renames(hidden: Path) -> str:
    """What is wrong with renames, or nothing."""
    old, new, full = hidden / "old", hidden / "new", hidden / "full"
    for folder, text in ((old, "1"), (full, "2")):
        folder.mkdir()
        (folder / "file").write_text(text)
    (hidden / "one").write_text("one")
    (hidden / "two").write_text("two")
    handle = os.open(old, os.O_RDONLY)
    try:
        old.rename(new)
        (hidden / "one").replace(hidden / "two")
        if old.exists() or (new / "file").read_text() != "1" or (hidden / "two").read_text() != "one":
            return "leaves the old name behind when it renames"
        if not _same(handle, new):
            return "renames by copying"
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP):
            return f"cannot rename ({error.strerror})"
        raise
    finally:
        os.close(handle)
    with suppress(OSError):
        new.rename(full)
        return "renames a folder over one that holds files"
    return ""


def _same(handle: int, folder: Path) -> bool:
    """Whether what was opened before is this folder now: a name that is made in the one is seen in the other."""
    try:
        os.close(os.open("mark", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    except FileNotFoundError:
        return False
    return (folder / "mark").exists()


def _locks(hidden: Path) -> str:
    """What is wrong with locks, or nothing."""
    path = hidden / "lock"
    with path.open("w") as first, path.open("w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"has no locks ({error.strerror})"
        with suppress(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "gives one lock to two at once"
    return ""


def _kinds(folder: Path) -> list[str]:
    """Type and source of the file system that a folder lies on, as Linux calls them; empty elsewhere.

    Some file systems over object stores have the plain type `fuse` and say what they are as their source.
    """
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return []
    found, depth, place = b"", -1, os.fsencode(os.path.realpath(folder))
    for line in lines:
        own, _, shared = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), own.split()[4])  # as blanks are
        inside = place == point or place.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= depth:  # of two mounts on one place the later one is seen
            found, depth = shared, len(point)
    return [os.fsdecode(word) for word in found.split()[:2]]
