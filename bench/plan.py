"""The only owner of the plan of a suite: its cells, and the graph of stages they need, each stage once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustcl.bench.attacks import Attack, identity, judges
from robustcl.bench.data import DataSet, Splits
from robustcl.bench.stages import content, outside
from robustcl.bench.store import Stage
from robustcl.bench.suite import (
    RANDOM,
    LabelFile,
    Labels,
    Own,
    Pretrain,
    Row,
    Saved,
    Suite,
    encoders_below,
    random_encoder,
)
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.models.vision import weights_file
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Method
from robustcl.pretraining.method import identity as method_identity
from robustcl.pretraining.pseudo_labels import check_k, load_labels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite comes to: the cells of its table, the stages in an order that respects their parents, their cost.

    `cost` counts forward-equivalents of one image; for a judge it is the most it can take. `files` are the user's own
    that stages read, by the SHA-256 of their content: keys know them by that alone.
    """

    cells: Sequence[dict[str, Any]]
    stages: Sequence[Stage]
    cost: dict[str, int]
    files: Mapping[str, Path] = field(default_factory=dict)


def plan(points: Sequence[Suite], splits: Splits, target: Splits | None = None) -> Plan:
    """The plan of a suite's points on the images of its data set, judged on those of its target if it has one."""
    files = _Files()
    drafts = [_Draft(suite, splits, target or splits, files) for suite in points]
    cells = _shown([list(draft.cells()) for draft in drafts], [draft.suite.point for draft in drafts])
    stages: dict[str, Stage] = {}
    cost: dict[str, int] = {}
    for draft in drafts:
        for stage in _parents_first(draft.ends):
            stages.setdefault(stage.key, stage)
        cost |= draft.cost
    return Plan(cells=cells, stages=list(stages.values()), cost=cost, files=files.known)


