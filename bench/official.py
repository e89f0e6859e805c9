"""The only owner of official files: where they lie, their checksums before anything is read, how they are fetched."""

import hashlib
import shlex
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustcl.bench.data import DataSet
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.value import value
from robustcl.models.vision import torchvision

Checksums = Mapping[str, str]
"""Official files by their name below a folder, with their MD5 as published."""


@value
class Official(DataSet):
    """A data set in its official files, which lie below `path` as `robustcl fetch` leaves them."""

    path: Path

    @staticmethod
    @abstractmethod
    def fetch(folder: Path) -> None:
        """Download the official files into `folder` and compare their checksums; what is there already stays.

        Errors: `OSError` and `RuntimeError` for whatever the network or torchvision does not like.
        """

    def opened(self, kind: str, checksums: Checksums, below: str = "", **more: Any) -> Any:
        """torchvision's data set class `kind` on the official files, which lie in the folder `below` that of `path`.

        torchvision compares every MD5 before it reads a file. Errors: `UserError` where a file is missing or is another
        one than the official.
        """
        folder = inside(self.path, below)
        try:
            return getattr(torchvision().datasets, kind)(folder.parent if below else folder, **more)
        except RuntimeError:  # torchvision's word for both, which names no file
            self.check(folder, checksums)
            raise

    def check(self, folder: Path, checksums: Checksums) -> None:
        """Compare the checksums of official files. Errors: `UserError` that names the first one that is not right."""
        for name, expected in checksums.items():
            if not (folder / name).is_file():
                raise self.missing(folder / name, checksums)
            found = md5(folder / name)
            if found != expected:
                raise self.another(folder / name, found, expected)

    def missing(self, file: Path, official: Iterable[str]) -> UserError:
        """The error for an official file that is not there."""
        expected = f"expected {', '.join(official)} in {file.parent}"
        return UserError(f"{file}: no such file, {expected}; '{self._command}' downloads them")

    def another(self, file: Path, found: str, expected: str) -> UserError:
        """The error for a file with the name of an official one and the checksum `found`."""
        return UserError(
            f"{file}: not the official file and not read (MD5 {found}), expected MD5 {expected}; "
            f"remove it, and '{self._command}' downloads it"
        )

    @property
    def _command(self) -> str:
        return f"robustcl fetch {name_of(self)} {shlex.quote(str(self.path))}"


def inside(path: Path, folder: str) -> Path:
    """The folder called `folder` in `path`, or `path` where that is the folder itself."""
    return path if path.name == folder or not folder else path / folder


def md5(file: Path) -> str:
    """The MD5 of a file's content, which official sites publish."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
