"""The only owner of where stages run and what they find there: images, files of parents, files of the user."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustcl.bench.files import unchanged
from robustcl.bench.library import Library
from robustcl.bench.store import Stage, Store
from robustcl.models import checkpoint
from robustcl.models.encoder import Shape
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import read
from robustcl.models.vision import features_of
from robustcl.pretraining.images import Images

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where stages run: never part of a key. `files` are the user's own, by the SHA-256 of their content;
    `given` is where classifiers from outside come from, by their weights; an evaluation may take `workers` processes,
    and where it is `shared` any that assist (`stages.assist`).
    """

    store: Store
    library: Library
    files: Mapping[str, Path] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    device: str = "cpu"
    workers: int = 1
    shared: bool = False
    offline: bool = False

    def images(self, stage: Stage) -> Images:
        """The images of a stage, the very ones that its key names."""
        return self.library.find(stage.part["data"], stage.label, stage.part.get("images")).to(self.device)

    def parent(self, stage: Stage, role: str, name: str) -> Path | None:
        """A file of a parent stage; None where there is no such parent."""
        return self.store.file(stage.parents[role], name) if role in stage.parents else None

    def file(self, stage: Stage, key: str) -> Path:
        """The user's file of this content. Errors: `UserError` where it has changed."""
        return unchanged(key, self.files, stage.label)


def threat_of(stage: Stage) -> Threat | None:
    """The threat of a stage, where it has one."""
    part: Mapping[str, Any] = stage.part
    return read(Threat, part["threat"], "threat") if part.get("threat") else None


def outside(stage: Stage, files: Mapping[str, Path], shape: Shape) -> nn.Module:
    """The network from outside the suite whose features are clustered: images of `shape` in [0, 1] -> features.

    Errors: `UserError` where the file has changed, or does not hold what it should, or takes images of another shape.
    """
    if "checkpoint" in stage.part:
        path = unchanged(stage.part["checkpoint"], files, stage.label)
        encoder = checkpoint.load_encoder(path)
        if encoder.shape != shape:
            raise UserError(f"{path}: takes images of shape {encoder.shape}, expected {shape} as in [data]")
        return encoder
    network = stage.part["torchvision"]
    weights = unchanged(network["weights"], files, stage.label)
    return features_of(network["name"], weights, network["size"], channels=shape[0])


def find_device(name: str) -> str:
    """The device of this name. Errors: `UserError` where this machine has none."""
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not available ({reason}), expected cpu, cuda, cuda:1 or mps") from None
    return name
