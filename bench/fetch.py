"""The only owner of downloads: official files with their checksums, when somebody asks for them and never otherwise."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from zipfile import BadZipFile

from robustcl.bench.data import datasets
from robustcl.models.errors import UserError, unknown
from robustcl.models.vision import torchvision


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An official archive that torchvision does not know: its address, its MD5, and the folder that it holds."""

    url: str
    md5: str
    folder: str

    def fetch(self, folder: Path) -> None:
        """Download it into `folder`, unless it lies there, and unpack it. Errors: as `Official.fetch`."""
        name = self.url.rpartition("/")[2]
        torchvision().datasets.utils.download_url(self.url, folder, name, self.md5)
        safe = {} if name.endswith(".zip") else {"filter": "data"}
        shutil.unpack_archive(folder / name, folder, **safe)  # type: ignore[arg-type]


# D. Hendrycks and T. Dietterich, ICLR 2019, on Zenodo.
ARCHIVES = {
    "cifar10-c": Archive(
        url="https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        md5="56bf5dcef84df0e2308c6dcbcbbd8499",
        folder="CIFAR-10-C",
    ),
    "cifar100-c": Archive(
        url="https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        md5="11f0ed0f1191edbf9fa23466ae6021d3",
        folder="CIFAR-100-C",
    ),
}


def fetch(name: str, folder: Path, *, offline: bool = False) -> str:
    """Download the official files of a data set, or of its corruptions, into `folder`; what to write into a suite.

    Errors: `UserError` for an unknown name, `offline`, a host that cannot be reached, and a file with another checksum.
    """
    known = sources()
    if name not in known:
        raise unknown("fetch", "data set", name, known)
    if offline:
        raise UserError(f"fetch {name}: asked for with --offline, expected to be allowed the network")
    try:
        known[name](folder)
    except (OSError, RuntimeError, HTTPException, TarError, BadZipFile, EOFError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"fetch {name}: failed ({reason}), expected the official files from the network") from None
    if name in ARCHIVES:
        return f'[judge]\ncorruptions = "{folder / ARCHIVES[name].folder}"'
    return f'[data]\nname = "{name}"\npath = "{folder}"'


def sources() -> dict[str, Callable[[Path], None]]:
    """What can be fetched, by name."""
    official = {name: getattr(kind, "fetch", None) for name, kind in datasets().items()}
    return {name: of for name, of in official.items() if of} | {name: of.fetch for name, of in ARCHIVES.items()}
