"""The only owner of the user's files that stages read: each hashed and tried once, known to keys by its content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from robustcl.models.errors import UserError


class Files:
    """Files by the SHA-256 of their content."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}
        self.hashes: dict[Path, str] = {}
        self.tried: set[str] = set()

    def sha256(self, path: Path, where: str) -> str:
        """The hash of the file's content. Errors: `UserError` where there is no such file."""
        path = path.expanduser().resolve()
        if path not in self.hashes:
            if not path.is_file():
                raise UserError(f"{where}: {path}: no such file, expected one of labels or weights")
            self.hashes[path] = content(path)
            self.known[self.hashes[path]] = path
        return self.hashes[path]

    def first(self, key: str) -> bool:
        """Whether what has this key is tried for the first time."""
        new = key not in self.tried
        self.tried.add(key)
        return new


def content(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged(key: str, files: Mapping[str, Path], where: str) -> Path:
    """The user's file of this content. Errors: `UserError` where it has another one by now."""
    path = files[key]
    if not path.is_file() or content(path) != key:
        raise UserError(f"{where}: {path} has changed since the plan was made; run again")
    return path
