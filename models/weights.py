"""The only owner of reading other people's weights: tensors by name from a file, and never a line of its code."""

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustcl.models.arrays import check_archive
from robustcl.models.errors import UserError

HELP = "docs/importing.md"  # the safe way to convert a file that needs code


def read_weights(path: Path) -> Any:
    """What a file of weights holds: tensors by name, or a mapping with such a one inside.

    `.safetensors`, or whatever `torch.save` writes, read with `weights_only=True`: nothing in it is executed.
    Errors: `UserError` for a file that is missing, empty, truncated, a web page, or that needs code to be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected weights")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path}: empty, expected weights; was its download cut off?")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a pointer of git-lfs, expected weights; 'git lfs pull' fetches what it points to")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise UserError(f"{path}: a web page, expected weights; its download gave a page in place of the file")
    if head[8:9] == b"{":
        return _safetensors(path)
    if not head.startswith((b"PK", b"\x80")):  # torch.save writes a zip archive or, before 1.6, pickles of protocol 2
        raise UserError(f"{path}: truncated or not a file of weights (begins with {head[:8]!r})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about other pickles: we say in one line what is wrong
            with contextlib.suppress(BadZipFile):  # torch says better what is wrong with it
                check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything; what it raised stands in the line
        raise UserError(f"{path}: {_reason(path, str(error) or type(error).__name__)}") from None


def state_dict(held: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """The tensors by name inside what a file holds, and the key that they lay under ("" for none).

    Errors: `UserError` where there are none, or several such mappings of which nobody says which is meant.
    """
    nest: list[str] = []
    inner = held
    while isinstance(inner, Mapping):
        inside = [key for key in NESTS if isinstance(inner.get(key), Mapping)]
        if len(nest) == _DEEP:
            raise UserError(f"{path}: mappings in mappings {'.'.join(nest)}, expected tensors by name")
        full = [key for key in inside if _full(inner[key])]
        if len(full) > 1:
            raise UserError(
                f"{path}: tensors by name under {' and '.join(full)}, expected one of them; save the one that is meant"
            )
        if not inside:
            break
        nest.append((full or inside)[0])
        inner = inner[nest[-1]]
    if not isinstance(inner, Mapping) or not len(inner):
        what = "nothing" if isinstance(inner, Mapping) else f"a {type(inner).__name__}"
        raise UserError(f"{path}: holds {what}, expected tensors by name")
    for key, entry in inner.items():
        _check(str(key), entry, path)
    return ".".join(nest), {str(key): tensor for key, tensor in inner.items()}


def unread(held: Any, nest: str) -> list[str]:
    """The keys beside `nest` that hold tensors by name too: averaged weights, another network, a head."""
    if not nest:
        return []
    return sorted(str(key) for key, part in held.items() if key != nest.partition(".")[0] and _full(part))


def _check(name: str, entry: Any, path: Path) -> None:
    if len(name) > LONGEST or not name.isprintable():
        raise UserError(f"{path}: a name of {len(name)} characters ({name[:20]!r}...), expected that of a tensor")
    if not isinstance(entry, Tensor):
        raise UserError(
            f"{path}: '{name}' is no tensor, expected tensors by name, alone or under one of {', '.join(NESTS)}"
        )
    if entry.layout is not torch.strided or entry.device.type != "cpu":
        raise UserError(f"{path}: '{name}' is sparse or has no numbers, expected a plain tensor")
    if entry.numel() * entry.element_size() > entry.untyped_storage().nbytes():
        raise UserError(
            f"{path}: '{name}' of shape {tuple(entry.shape)} repeats fewer numbers, expected a plain tensor"
        )


def _full(part: Any, deep: int = 0) -> bool:
    """Whether this is a mapping with tensors in it, or with such a mapping where they are looked for."""
    if not isinstance(part, Mapping) or deep == _DEEP:
        return False
    if any(isinstance(entry, Tensor) for entry in part.values()):
        return True
    return any(_full(part.get(key), deep + 1) for key in NESTS)


_DEEP = 4  # mappings within mappings; a file may hold one that holds itself
LONGEST = 200  # characters of a tensor's name
NESTS = ("state_dict", "model", "model_state_dict", "net", "encoder", "backbone", "params", "weights")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({str(error).splitlines()[0][:80]})") from None


def _reason(path: Path, text: str) -> str:
    """Why weights could not be read, for people."""
    needed = _globals(path, text)
    if needed:
        return (
            f"needs code to be read ({', '.join(needed)}), which robustcl never runs; "
            f"where you trust the file, convert it as {HELP} says"
        )
    if "TorchScript" in text:
        return f"a TorchScript program, expected weights alone; convert it as {HELP} says"
    if text.startswith("Weights only load failed"):  # in another dialect of pickle than that of torch.save
        return f"a pickle that torch.save did not write, which robustcl never reads; convert it as {HELP} says"
    return f"truncated or not a file of weights ({text.splitlines()[0][:80]})"


def _globals(path: Path, text: str) -> list[str]:
    """The names of the code that a pickle asks for; reading them runs none of it."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not torch's zip format, or damaged
        return sorted(set(re.findall(r"GLOBAL ([\w.]+)", text)))
