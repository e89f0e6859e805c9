"""The only owner of suite files: TOML to typed values, with overrides, a grid, and one-line errors."""

import copy
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from robustcl.bench.data import DataSet, read_dataset
from robustcl.bench.schemes import Scheme, read_scheme
from robustcl.models.architecture import Architecture, read_architecture
from robustcl.models.errors import UserError, nearest, unknown
from robustcl.models.plugin import name_of
from robustcl.models.threat import Radius, Threat
from robustcl.models.value import Table, plain, read, value
from robustcl.pretraining.method import Method, Training, read_method
from robustcl.pretraining.methods.supervised import Supervised
from robustcl.pretraining.pseudo_labels import ClusterFit

FOLDER = Path(__file__).parent / "suites"
RANDOM = "random"
_TABLES = ("data", "encoder", "threat", "labels", "pretrain", "finetune", "judge", "seeds", "grid")


@value
class Seeds:
    """One seed per part, so that their spreads can be told apart."""

    pretrain: int = Field(default=0, ge=0)
    finetune: int = Field(default=0, ge=0)
    judge: int = Field(default=0, ge=0)


@value
class Sweep:
    """Further radii, in the norm of the suite's threat, and the judges that try them."""

    eps: tuple[Radius, ...] = ()
    judges: tuple[str, ...] = ("pgd-20",)


@value
class Judging:
    """Who judges, on how many of the test images (a fixed random part; None is all), in which batches.

    `batch` is part of the identity of the reference AutoAttack, whose draws depend on it.
    """

    judges: tuple[str, ...] = ("pgd-20", "autoattack")
    images: int | None = Field(default=None, ge=1)
    batch: int = Field(default=512, ge=1)
    sweep: Sweep = Sweep()


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """A method, and the name of the labels it reads."""

    method: Method
    labels: str | None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The name of the encoder whose features are clustered, and how."""

    encoder: str
    fit: ClusterFit


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite, or one point of its grid (`point` says which)."""

    name: str
    head: str
    point: str
    data: DataSet
    architecture: Architecture
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    threat: Threat
    labels: Mapping[str, Labels]
    pretrain: Mapping[str, Pretrain]
    finetune: Mapping[str, Scheme]
    judge: Judging
    seeds: Seeds
    table: Table


def suites() -> dict[str, Path]:
    """The suites that come with robustcl, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read_suite(name: str | Path, overrides: Sequence[str] = ()) -> list[Suite]:
    """The points of a suite: one, or one per combination of its grid. `overrides` are texts `path.to.key=value`.

    Errors: `UserError` for an unknown suite, a file that is not TOML, an unknown key or name, or a wrong type.
    """
    path = _find(name)
    try:
        text = path.read_text()
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not a readable TOML file ({error})") from None
    for override in overrides:
        _override(table, override)
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    return [_suite(path.stem, head, point, part) for point, part in _grid(table, path.stem)]


def _suite(name: str, head: str, point: str, table: Table) -> Suite:
    for key in table:
        if key not in _TABLES:
            raise UserError(f"{name}: unknown key '{key}', expected one of {', '.join(_TABLES)}{nearest(key, _TABLES)}")
        if not isinstance(table[key], dict):
            raise UserError(f"{name}.{key}: {table[key]!r} is wrong, expected a table [{key}]")
    for key in ("data", "encoder", "threat", "pretrain", "finetune"):
        if not isinstance(table.get(key), dict) or not table[key]:
            raise UserError(f"{name}: missing table [{key}], expected it in every suite")
    encoder = dict(table["encoder"])
    mean, std = (_numbers(encoder.pop(key, None), f"{name}.encoder.{key}") for key in ("mean", "std"))
    labels = {key: _labels(part, f"{name}.labels.{key}") for key, part in _parts(table, name, "labels")}
    pretrain = {key: _pretrain(part, f"{name}.pretrain.{key}") for key, part in _parts(table, name, "pretrain")}
    finetune = {
        key: read_scheme({"scheme": key, **part}, f"{name}.finetune.{key}")
        for key, part in _parts(table, name, "finetune")
    }
    suite = Suite(
        name=name,
        head=head,
        point=point,
        data=read_dataset(table["data"], f"{name}.data"),
        architecture=read_architecture(encoder, f"{name}.encoder"),
        mean=mean,
        std=std,
        threat=read(Threat, table["threat"], f"{name}.threat"),
        labels=labels,
        pretrain=pretrain,
        finetune=finetune,
        judge=read(Judging, table.get("judge", {}), f"{name}.judge"),
        seeds=read(Seeds, table.get("seeds", {}), f"{name}.seeds"),
        table=table,
    )
    _check_names(suite)
    return suite


def random_encoder(suite: Suite) -> Pretrain:
    """The encoder of the suite's shape that no method has touched: a row of every table."""
    return Pretrain(method=Supervised(objective="clean", training=Training(epochs=0)), labels=None)


