"""The only owner of the import of torchvision."""

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from robustcl.models.errors import UserError


def torchvision() -> ModuleType:
    """The package torchvision, imported at the first call: it costs a second that few runs have to pay.

    Works too where torch is a CPU build and torchvision a CUDA build, a pair that installers do choose and whose plain
    import fails; there, transforms, data sets and networks work, and compiled operators such as `nms` raise.
    Errors: `UserError` where torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise UserError("torchvision: not installed, expected it for this image set; try 'pip install torchvision'")
    _load_operators(Path(spec.origin).parent)
    if not hasattr(torch.ops.torchvision, "nms"):
        _declare_operators()
    return importlib.import_module("torchvision")


def _load_operators(folder: Path) -> None:
    """Load torchvision's compiled part, as its own import does, where it fits the installed torch."""
    for library in sorted(folder.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
        except OSError:  # built for a torch with libraries that are not here, such as CUDA's
            continue


@functools.cache  # a declaration lives as long as the object that made it
def _declare_operators() -> torch.library.Library:
    """Declare, without code, the two operators that the import of torchvision registers more about."""
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return fragment
