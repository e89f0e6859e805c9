"""The only owner of where inputs lie while a target reads them: a temporary folder of this process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


def laid(data: bytes, name: str) -> Path:
    """The path of a file of this name that holds `data`, until the next one of the name."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@cache
def folder() -> Path:
    """The folder of this process, which goes with it."""
    made = Path(tempfile.mkdtemp(prefix="robustcl-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
