"""The only owner of hostile things: a pickle that runs code, and names that other programs would obey."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = (
    "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "[x](https://evil.example/)", "![x](javascript:x)",
    "</pre><b>", "=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "\\input{/etc/passwd}", "\\write18{id}", "$\\frac{$",
    "%s%n{0}", "{{ 7 * 7 }}", "{% raw %}", "`id`", "$(id)", "a; rm -rf ~", "a|b", "../../x", "CON", "a&b", "^^M",
    "-->", "]]>", "x" * 40,
)  # fmt: skip


class Trap:
    """Whose pickle writes a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    """A pickle that makes the file `mark`."""
    return pickle.dumps({"state_dict": Trap(mark)}, protocol=2)


def saved(mark: Path, new: bool = True) -> bytes:
    """What `torch.save` writes of weights with a trap among them."""
    buffer = io.BytesIO()
    held = {"conv1.weight": torch.zeros(1, 3, 3, 3), "x": Trap(mark)}
    torch.save(held, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def array(mark: Path) -> bytes:
    """An npy of objects, which is a pickle behind a header."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def arrays(mark: Path, *names: str) -> bytes:
    """An npz of arrays of objects."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(f"{name}.npy", array(mark))
    return buffer.getvalue()
