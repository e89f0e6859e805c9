"""The only owner of what is noted beside a stage and is not in its key: versions, commit, machine."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

import robustcl

_PACKAGES = ("torch", "numpy", "scikit-learn", "pyautoattack", "pandas", "pyarrow")


def provenance() -> dict[str, Any]:
    """Versions, git commit with dirty flag (of a checkout), Python, machine, processor, accelerators and time."""
    return {**_fixed(), "time": datetime.now(UTC).isoformat(timespec="seconds")}


@cache
def _fixed() -> dict[str, Any]:
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    machine = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    return {"robustcl": robustcl.__version__, "versions": versions, **machine, **_hardware(), **_commit()}


def _hardware() -> dict[str, Any]:
    """The processor, how many cores of it are seen, and the accelerators by name; nothing for what is not known."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    found = {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "accelerators": ", ".join(torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())),
    }
    return {name: told for name, told in found.items() if told}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit of the checkout this code runs from; nothing where it is installed."""
    root = Path(robustcl.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
