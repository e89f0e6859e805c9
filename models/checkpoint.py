"""The only owner of weights on disk: one safetensors file with its description in the header, loaded strictly."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder, from_description
from robustcl.models.errors import UserError
from robustcl.models.whole import writing

SCHEMA = 1


class Checkpoint(NamedTuple):
    """What a file holds: the kind of thing, its description and its tensors."""

    kind: str
    description: dict[str, Any]
    tensors: dict[str, Tensor]


def write(path: Path, kind: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint whole or not at all, also where the machine then loses its power: hours may lie in it."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    said = {"schema": SCHEMA, "kind": kind, "description": description}
    header = json.dumps({**said, "digest": _digest(kind, description, whole)}, sort_keys=True)
    with writing(path, lasting=True) as part:
        part.write_bytes(save(whole, metadata={"robustcl": header}))


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Errors: `UserError` for a missing, truncated, changed or foreign file and for one of a later version of robustcl.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a checkpoint written by robustcl")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("robustcl")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({_short(error)})") from None
    if header is None:
        raise UserError(f"{path}: a foreign safetensors file, expected one with robustcl's description in its header")
    try:
        found = dict(json.loads(header))
        if found["schema"] != SCHEMA:
            schema = f"schema {found['schema']}, expected {SCHEMA}"
            raise UserError(f"{path}: {schema}; written by another robustcl version")
        held = Checkpoint(str(found["kind"]), dict(found["description"]), tensors)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged, expected robustcl's description in its header") from None
    if found.get("digest") not in (None, _digest(*held)):  # files of version 0.1.0 have none
        raise UserError(f"{path}: not as it was written (a bit has changed), expected the file that robustcl wrote")
    return held


def match(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> str:
    """Load every tensor or none, and report it: `matched 62/62 tensors`.

    Errors: `UserError` with the report where a tensor is missing, left over or of another shape.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    shared = expected.keys() & tensors.keys()
    shape = sorted(name for name in shared if expected[name].shape != tensors[name].shape)
    report = f"matched {len(shared) - len(shape)}/{len(expected)} tensors"
    kinds = {"missing": missing, "left over": extra, "of another shape": shape}
    wrong = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names]
    if wrong:
        raise UserError(f"{where}: {report}, expected all of them and no other; {', '.join(wrong)}")
    module.load_state_dict(dict(tensors), strict=True)
    return report


def fingerprint(module: nn.Module) -> str:
    """16 hexadecimal digits of the SHA-256 of every tensor with its name."""
    return _hash(module.state_dict())[:16]


def save_encoder(path: Path, encoder: Encoder, deploy: str) -> None:
    """Write an encoder with all its routes; `deploy` is the one to be finetuned and judged."""
    write(path, "encoder", {**encoder.description(), "deploy": deploy}, encoder.state_dict())


def load_encoder(path: str | Path, route: str | None = None) -> Encoder:
    """The encoder of a checkpoint, on one route (default: the deployed one; `"all"` keeps every route).

    Errors: `UserError` unless every tensor matches.
    """
    found = read(path)
    if found.kind != "encoder":
        raise UserError(f"{path}: holds a {found.kind}, expected an encoder")
    encoder = from_description(found.description, str(path))
    match(encoder, found.tensors, str(path))
    encoder.eval()
    return encoder if route == "all" else encoder.keep(route or found.description["deploy"])


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier: its encoder's description and the number of classes stand in the header."""
    description = {**classifier.encoder.description(), "classes": classifier.head.out_features}
    write(path, "classifier", description, classifier.state_dict())


def load_classifier(path: str | Path) -> Classifier:
    """The classifier of a checkpoint, in eval mode. Errors: `UserError` unless every tensor matches."""
    found = read(path)
    if found.kind != "classifier":
        raise UserError(f"{path}: holds an {found.kind}, expected a classifier")
    encoder = from_description(found.description, str(path))
    classifier = Classifier(encoder, nn.Linear(encoder.width, int(found.description["classes"])))
    match(classifier, found.tensors, str(path))
    return classifier.eval()


def _digest(kind: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits of all that a checkpoint says and holds."""
    said = json.dumps([kind, description, _hash(tensors)], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:80]