def resolved(suite: Suite) -> Table:
    """Every field of the suite, defaults included, as plain tables."""
    return {
        "point": suite.point,
        "data": {"name": type(suite.data).__name__.lower(), **plain(suite.data)},
        "encoder": {"name": name_of(suite.architecture), **plain(suite.architecture)},
        "threat": plain(suite.threat),
        "labels": {key: {"encoder": part.encoder, **plain(part.fit)} for key, part in suite.labels.items()},
        "pretrain": {
            key: {"method": name_of(part.method), "labels": part.labels, **plain(part.method)}
            for key, part in suite.pretrain.items()
        },
        "finetune": {key: plain(scheme) for key, scheme in suite.finetune.items()},
        "judge": plain(suite.judge),
        "seeds": plain(suite.seeds),
    }


def _find(name: str | Path) -> Path:
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


def _parts(table: Table, name: str, key: str) -> list[tuple[str, Table]]:
    held = table.get(key, {})
    for part, entry in held.items():
        if not isinstance(entry, dict):
            raise UserError(f"{name}.{key}.{part}: {entry!r} is wrong, expected a table [{key}.{part}]")
    return list(held.items())


def _pretrain(table: Table, where: str) -> Pretrain:
    fields = {key: entry for key, entry in table.items() if key != "labels"}
    method, labels = read_method(fields, where), table.get("labels")
    if not isinstance(labels, str | None):
        raise UserError(f"{where}.labels: {labels!r} is wrong, expected a name below [labels]")
    if (method.supervision == "pseudo") != (labels is not None):
        says = "reads pseudo-labels, expected labels = <a name below [labels]>"
        raise UserError(f"{where}: the method {says if labels is None else 'reads no pseudo-labels; remove labels'}")
    return Pretrain(method=method, labels=labels)


def _labels(table: Table, where: str) -> Labels:
    if not isinstance(table.get("encoder"), str):
        raise UserError(f"{where}: missing key 'encoder', expected a name below [pretrain]")
    fields = {key: entry for key, entry in table.items() if key != "encoder"}
    return Labels(encoder=table["encoder"], fit=read(ClusterFit, fields, where))


def _check_names(suite: Suite) -> None:
    if RANDOM in suite.pretrain:
        raise UserError(f"{suite.name}.pretrain.{RANDOM}: this name is taken by the encoder that is in every table")
    for key, part in suite.pretrain.items():
        if part.labels is not None and part.labels not in suite.labels:
            raise unknown(f"{suite.name}.pretrain.{key}.labels", "labels", part.labels, suite.labels)
    for key, labels in suite.labels.items():
        if labels.encoder not in suite.pretrain:
            raise unknown(f"{suite.name}.labels.{key}.encoder", "encoder", labels.encoder, suite.pretrain)
        if suite.pretrain[labels.encoder].labels is not None:
            raise UserError(f"{suite.name}.labels.{key}.encoder: '{labels.encoder}' reads labels itself")


def _numbers(given: Any, where: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(n, int | float) for n in given):
        raise UserError(f"{where}: {given!r} is wrong, expected a list of numbers, one per channel")
    return tuple(float(n) for n in given)


def _override(table: Table, override: str) -> None:
    """Set `path.to.key=value`; the value is TOML, or else text."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {override}: expected path.to.key=value, such as judge.images=100")
    try:
        new = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        new = text
    _put(table, path.strip(), new, f"--set {override}")


def _put(table: Table, path: str, new: Any, where: str) -> None:
    *parents, last = path.split(".")
    here: Any = table
    for depth, part in enumerate(parents):
        named = depth == 1 and parents[0] in ("pretrain", "finetune", "labels")
        if (named or depth == 0) and part not in here and part not in _TABLES:
            raise unknown(where, "table", part, here)
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise UserError(f"{where}: '{part}' is not a table, expected path.to.key")
    here[last] = new


def _grid(table: Table, name: str) -> list[tuple[str, Table]]:
    """Every combination of the lists below [grid], whose keys are quoted paths."""
    axes = table.get("grid", {})
    if not isinstance(axes, dict):
        raise UserError(f"{name}.grid: {axes!r} is wrong, expected a table [grid]")
    for path, choices in axes.items():
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{name}.grid.{path}: {choices!r} is wrong, expected a list of values for the quoted path")
    rest = {key: part for key, part in table.items() if key != "grid"}
    points = []
    for combination in itertools.product(*axes.values()):
        part = copy.deepcopy(rest)
        for path, choice in zip(axes, combination, strict=True):
            _put(part, path, copy.deepcopy(choice), f"{name}.grid")
        words = [f"{path.rpartition('.')[2]}={choice}" for path, choice in zip(axes, combination, strict=True)]
        points.append((", ".join(words), part))
    return points