def _shown(drafts: Sequence[Sequence[dict[str, Any]]], points: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of all points of a grid; a row that no axis touches is there once, under its plain name."""
    rows: dict[str, list[set[str]]] = {}  # plain name -> the stages of its cells, point by point
    for number, (cells, point) in enumerate(zip(drafts, points, strict=True)):
        for cell in cells:
            rows.setdefault(_plain(cell, point), [set() for _ in points])[number].add(cell["stage"])
    found: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
    for cells, point in zip(drafts, points, strict=True):
        for cell in cells:
            name = _plain(cell, point)
            if all(stages == rows[name][0] for stages in rows[name]):
                cell["encoder"] = name
            held, _ = found.setdefault((cell["encoder"], cell["stage"]), (cell, point))
            held["headline"] |= cell["headline"]  # what one point has in its sweep may be the table of another
    _tell_apart(list(found.values()))
    return [cell for cell, _ in found.values()]


def _plain(cell: Mapping[str, Any], point: str) -> str:
    """The encoder of a cell without the point of its grid."""
    return str(cell["encoder"]).removesuffix(f" ({point})")


def _tell_apart(cells: Sequence[tuple[dict[str, Any], str]]) -> None:
    """Where a grid goes over finetuning or judging, the random encoder has a row for each point too."""
    same: dict[tuple[str, str, str], list[tuple[dict[str, Any], str]]] = {}
    for cell, point in cells:
        if cell["encoder"] == RANDOM:
            same.setdefault((cell["scheme"], cell["norm"], cell["eps"]), []).append((cell, point))
    for rows in same.values():
        for cell, point in rows if len(rows) > 1 else []:
            cell["encoder"] = f"{RANDOM} ({point})"


class _Files:
    """The user's files that stages read, each hashed and tried once."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}
        self.hashes: dict[Path, str] = {}
        self.tried: set[str] = set()

    def sha256(self, path: Path, where: str) -> str:
        """The hash of the file's content. Errors: `UserError` where there is no such file."""
        path = path.expanduser().resolve()
        if path not in self.hashes:
            if not path.is_file():
                raise UserError(f"{where}: {path}: no such file, expected one of labels or weights")
            self.hashes[path] = content(path)
            self.known[self.hashes[path]] = path
        return self.hashes[path]

    def try_out(self, stage: Stage, images: Images) -> None:
        """Read what the stage will read: what would fail in a worker after an hour fails here."""
        if stage.key in self.tried:
            return
        self.tried.add(stage.key)
        if "file" in stage.part:
            load_labels(self.known[stage.part["file"]], len(images))
        elif not stage.parents:
            outside(stage, self.known, images.shape)


class _Draft:
    """One point of a suite on its way to stages."""

    def __init__(self, suite: Suite, splits: Splits, target: Splits, files: _Files) -> None:
        self.suite, self.files, self.train, self.tuned = suite, files, splits.train, target.train
        _check_shapes(suite, splits.train, target.train)
        n = suite.judge.images
        if n is not None and n > len(target.test):
            raise UserError(f"{suite.name}.judge.images: {n}, expected at most the {len(target.test)} test images")
        self.test: Images = target.test.sample(n or len(target.test))
        # What would fail in a worker after an hour fails here, before anything is written.
        for labels in suite.labels.values():
            if labels.fit:
                check_k(labels.fit, len(self.train))
        self.ends: list[Stage] = []
        self.cost: dict[str, int] = {}
        self.made: dict[str, Stage] = {}
        self.labelled: dict[str, Stage] = {}

    def cells(self) -> Iterator[dict[str, Any]]:
        """One cell per encoder, scheme and radius."""
        suite = self.suite
        sweep = [Threat(eps, norm=suite.threat.norm) for eps in suite.judge.sweep.eps if eps != suite.threat.eps]
        for row in [Row(entry=RANDOM), *suite.rows]:
            for scheme in suite.schemes:
                classifier = self._finetune(row, scheme)
                yield self._cell(row, scheme, classifier, suite.threat, suite.judge.judges)
                for threat in sweep:
                    yield self._cell(row, scheme, classifier, threat, suite.judge.sweep.judges)

    def _cell(self, row: Row, scheme: str, classifier: Stage, threat: Threat, names: Sequence[str]) -> dict[str, Any]:
        suite = self.suite
        bench = judges(names, self.test.classes, suite.judge.batch)
        part = {
            "judges": {judge: [identity(attack) for attack in attacks] for judge, attacks in bench.items()},
            "threat": plain(threat),
            "data": self.test.fingerprint,
            "images": len(self.test),
            "seed": suite.seeds.judge,
        }
        label = f"evaluate {self._label(str(row))} {scheme} at {threat.eps}"
        stage = Stage(kind="evaluate", part=part, parents={"classifier": classifier}, label=label)
        self.ends.append(stage)
        self.cost[stage.key] = len(self.test) * (1 + sum(_cost(a, self.test.classes) for a in bench.values()))
        method = RANDOM if row.entry == RANDOM else name_of(suite.pretrain[row.entry].method)
        return {
            "encoder": self._label(str(row)),
            "method": method,
            "scheme": scheme,
            "data": " -> ".join(_name(data) for data in (suite.data, suite.target) if data),
            "classes": self.test.classes,
            "norm": threat.norm,
            "eps": str(threat.eps),
            "headline": threat.eps == suite.threat.eps,
            "judges": {judge: [attack.name for attack in attacks] for judge, attacks in bench.items()},
            "seeds": plain(suite.seeds),
            "protocol": self._protocol(row, scheme),
            "stage": stage.key,
        }

    def _protocol(self, row: Row, scheme: str) -> str:
        epochs = self.suite.finetune[scheme].training.epochs
        parts = [
            f"route {row.route or self._method(row.entry).method.deploy}",
            *([f"pretraining's epoch {row.snapshot}"] if row.snapshot else []),
            f"{scheme} {epochs} epochs, last epoch",
            *(["input normalised"] if self._method(row.entry).mean or self._method(row.entry).std else []),
            *(["external data"] if self._external(row.entry) else []),
        ]
        return ", ".join(parts)

    def _external(self, name: str) -> bool:
        """Whether data from outside the suite went into the encoder, or into one that it is made from."""
        labels = self._read(name)
        if labels and self.suite.labels[labels].external:
            return True
        return name != RANDOM and any(self._external(other) for other in encoders_below(self.suite, name))

    def _read(self, name: str) -> str | None:
        """The labels that a method reads: none where one of its fields, such as a weight of 0, leaves them out."""
        chosen = self._method(name)
        return chosen.labels if chosen.method.supervision == "pseudo" else None

    def _label(self, name: str) -> str:
        return f"{name} ({self.suite.point})" if self.suite.point and name != RANDOM else name

    def _method(self, name: str) -> Pretrain:
        return random_encoder(self.suite) if name == RANDOM else self.suite.pretrain[name]

    def _pretrain(self, name: str) -> Stage:
        if name not in self.made:
            suite, chosen = self.suite, self._method(name)
            method = chosen.method
            self._check_inputs(name, chosen)
            architecture = {"name": name_of(suite.architecture), **plain(suite.architecture)}
            part = {
                "method": method_identity(method),
                "encoder": {"architecture": architecture, "mean": chosen.mean, "std": chosen.std},
                "data": self.train.fingerprint,
                "threat": plain(suite.threat) if method.adversarial else None,
                "seed": suite.seeds.pretrain,
            }
            parents = {role: self._pretrain(other) for role, other in chosen.given.items()}
            labels = self._read(name)
            if labels:
                parents["labels"] = self._labels(labels)
            stage = Stage(kind="pretrain", part=part, parents=parents, label=f"pretrain {self._label(name)}")
            self.cost[stage.key] = self._training_cost(method, self.train)
            self.made[name] = stage
        return self.made[name]

    def _check_inputs(self, name: str, chosen: Pretrain) -> None:
        """What would fail in a worker after an hour fails here, before anything is written."""
        where = f"{self.suite.name}.pretrain.{name}" if name != RANDOM else f"{self.suite.name}.encoder"
        try:
            Encoder(self.suite.architecture, self.train.shape, mean=chosen.mean, std=chosen.std)
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('encoder: ')}") from None
        role = chosen.method.facts.begins_as
        other = self._method(chosen.given[role]) if role else chosen
        if (other.mean, other.std) != (chosen.mean, chosen.std):
            raise UserError(
                f"{where}: mean {chosen.mean} and std {chosen.std}, expected those of the {role} "
                f"'{chosen.given[role]}' that it begins as, {other.mean} and {other.std}"
            )

    def _labels(self, name: str) -> Stage:
        if name not in self.labelled:
            labels = self.suite.labels[name]
            part: dict[str, Any] = {"data": self.train.fingerprint, **self._source(name, labels)}
            if labels.fit:
                part |= {"fit": plain(labels.fit), "seed": self.suite.seeds.pretrain}
            source = labels.source
            parents = {"encoder": self._pretrain(source.encoder)} if isinstance(source, Own) else {}
            stage = Stage(kind="labels", part=part, parents=parents, label=f"labels {name}")
            self.files.try_out(stage, self.train)
            self.cost[stage.key] = len(self.train) if labels.fit else 0
            self.labelled[name] = stage
        return self.labelled[name]

    def _source(self, name: str, labels: Labels) -> dict[str, Any]:
        """What the key says of a source outside the suite: never a path."""
        source, where = labels.source, f"{self.suite.name}.labels.{name}"
        if isinstance(source, Own):
            return {"route": source.route} if source.route else {}
        if isinstance(source, LabelFile):
            return {"file": self.files.sha256(source.file, f"{where}.file")}
        if isinstance(source, Saved):
            return {"checkpoint": self.files.sha256(source.checkpoint, f"{where}.checkpoint")}
        weights = weights_file(source.torchvision, source.weights, where)
        network = {"name": source.torchvision, "weights": self.files.sha256(weights, where), "size": source.size}
        return {"torchvision": network}

    def _finetune(self, row: Row, scheme: str) -> Stage:
        value = self.suite.finetune[scheme]
        part = {
            "scheme": method_identity(value),
            "data": self.tuned.fingerprint,
            "threat": plain(self.suite.threat) if value.adversarial else None,
            "seed": self.suite.seeds.finetune,
        }
        if row.snapshot is not None:
            part["snapshot"] = row.snapshot
        if row.route not in (None, self._method(row.entry).method.deploy):
            part["route"] = row.route
        label = f"finetune {self._label(str(row))} {scheme}"
        stage = Stage(kind="finetune", part=part, parents={"encoder": self._pretrain(row.entry)}, label=label)
        self.cost[stage.key] = self._training_cost(value, self.tuned)
        return stage

    def _training_cost(self, method: Method, images: Images) -> int:
        return round(len(images) * method.training.epochs * method.units)


def _name(data: DataSet) -> str:
    """A data set for people: the stem of its path, or what it is."""
    path = getattr(data, "path", None)
    name = (path.stem if path else "") or type(data).__name__.lower()
    return f"{name} (held-out training images)" if getattr(data, "holdout", None) else name


def _check_shapes(suite: Suite, data: Images, target: Images) -> None:
    if data.shape == target.shape:
        return
    channels, height, width = data.shape
    hint = f"; set size = {height}" if channels == target.shape[0] and height == width else ""
    raise UserError(f"{suite.name}.target: images of shape {target.shape}, expected {data.shape} as in [data]{hint}")


def _cost(attacks: Sequence[Attack], classes: int) -> int:
    return sum(attack.cost(classes) for attack in attacks)


def _parents_first(ends: Sequence[Stage]) -> Iterator[Stage]:
    for stage in ends:
        yield from _parents_first(list(stage.parents.values()))
        yield stage
