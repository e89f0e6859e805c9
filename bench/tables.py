"""The only owner of suite files as tables: which there are, what they extend, entries alike, overrides and the grid."""

import copy
import itertools
import math
import tomllib
from pathlib import Path
from typing import Any

from robustcl.models.errors import UserError, unknown
from robustcl.models.value import Table, merge

POINTS = 10_000  # of a grid: each is a suite of its own
FOLDER = Path(__file__).parent / "suites"
TABLES = (
    "data", "target", "sets", "transfer", "encoder", "threat", "labels", "pretrain", "finetune", "reference", "table",
    "judge", "probes", "seeds", "grid",
)  # fmt: skip


def suites() -> dict[str, Path]:
    """The suites that come with robustcl, by name; a file whose name begins with `_` is only there to be extended."""
    return {name: path for name, path in _built_in().items() if not name.startswith("_")}


def find_suite(name: str | Path) -> Path:
    """The file of a suite by its name or path. Errors: `UserError` with the nearest name where there is none."""
    if str(name).endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such file, expected a suite in TOML")
        return path
    known = suites()
    if str(name) not in known:
        message = str(unknown("run", "suite", str(name), known)).replace(
            "expected one of", "expected a path.toml or one of"
        )
        raise UserError(message)
    return known[str(name)]


def merged(path: Path, below: tuple[Path, ...] = ()) -> tuple[Table, str]:
    """The tables of a suite over those of the suites that it extends, later ones over earlier, and its own text."""
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # tomllib's errors and those of text are of value
        raise UserError(f"{path}: not a readable TOML file ({error})") from None
    if "extends" not in table:
        return table, text
    given, chain = table.pop("extends"), (*below, path.resolve())
    whole: Table = {}
    for base in [_extended(path, one) for one in (given if isinstance(given, list) else [given])]:
        if base.resolve() in chain:
            names = " -> ".join(one.stem for one in (*chain, base))
            raise UserError(f"{path.stem}.extends: a circle ({names}), expected suites that end in one without extends")
        whole = _over(whole, merged(base, chain)[0])
    return _over(whole, table), text


def _over(whole: Table, table: Table) -> Table:
    """`table` laid over `whole`; its [sets] stand for the [data] and [target] of what it extends."""
    if "sets" in table:
        whole = {key: part for key, part in whole.items() if key not in ("data", "target")}
    return merge(whole, table)


def _extended(path: Path, base: Any) -> Path:
    """The file of the suite `base` that the one at `path` extends."""
    where, known = f"{path.stem}.extends", _built_in()
    if not isinstance(base, str):
        raise UserError(f"{where}: {base!r} is wrong, expected the name of a suite or './<path>.toml' in quotes")
    if not base.endswith(".toml"):
        if base not in known:
            raise unknown(where, "suite", base, known)
        return known[base]
    found = path.parent / base
    if not found.is_file():
        raise UserError(f"{where}: {found}: no such file, expected a suite in TOML, relative to {path.name}")
    return found


def _built_in() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def entries(table: Table, name: str, key: str) -> dict[str, Table]:
    """The tables below [`key`]. Errors: `UserError` for an entry that is none."""
    held = table.get(key, {})
    for part, entry in held.items():
        if not isinstance(entry, dict):
            raise UserError(f"{name}.{key}.{part}: {entry!r} is wrong, expected a table [{key}.{part}]")
    return dict(held)


def alike(table: Table, name: str) -> dict[str, Table]:
    """The entries of [pretrain], with those that are `like` another one laid over it."""
    known = entries(table, name, "pretrain")

    def whole(key: str, below: tuple[str, ...]) -> Table:
        part, where = dict(known[key]), f"{name}.pretrain.{key}.like"
        other = part.pop("like", None)
        if other is None:
            return part
        if not isinstance(other, str) or other not in known:
            raise unknown(where, "encoder", str(other), known)
        if other in below:
            raise UserError(f"{where}: a circle ({' -> '.join((*below, other))}), expected another entry")
        return merge(whole(other, (*below, other)), part)

    return {key: whole(key, (key,)) for key in known}


def override(table: Table, given: str) -> None:
    """Set `path.to.key=value`; the value is TOML, or else text."""
    path, equals, text = given.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {given}: expected path.to.key=value, such as judge.images=100")
    try:
        new = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        new = text
    _put(table, path.strip(), new, f"--set {given}")


def _put(table: Table, path: str, new: Any, where: str) -> None:
    *parents, last = path.split(".")
    here: Any = table
    for depth, part in enumerate(parents):
        named = depth == 1 and parents[0] in ("pretrain", "finetune", "labels", "reference", "sets")
        if (named or depth == 0) and part not in here and part not in TABLES:
            raise unknown(where, "table", part, here)
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise UserError(f"{where}: '{part}' is not a table, expected path.to.key")
    here[last] = new


def grid(table: Table, name: str) -> list[tuple[str, Table]]:
    """Every combination of the lists below [grid], whose keys are quoted paths."""
    axes = table.get("grid", {})
    if not isinstance(axes, dict):
        raise UserError(f"{name}.grid: {axes!r} is wrong, expected a table [grid]")
    for path, choices in axes.items():
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{name}.grid.{path}: {choices!r} is wrong, expected a list of values for the quoted path")
        if path.partition(".")[0] in ("data", "target", "sets", "transfer"):
            raise UserError(
                f"{name}.grid.{path}: data is not an axis, expected several data sets as [sets] and [transfer]"
            )
    count = math.prod(len(choices) for choices in axes.values())
    if count > POINTS:
        raise UserError(f"{name}.grid: {count} combinations, expected at most {POINTS}; split it into several suites")
    rest = {key: part for key, part in table.items() if key != "grid"}
    points = []
    for combination in itertools.product(*axes.values()):
        part = copy.deepcopy(rest)
        for path, choice in zip(axes, combination, strict=True):
            _put(part, path, copy.deepcopy(choice), f"{name}.grid")
        words = [f"{path.rpartition('.')[2]}={choice}" for path, choice in zip(axes, combination, strict=True)]
        points.append((", ".join(words), part))
    return points
