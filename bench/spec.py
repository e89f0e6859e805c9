"""The only owner of how a suite is read: tables to typed values, one-line errors with the nearest name."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from robustcl.bench.data import PACKAGE as DATA
from robustcl.bench.data import DataSet, read_dataset
from robustcl.bench.forms import read_judges
from robustcl.bench.labels import read_labels
from robustcl.bench.names import check_names
from robustcl.bench.probe import read_probes
from robustcl.bench.profiles import read_schemes
from robustcl.bench.seeds import Seeds, combinations
from robustcl.bench.suite import (
    RANDOM,
    Imported,
    Judging,
    Outside,
    Pretrain,
    Row,
    Shown,
    Suite,
)
from robustcl.bench.tables import alike, entries, find_suite, grid, merged, override
from robustcl.bench.transfer import transfers
from robustcl.models.architecture import read_architecture
from robustcl.models.errors import UserError, nearest, unknown
from robustcl.models.naming import check_seen
from robustcl.models.plugin import find
from robustcl.models.threat import Threat
from robustcl.models.value import Table, read
from robustcl.pretraining.method import PACKAGE, Method, read_method

Constants = tuple[tuple[float, ...] | None, tuple[float, ...] | None]


def read_suite(name: str | Path, overrides: Sequence[str] = (), table: Table | None = None) -> list[Suite]:
    """The points of a suite: one, or one per combination of its grid. `overrides` are texts `path.to.key=value`.

    With a `table` these are the suite's tables, and no file is read.

    Errors: `UserError` for an unknown suite, a file that is not TOML, an unknown key or name, or a wrong type.
    """
    text = ""
    if table is None:
        path = find_suite(name)
        name, (table, text) = path.stem, merged(path)
    for given in overrides:
        override(table, given)
    check_seen(table, str(name))
    if "extends" in table:
        raise UserError("--set extends: what a suite extends is read before --set, expected it in the file")
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    return [
        _suite(str(name), head, point, part, pair, seeds)
        for point, whole in grid(table, str(name))
        for pair, part in transfers(whole, str(name))
        for seeds in combinations(part.get("seeds", {}), f"{name}.seeds")
    ]


def _suite(name: str, head: str, point: str, table: Table, pair: tuple[str, str], seeds: Seeds) -> Suite:
    where = {"data": f"{name}.sets.{pair[0]}" if pair[0] else f"{name}.data"}
    where["target"] = f"{name}.sets.{pair[1]}" if pair[1] else f"{name}.target"
    for key in ("data", "encoder", "threat", "pretrain", "finetune"):
        if not isinstance(table.get(key), dict) or not table[key]:
            raise UserError(f"{name}: missing table [{key}], expected it in every suite")
    encoder = dict(table["encoder"])
    mean, std = constants = _constants(encoder, f"{name}.encoder", (None, None))
    labels = {key: read_labels(part, f"{name}.labels.{key}") for key, part in entries(table, name, "labels").items()}
    whole = alike(table, name)
    imports = {
        key: read(Imported, part, f"{name}.pretrain.{key}") for key, part in whole.items() if "checkpoint" in part
    }
    pretrain = {
        key: _pretrain(part, f"{name}.pretrain.{key}", constants) for key, part in whole.items() if key not in imports
    }
    profile, per_method, finetune = read_schemes(table, name)
    rows, shown = _shown(table.get("table", {}), f"{name}.table", whole, pretrain, finetune)
    judging = read(Judging, table.get("judge", {}), f"{name}.judge")
    suite = Suite(
        name=name,
        head=head,
        point=point,
        data=_dataset(table["data"], where["data"]),
        target=_dataset(table["target"], where["target"]) if "target" in table else None,
        data_name=pair[0],
        target_name=pair[1],
        architecture=read_architecture(encoder, f"{name}.encoder"),
        mean=mean,
        std=std,
        threat=read(Threat, table["threat"], f"{name}.threat"),
        labels=labels,
        pretrain=pretrain,
        imports=imports,
        profile=profile,
        per_method=per_method,
        finetune=finetune,
        references=_references(table, name, pretrain),
        rows=rows,
        schemes=shown,
        judge=judging,
        attacks=read_judges(judging.attacks, f"{name}.judge.attacks", judging.how),
        probes=read_probes(entries(table, name, "probes"), f"{name}.probes"),
        seeds=seeds,
        table=table,
    )
    check_names(suite)
    held = [getattr(data, "holdout", None) for data in (suite.data, suite.target) if data]
    if len(set(held)) > 1:
        raise UserError(
            f"{name}: holdout of [data] {held[0]}, of [target] {held[1]}, expected the same, or test images judge"
        )
    return suite


def _dataset(table: Table, where: str) -> DataSet:
    """A data set; a suite may leave the path of one to the command line."""
    kind = find(DATA, "data set", table.get("name"), DataSet, where)
    if "path" in kind.__dataclass_fields__ and "path" not in table:
        what, example = ("an .npz", "mnist.npz") if table["name"] == "npz" else ("a folder", "images/")
        key = where.partition(".")[2]
        raise UserError(f"{where}.path: missing, expected the path of {what}, for example --set {key}.path={example}")
    return read_dataset(table, where)


def _pretrain(table: Table, where: str, constants: Constants) -> Pretrain:
    table = dict(table)
    mean, std = _constants(table, where, constants)
    method, given = _method(table, where)
    labels, needs = table.get("labels"), method.facts.needs
    if not isinstance(labels, str | None):
        raise UserError(f"{where}.labels: {labels!r} is wrong, expected a name below [labels]")
    if method.supervision == "pseudo" and labels is None:
        raise UserError(f"{where}: the method reads pseudo-labels, expected labels = <a name below [labels]>")
    # One of its fields, such as a weight of 0 in a grid, may leave them out; labels that it never reads are a mistake.
    if labels is not None and type(method)().supervision != "pseudo":
        raise UserError(f"{where}: the method reads no pseudo-labels; remove labels")
    for role in needs:
        if role not in given:
            raise UserError(f"{where}: the method needs an encoder, expected {role} = <a name below [pretrain]>")
    return Pretrain(method=method, labels=labels, given=given, mean=mean, std=std)


def _method(table: Table, where: str) -> tuple[Method, dict[str, str]]:
    """The method of a table, and the encoders that it is given by their roles: keys that are no field of it."""
    fields = {key: entry for key, entry in table.items() if key != "labels"}
    if "method" not in fields:
        return read_method(fields, where), {}  # which says so
    known = [one.name for one in dataclasses.fields(find(PACKAGE, "method", fields["method"], Method, where))]
    odd = {key: entry for key, entry in fields.items() if key not in (*known, "method", "arm")}
    method = read_method({key: entry for key, entry in fields.items() if key not in odd}, where)
    needs = method.facts.needs
    for key, entry in odd.items():
        if key not in needs:
            names = sorted({*known, *needs, "arm", "labels", "like", "mean", "std"})
            raise UserError(f"{where}: unknown key '{key}', expected one of {', '.join(names)}{nearest(key, names)}")
        if not isinstance(entry, str):
            raise UserError(f"{where}.{key}: {entry!r} is wrong, expected a name below [pretrain]")
    return method, odd


def _references(table: Table, name: str, pretrain: Collection[str]) -> dict[str, Outside]:
    """The entries of [reference]: classifiers from outside, judged as they are."""
    found = {
        key: read(Outside, part, f"{name}.reference.{key}") for key, part in entries(table, name, "reference").items()
    }
    for key in found:
        if key in (RANDOM, *pretrain):
            raise UserError(f"{name}.reference.{key}: this name is taken by an encoder, expected another one")
    return found


def _shown(
    table: Table,
    where: str,
    encoders: Collection[str],
    pretrain: Mapping[str, Pretrain],
    finetune: Collection[str],
) -> tuple[list[Row], list[str]]:
    """The rows and the schemes of the table."""
    shown = read(Shown, table, where)
    rows = list(encoders) if shown.rows is None else list(shown.rows)
    schemes = list(finetune) if shown.schemes is None else list(shown.schemes)
    read_rows = [_row(name, f"{where}.rows", encoders, pretrain) for name in rows]
    for key, names, held in (("rows", rows, read_rows), ("schemes", schemes, schemes)):
        if not names or len(set(held)) < len(names):
            raise UserError(f"{where}.{key}: {names!r} is wrong, expected at least one name, each once")
    for name in schemes:
        if name not in finetune:
            raise unknown(f"{where}.schemes", "scheme", name, finetune)
    return read_rows, schemes


def _row(name: str, where: str, encoders: Collection[str], pretrain: Mapping[str, Pretrain]) -> Row:
    if name in encoders:
        return Row(entry=name)
    entry, *marks = name.split("@")
    if entry not in encoders:
        raise unknown(where, "encoder", entry, encoders)
    if entry not in pretrain:  # an imported one: its routes are in its file, which is read for the plan
        if len(marks) != 1:
            raise UserError(f"{where}: '{name}', expected one route of its checkpoint after @")
        return Row(entry=entry, route=marks[0])
    method = pretrain[entry].method
    epochs, routes = {str(epoch): epoch for epoch in method.training.snapshots}, method.routes
    epoch = next((epochs[mark] for mark in marks if mark in epochs), None)
    route = next((mark for mark in marks if mark in routes), None)
    if len(marks) != sum(part is not None for part in (epoch, route)):
        held = ", ".join([*epochs, *routes])
        raise UserError(f"{where}: '{name}', expected an epoch of its training.snapshots or a route after @ ({held})")
    return Row(entry=entry, snapshot=epoch, route=route)


def _constants(table: Table, where: str, defaults: Constants) -> Constants:
    """The `mean` and `std` of a table, which are taken out of it; `[]` is none: the network sees raw images."""
    found = []
    for key, default in zip(("mean", "std"), defaults, strict=True):
        given = table.pop(key, default)
        listed = given is None or isinstance(given, list | tuple)
        if not listed or not all(type(n) in (int, float) and math.isfinite(n) for n in given or ()):
            raise UserError(f"{where}.{key}: {given!r} is wrong, expected a list of numbers, one per channel")
        found.append(tuple(float(n) for n in given) if given else None)
    return found[0], found[1]
