"""The only owner of the import of torchvision, and of its networks as functions from images to features."""

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models import checkpoint
from robustcl.models.errors import UserError, unknown
from robustcl.models.weights import read_weights, state_dict

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which official weights were trained with


class Features(nn.Module):
    """A network of torchvision without its classifier: images (n, 1 or 3, height, width) in [0, 1] -> (n, width)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features of the images, resized bilinearly to a square; grey ones are repeated for each channel."""
        sides = (self.size, self.size)
        large = F.interpolate(images, sides, mode="bilinear", align_corners=False, antialias=True)
        answer: Tensor = self.network((large.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return answer


def features_of(name: str, weights: Path, size: int, channels: int) -> Features:
    """The network `name` with the weights of a `.pth`, all but its classifier, in eval mode. Nothing is executed.

    Errors: `UserError` for an unknown name, a file that is no state dict or does not match, and images of neither 1
    nor 3 `channels`.
    """
    if channels not in (1, 3):
        raise UserError(f"torchvision: images of {channels} channels, expected 1 or 3 for a network of ImageNet")
    network: nn.Module = _models(name, "torchvision").get_model(name, weights=None)
    linear = [part for part, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"torchvision: {name} ends in no linear classifier, expected a network such as resnet50")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    held = state_dict(read_weights(weights), weights)[1]
    kept = {key: tensor for key, tensor in held.items() if not key.startswith(f"{linear[-1]}.")}
    checkpoint.match(network, kept, str(weights))
    return Features(network, size).eval()


def weights_file(name: str, weights: str, where: str) -> Path:
    """The file of weights: a path, or official ones by their name, which are taken from torch's cache alone.

    Errors: `UserError` for an unknown name, and where official weights would have to be downloaded.
    """
    models = _models(name, where)
    if weights.endswith((".pth", ".pt")):
        return Path(weights)
    official = models.get_model_weights(name).__members__
    if weights not in official:
        raise unknown(where, "weights (or path.pth)", weights, official)
    url = str(official[weights].url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise UserError(f"{where}: {path}: not there and never downloaded by robustcl, expected it; get it from {url}")
    return path


def _models(name: str, where: str) -> Any:
    """torchvision.models, where it has a classifier called `name`."""
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown(where, "network", name, known)
    return models


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
