"""The only owner of running foreign code: a factory in somebody's file or package, its imports, its errors.

This is the one place where robustcl executes code that it was given: whoever names a factory trusts its file.
"""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from robustcl.models.errors import UserError, nearest

# What we take where it is installed must never be a copy that lies in somebody's repository.
_OURS = frozenset({"robustcl", "autoattack", "pyautoattack", "robustbench"})


def load(target: str) -> Callable[[Tensor], Tensor]:
    """The model of `path/to/file.py:name` or `package.module:name`: what the factory returns, or the module itself.

    A factory is called without arguments and returns an `nn.Module` or a callable; a `name` that is a module already is
    taken as it is. While their code is imported and called, modules of their repository (the folder of the file, the
    folder above its package, the working folder) come before installed ones, but never before the standard library.
    Afterwards nothing of theirs answers for a name that is installed.

    Errors: `UserError` in one line, with file and line where their code failed.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not name.isidentifier():
        raise UserError(
            f"{target}: not a factory, expected path/to/file.py:name or package.module:name "
            "(or the file of an encoder with --scheme SLF)"
        )
    file = Path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UserError(f"{place}: no such file, expected one with a function {name}")
    roots = _roots(file)
    with _at_home(roots), _blamed(target, roots):
        module = _from_file(file) if file else importlib.import_module(place)
        made = _made(module, name, place)
    if not callable(made):
        raise UserError(f"{target}: returned {_kind(made)}, expected an nn.Module or a callable: images -> logits")
    answer: Callable[[Tensor], Tensor] = made
    return answer


def blame(error: BaseException, roots: Sequence[Path] = ()) -> str:
    """An error of somebody's code in one line: its kind, its message, the last of their lines that it passed."""
    text = " ".join(str(error).split()) or "no message"
    frames = traceback.extract_tb(error.__traceback__)
    held = [root.resolve() for root in roots]
    inside = [f for f in frames if any(_below(Path(f.filename), root) for root in held)]
    inside = [f for f in inside if f.filename != __file__ and "site-packages" not in f.filename]
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    where = f" ({inside[-1].filename}:{inside[-1].lineno})" if inside else ""
    return f"{type(error).__name__}: {text}{where}"


def _made(module: ModuleType, name: str, place: str) -> Any:
    if not hasattr(module, name):
        known = [key for key, thing in vars(module).items() if callable(thing) and not key.startswith("_")]
        raise UserError(f"{place}: no function '{name}'{nearest(name, known)}")
    factory = getattr(module, name)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UserError(f"{place}:{name}: is {_kind(factory)}, expected a function that returns a model")
    if needed := _needed(factory):
        raise UserError(f"{place}:{name}: needs {', '.join(needed)}, expected a factory that is called without any")
    return factory()


def _needed(factory: Callable[..., Any]) -> list[str]:
    """The arguments without which the factory cannot be called."""
    try:
        held = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in held if one.default is inspect.Parameter.empty and one.kind not in free]


def _kind(thing: object) -> str:
    return "nothing" if thing is None else f"something of type {type(thing).__name__}"


def _from_file(file: Path) -> ModuleType:
    """The module in a file: part of its package where it lies in one, so that its relative imports work."""
    names = _package(file)
    if names:
        return importlib.import_module(".".join([*names, file.stem]))
    # A file named like a module of Python or of ours is still run, under a name that shadows nothing.
    taken = file.stem in sys.stdlib_module_names or file.stem in sys.modules
    name = f"_given_{file.stem}" if taken else file.stem
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package(file: Path) -> list[str]:
    """The packages that a file lies in, from the outermost."""
    names, folder = [], file.resolve().parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.append(folder.name)
        folder = folder.parent
    return names[::-1]


def _roots(file: Path | None) -> list[Path]:
    """Where their modules are looked for, in order."""
    here = [Path.cwd()]
    if file is not None:
        parent = file.resolve().parent
        here = [parent, Path(*parent.parts[: len(parent.parts) - len(_package(file))]), *here]
    return list(dict.fromkeys(here))


class _Home:
    """Finds top-level modules in somebody's folders; the standard library's and ours are never looked for there."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [str(root) for root in roots]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Their module of this name. A bare folder, such as data/, comes after an installed package, as in Python."""
        if path is not None or "." in name or name in sys.stdlib_module_names or name in _OURS:
            return None
        spec = PathFinder.find_spec(name, self.roots)
        return None if spec and not spec.loader and _installed(name) else spec

    def clashes(self, name: str, origin: str | None) -> bool:
        """Whether they have a module of this name that is not the one with this `origin`."""
        spec = self.find_spec(name)
        return spec is not None and spec.origin is not None and origin is not None and spec.origin != origin


def _installed(name: str) -> ModuleSpec | None:
    """The module of this name on Python's own path. Our rooms in a checkout do not count: nobody imports them so."""
    spec, rooms = PathFinder.find_spec(name), Path(__file__).resolve().parent.parent
    ours = spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent.parent == rooms
    return None if ours else spec


@contextmanager
def _at_home(roots: Sequence[Path]) -> Iterator[None]:
    """Their modules come first inside; outside, they only answer for names that nobody else has.

    What they import while the model answers is thereby still found, unless it is named like an installed package.
    """
    importlib.invalidate_caches()
    home, words = _Home(roots), sys.argv
    hidden = _taken({name for name in _tops() if home.clashes(name, getattr(sys.modules.get(name), "__file__", None))})
    sys.meta_path.insert(0, home)
    sys.argv = words[:1]  # their file may parse arguments when it is imported; ours are not meant for it
    try:
        yield
    finally:
        sys.argv = words
        sys.meta_path.remove(home)
        sys.meta_path.append(home)
        installed = {name: _installed(name) for name in _tops()}
        _taken({name for name, spec in installed.items() if spec and home.clashes(name, spec.origin)})
        _taken({name.partition(".")[0] for name in hidden})
        sys.modules.update(hidden)


def _tops() -> set[str]:
    """The top-level modules that are loaded."""
    return {name.partition(".")[0] for name in list(sys.modules)}


def _taken(tops: set[str]) -> dict[str, ModuleType]:
    """These top-level modules with everything below them, out of those that are loaded."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}


def _below(path: Path, folder: Path) -> bool:
    return path.is_absolute() and path.resolve().is_relative_to(folder)


@contextmanager
def _blamed(target: str, roots: Sequence[Path]) -> Iterator[None]:
    """Whatever their code raises is told in one line, with their file and line, and without our traceback."""
    try:
        yield
    except UserError:
        raise
    except SystemExit as end:
        raise UserError(f"{target}: ended Python with exit code {end.code} instead of returning a model") from None
    except Exception as error:
        raise UserError(f"{target}: {blame(error, roots)}") from None
