"""The only owner of the user's files that stages read: each hashed and tried once, known to keys by its content."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from robustcl.models.errors import UserError
from robustcl.models.whole import sha256

T = TypeVar("T")


class Files:
    """Files by the SHA-256 of their content."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}
        self.hashes: dict[Path, str] = {}
        self.made: dict[str, Any] = {}
        self.given: dict[str, dict[str, Any]] = {}  # where given classifiers come from, by their weights

    def sha256(self, path: Path, where: str) -> str:
        """The hash of the file's content. Errors: `UserError` where there is no such file."""
        path = path.expanduser().resolve()
        if path not in self.hashes:
            if not path.is_file():
                raise UserError(f"{where}: {path}: no such file, expected labels or weights")
            self.hashes[path] = sha256(path)
            self.known[self.hashes[path]] = path
        return self.hashes[path]

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What `make` returned when it was called for this key: at the first time, and never again."""
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found


def unchanged(key: str, files: Mapping[str, Path], where: str) -> Path:
    """The user's file of this content. Errors: `UserError` where it has another one by now."""
    path = files[key]
    if not path.is_file() or sha256(path) != key:
        raise UserError(f"{where}: {path} has changed since the plan was made; run again")
    return path
