"""The only owner of the fuzz of other people's weights: torch's two formats and safetensors, up to an encoder."""

import contextlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from robustcl.models.architectures.resnet import ResNet
from robustcl.models.convert import import_encoder
from robustcl.models.errors import UserError
from tests.fuzz.changes import safetensors_changed
from tests.fuzz.desk import laid
from tests.fuzz.target import Target


def read(data: bytes) -> None:
    """An encoder from a file of weights, of the layout that it has and of one that is asked for."""
    path = laid(data, "weights.pt")
    with contextlib.suppress(UserError):
        import_encoder(path, route="all")
    import_encoder(path, route="all", layout="torchvision")


def names(width: int = 1) -> dict[str, Tensor]:
    """A whole ResNet-18 of one channel, in torchvision's names."""
    held = ResNet(width=width).build(3).state_dict()
    made = {}
    for name, tensor in held.items():
        name = name.replace("stem.0", "conv1").replace("stem.1", "bn1").replace("shortcut", "downsample")
        first, _, rest = name.removeprefix("stages.").partition(".")
        made[f"layer{int(first) + 1}.{rest}" if name.startswith("stages.") else name] = tensor
    return made


def seeds() -> Mapping[str, bytes]:
    """Whole and partial state dicts, alone and nested, in each of the formats."""
    whole = names()
    few = {name: tensor for name, tensor in whole.items() if name.startswith(("conv1", "bn1", "layer1.0"))}
    held: dict[str, tuple[Any, bool]] = {
        "whole": (whole, True),
        "few": ({"state_dict": {f"module.{name}": tensor for name, tensor in few.items()}, "epoch": 3}, True),
        "nested": ({"model": {"net": few}, "optimizer": {"lr": 0.1}}, True),
        "old": (few, False),
        "odd": ({"conv1.weight": torch.zeros(1).expand(1, 3, 3, 3), "x": [1, {"a": None}], 3: torch.zeros(0)}, True),
    }
    made = {}
    for name, (of, new) in held.items():
        buffer = io.BytesIO()
        torch.save(of, buffer, _use_new_zipfile_serialization=new)
        made[name] = buffer.getvalue()
    return made | {"safetensors": save(whole), "pickle": pickle.dumps({"a": [1, 2]}, protocol=2)}


def mutate(data: bytes, draw: Random) -> bytes:
    """Changed headers of safetensors; in a zip archive a changed pickle, or a member that is another."""
    if data[8:9] == b"{":
        return safetensors_changed(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        held = [(one, file.read(one)) for one in file.namelist()]
    at = next(row for row, (name, _) in enumerate(held) if name.endswith("data.pkl"))
    at = at if draw.random() < 0.8 else draw.randrange(len(held))
    held[at] = (held[at][0], _scrambled(held[at][1], draw))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in held:
            made.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _scrambled(content: bytes, draw: Random) -> bytes:
    """Bytes of a pickle, a few of them other ones, moved or lost."""
    made = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made) + 1)
        piece = draw.choice(
            (b"", bytes([draw.randrange(256)]), b"}", b"(", b"u", b"s", b"h\x00", b"K\xff", b"J\xff\xff\xff\x7f", b"Q")
        )
        made[at : at + draw.choice((0, 1, 1, 2))] = piece
    return bytes(made)


TARGET = Target(read=read, seeds=seeds, mutate=mutate, share=0.1)
