"""The only owner of files that are whole or not there, and of the seals that tell a file from one that has changed.

What is renamed into place is seen by every other process whole or not at all. That it is also whole after the machine
lost its power is another promise: `lasting` waits until the disk has it (docs/reliability.md has what that costs).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustcl.models.errors import UserError

SEAL = "seal"
_LENGTH = 32  # bytes of a SHA-256
_MARK = b"\0robustcl sha256\0"


@contextmanager
def writable(where: object, what: str = "folder") -> Iterator[None]:
    """What the file system refuses inside the block as one line. Errors: `UserError`."""
    try:
        yield
    except OSError as error:
        words = (error.strerror or str(error)).partition("\n")[0]
        reason = re.sub(r".*\[errno \d+\] ", "", words)  # which pyarrow puts its own words before
        raise UserError(f"{where}: cannot be written ({reason}), expected a writable {what}") from None


@contextmanager
def writing(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends and is gone after any error.

    A device or a pipe is written to itself. Errors: `OSError` as the file system has them; the file that was at `path`
    is then as it was.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        yield path
        return
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        if lasting:
            settle(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # what is said is what went wrong first
            part.unlink()
        raise


def settle(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path, content: bytes) -> None:
    """Write content followed by its SHA-256, for a file that we alone read again."""
    with writing(path) as part:
        part.write_bytes(content + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes | None:
    """The content of such a file; None where it is not as it was written, or cannot be read."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    content, seal = held[:-_LENGTH], held[-_LENGTH:]
    return content if hashlib.sha256(content).digest() == seal else None


def with_seal(parquet: bytes) -> bytes:
    """A parquet file with its SHA-256 between what it holds and its footer, where no reader of parquet looks."""
    at = len(parquet) - 8 - int.from_bytes(parquet[-8:-4], "little")
    return parquet[:at] + _MARK + hashlib.sha256(parquet).digest() + parquet[at:]


def seal_holds(parquet: bytes) -> bool:
    """Whether such a file is as it was written; one without a seal, as older versions wrote them, counts."""
    at = parquet.rfind(_MARK)
    end = at + len(_MARK)
    rest, seal = parquet[:at] + parquet[end + _LENGTH :], parquet[end : end + _LENGTH]
    return at < 0 or hashlib.sha256(rest).digest() == seal


def sealed(held: Mapping[str, Any]) -> dict[str, Any]:
    """A table for JSON with a seal as its last entry."""
    return {**held, SEAL: _seal(json.loads(json.dumps(held)))}


def intact(held: Mapping[str, Any]) -> bool:
    """Whether a table that was read is as it was sealed; one without a seal, as older versions wrote them, counts."""
    return SEAL not in held or held[SEAL] == _seal({name: part for name, part in held.items() if name != SEAL})


def _seal(plain: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what was or will be read from JSON."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
