"""The only owner of whom we are measured against: packages that may not be there, and how to get them."""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from robustcl.models import vision

PACKAGES = {
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "torchvision": "torchvision",
    "kornia": "kornia",
    "sklearn": "scikit-learn",
    "faiss": "faiss-cpu",
}
"""Import name -> the name to install. The extra `benchmarks` holds them all."""


def installed(name: str) -> bool:
    """Whether the package of this import name is there."""
    return importlib.util.find_spec(name) is not None


def peer(name: str) -> Any:
    """The module of this dotted import name. torchvision comes by the door that imports it on every build of torch."""
    if name.partition(".")[0] == "torchvision":
        vision.torchvision()
    return importlib.import_module(name)


def absent(name: str) -> str:
    """What the table says of a package that is not there."""
    return f"not installed (pip install {PACKAGES[name]})"


def versions() -> dict[str, str]:
    """The versions of torch, numpy and every peer that is there, by the name to install."""
    names = ["torch", "numpy", *PACKAGES.values()]
    known = {}
    for name in names:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known
