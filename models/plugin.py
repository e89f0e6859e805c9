"""The only owner of how plug-ins are found: one file each in a folder, named after what it adds."""

import importlib
import inspect
import pkgutil
from typing import Any, TypeVar

from robustcl.models.errors import unknown

T = TypeVar("T")


def names(package: str) -> list[str]:
    """The names of the plug-ins in `package`, such as `robustcl.pretraining.methods`."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def find(package: str, kind: str, name: Any, base: type[T], where: str) -> type[T]:
    """The one subclass of `base` that the file `name` of `package` declares.

    Errors: `UserError` with the nearest name where there is no such file.
    """
    known = names(package)
    if name not in known:
        raise unknown(where, kind, str(name), known)
    module = importlib.import_module(f"{package}.{name}")
    found = [
        thing
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, base) and thing.__module__ == module.__name__ and not inspect.isabstract(thing)
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__}: declares {len(found)} {kind}s, expected exactly one")
    return found[0]


def name_of(of: Any) -> str:
    """The name of a plug-in: that of its file."""
    return type(of).__module__.rpartition(".")[2]
