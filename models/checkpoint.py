"""The only owner of weights on disk: one safetensors file with its description in the header, loaded strictly."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder, from_description
from robustcl.models.errors import UserError
from robustcl.models.whole import writing

SCHEMA = 1
M = TypeVar("M", bound=nn.Module)


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
    kind, description, digest = _described(header, path)
    if digest not in (None, _digest(kind, description, tensors)):  # files of version 0.1.0 have none
        raise UserError(f"{path}: not as it was written (a bit has changed), expected the file that robustcl wrote")
    return Checkpoint(kind, description, tensors)


def _described(header: str, path: Path) -> tuple[str, dict[str, Any], str | None]:
    """Kind, description and digest, as `write` writes them."""
    try:
        found = dict(json.loads(header))
        schema, kind, description = found.get("schema"), found.get("kind"), found.get("description")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: a damaged header ({_short(error)}), expected robustcl's description in it") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, expected {SCHEMA}; written by another robustcl version")
    if not isinstance(kind, str) or not isinstance(description, dict):
        raise UserError(f"{path}: a damaged header, expected a kind and a description in it")
    return kind, description, found.get("digest")


def match(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> str:
    """Load every tensor or none, and report it: `matched 62/62 tensors`.

    Errors: `UserError` with the report where a tensor is missing, left over or of another shape.
    """
    report = _compare(module, tensors, where)
    module.load_state_dict(dict(tensors), strict=True)
    return report


def _compare(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> str:
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
    encoder = _filled(found, path, lambda: from_description(found.description, str(path)))
    encoder.eval()
    return encoder if route == "all" else encoder.keep(route or str(found.description.get("deploy")))


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier: its encoder's description and the number of classes stand in the header."""
    description = {**classifier.encoder.description(), "classes": classifier.head.out_features}
    write(path, "classifier", description, classifier.state_dict())


def load_classifier(path: str | Path) -> Classifier:
    """The classifier of a checkpoint, in eval mode. Errors: `UserError` unless every tensor matches."""
    found = read(path)
    if found.kind != "classifier":
        raise UserError(f"{path}: holds an {found.kind}, expected a classifier")
    classes = found.description.get("classes")
    if type(classes) is not int or classes < 1:  # true is no number of classes
        raise UserError(f"{path}: a classifier of {classes!r} classes, expected their number")

    def build() -> Classifier:
        encoder = from_description(found.description, str(path))
        return Classifier(encoder, nn.Linear(encoder.width, classes))

    return _filled(found, path, build).eval()


def _filled(found: Checkpoint, path: str | Path, build: Callable[[], M]) -> M:
    """The network that `build` makes, with the tensors of the file.

    It is built without memory first, and compared with them: a header may describe more than any machine holds.
    """
    try:
        with torch.device("meta"):
            _compare(build(), found.tensors, str(path))
    except (RuntimeError, OverflowError) as error:  # torch's words for sizes that it cannot count
        raise UserError(f"{path}: not the description of a network ({_short(error)})") from None
    network = build()
    match(network, found.tensors, str(path))
    return network


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
    return (str(error).splitlines() or [type(error).__name__])[0][:80]
