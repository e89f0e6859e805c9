"""The only owner of the stages that a point's encoders come from: pretraining, and the labels that it reads."""

from typing import Any

from robustcl.bench.files import Files
from robustcl.bench.imports import import_stage
from robustcl.bench.labels import LabelFile, Labels, Own, Saved
from robustcl.bench.place import outside
from robustcl.bench.seeds import mark
from robustcl.bench.store import Stage
from robustcl.bench.suite import RANDOM, Pretrain, Row, Suite, encoders_below, random_encoder
from robustcl.models.architecture import read_architecture
from robustcl.models.convert import Report
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError, unknown
from robustcl.models.plugin import name_of
from robustcl.models.value import plain
from robustcl.models.vision import weights_file
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Method
from robustcl.pretraining.method import identity as method_identity
from robustcl.pretraining.probe import passes
from robustcl.pretraining.pseudo_labels import check_k, load_labels


class Encoders:
    """The encoders of one point of a suite, each a stage that is planned once. `cost` is in passes, by key."""

    def __init__(self, suite: Suite, images: Images, files: Files) -> None:
        self.suite, self.images, self.files = suite, images, files
        self.cost: dict[str, int] = {}
        self.made: dict[str, Stage] = {}
        self.labelled: dict[str, Stage] = {}
        # What would fail in a worker after an hour fails here, before anything is written.
        for labels in suite.labels.values():
            if labels.fit:
                check_k(labels.fit, len(images))

    def method(self, name: str) -> str:
        """What made the encoder, in a word."""
        return name if name == RANDOM else "import" if name in self.suite.imports else name_of(self._entry(name).method)

    def deployed(self, name: str, route: str | None = None) -> str:
        """The route that is finetuned: this one, or the one that the encoder's project or method judges.

        Errors: `UserError` where an imported encoder has no such route.
        """
        if name not in self.suite.imports:
            return route or self._entry(name).method.deploy
        report = self._import(name)[1]
        if route is not None and route not in report.routes:
            raise unknown(f"{self.suite.name}.pretrain.{name}", "route", route, report.routes)
        return route or report.route

    def routes(self, name: str) -> tuple[str, ...]:
        """The routes that the encoder has."""
        return self._import(name)[1].routes if name in self.suite.imports else self._entry(name).method.routes

    def architecture(self, name: str) -> dict[str, Any]:
        """The architecture of the encoder as a table: that of [encoder], or of the file that it is imported from."""
        if name in self.suite.imports:
            return self._import(name)[1].network
        return {"name": name_of(self.suite.architecture), **plain(self.suite.architecture)}

    def layout(self, name: str) -> str | None:
        """The layout of the file that the encoder is imported from, if it is."""
        return self._import(name)[1].layout if name in self.suite.imports else None

    def constants(self, name: str) -> dict[str, tuple[float, ...] | None] | None:
        """The `mean` and `std` that normalise the encoder's input; None where it sees raw images."""
        held = self._import(name)[1] if name in self.suite.imports else self._entry(name)
        return {"mean": held.mean, "std": held.std} if held.mean or held.std else None

    def network(self, row: Row) -> dict[str, Any]:
        """Which of the networks in its encoder's stage a row is: `snapshot` and `route`, where it is another one."""
        part: dict[str, Any] = {} if row.snapshot is None else {"snapshot": row.snapshot}
        return part if row.route in (None, self.deployed(row.entry)) else {**part, "route": row.route}

    def features(self, name: str) -> int:
        """How many features the encoder has."""
        architecture = read_architecture(self.architecture(name), f"{self.suite.name}.encoder")
        return self.files.once(f"features {architecture}", lambda: Encoder(architecture, self.images.shape).width)

    def seeds(self, *roles: str) -> str:
        """What a stage's label says of its seeds, where the suite has several."""
        return mark(self.suite.seeds, self.suite.table.get("seeds", {}), *roles)

    def label(self, name: str) -> str:
        """A row's name, with the point of the grid behind it."""
        return f"{name} ({self.suite.point})" if self.suite.point and name != RANDOM else name

    def external(self, name: str) -> bool:
        """Whether data from outside the suite went into the encoder, or into one that it is made from."""
        if name in self.suite.imports:
            return self.suite.imports[name].external
        labels = self._read(name)
        if labels and self.suite.labels[labels].external:
            return True
        return name != RANDOM and any(self.external(other) for other in encoders_below(self.suite, name))

    def stage(self, name: str) -> Stage:
        """The stage that makes this encoder. Errors: `UserError` where its inputs do not fit."""
        if name not in self.made:
            self.made[name] = self._import(name)[0] if name in self.suite.imports else self._pretrain(name)
        return self.made[name]

    def _entry(self, name: str) -> Pretrain:
        return random_encoder(self.suite) if name == RANDOM else self.suite.pretrain[name]

    def _import(self, name: str) -> tuple[Stage, Report]:
        chosen, where = self.suite.imports[name], f"{self.suite.name}.pretrain.{name}"
        found = import_stage(chosen, self.images, self.files, where, f"import {self.label(name)}")
        self.cost[found[0].key] = passes(self.images) if chosen.probe else 0
        return found

    def _pretrain(self, name: str) -> Stage:
        suite, chosen = self.suite, self._entry(name)
        method = chosen.method
        self._check_inputs(name, chosen)
        part = {
            "method": method_identity(method),
            "encoder": {"architecture": self.architecture(name), "mean": chosen.mean, "std": chosen.std},
            "data": self.images.fingerprint,
            "threat": plain(suite.threat) if method.adversarial else None,
            "seed": suite.seeds.pretrain,
        }
        parents = {role: self.stage(other) for role, other in chosen.given.items()}
        labels = self._read(name)
        if labels:
            parents["labels"] = self._labels(labels)
        stage = Stage(
            kind="pretrain", part=part, parents=parents, label=f"pretrain {self.label(name)}{self.seeds('pretrain')}"
        )
        self.cost[stage.key] = training_cost(method, self.images)
        return stage

    def _read(self, name: str) -> str | None:
        """The labels that a method reads: none where one of its fields, such as a weight of 0, leaves them out."""
        chosen = self._entry(name)
        return chosen.labels if chosen.method.supervision == "pseudo" else None

    def _check_inputs(self, name: str, chosen: Pretrain) -> None:
        """What would fail in a worker after an hour fails here, before anything is written."""
        where = f"{self.suite.name}.pretrain.{name}" if name != RANDOM else f"{self.suite.name}.encoder"
        built = f"encoder {self.suite.architecture} {self.images.shape} {chosen.mean} {chosen.std}"
        try:
            self.files.once(built, lambda: self._build(chosen))
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('encoder: ')}") from None
        if self.images.classes == 1 and name != RANDOM and chosen.method.supervision == "labels":
            raise UserError(f"{where}: the method reads labels, expected [data] with labels; set pretrain = 'train'")
        role = chosen.method.facts.begins_as
        if not role:
            return
        other, own = chosen.given[role], (chosen.mean, chosen.std)
        constants = self._constants(other, f"{where}: begins as the {role} '{other}'")
        if constants != own:
            raise UserError(
                f"{where}: mean {own[0]} and std {own[1]}, expected those of the {role} "
                f"'{other}' that it begins as, {constants[0]} and {constants[1]}"
            )

    def _build(self, chosen: Pretrain) -> None:
        Encoder(self.suite.architecture, self.images.shape, mean=chosen.mean, std=chosen.std)

    def _constants(self, name: str, where: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """The mean and std of an encoder that another one of the suite's architecture begins as."""
        if name not in self.suite.imports:
            return self._entry(name).mean, self._entry(name).std
        report, wanted = self._import(name)[1], {"name": name_of(self.suite.architecture)}
        wanted |= plain(self.suite.architecture)
        if report.network != wanted:
            raise UserError(f"{where}, {report.network}, expected that of [encoder], {wanted}")
        return report.mean or None, report.std or None

    def _labels(self, name: str) -> Stage:
        if name not in self.labelled:
            labels = self.suite.labels[name]
            part: dict[str, Any] = {"data": self.images.fingerprint, **self._source(name, labels)}
            if labels.fit:
                part |= {"fit": plain(labels.fit), "version": labels.fit.version, "seed": self.suite.seeds.pretrain}
            source = labels.source
            parents = {"encoder": self.stage(source.encoder)} if isinstance(source, Own) else {}
            stage = Stage(kind="labels", part=part, parents=parents, label=f"labels {name}{self.seeds('pretrain')}")
            self.files.once(stage.key, lambda: self._try_out(stage))
            self.cost[stage.key] = len(self.images) if labels.fit else 0
            self.labelled[name] = stage
        return self.labelled[name]

    def _try_out(self, stage: Stage) -> None:
        """Read what the stage will read: what would fail in a worker after an hour fails here."""
        if "file" in stage.part:
            load_labels(self.files.known[stage.part["file"]], len(self.images))
        elif not stage.parents:
            outside(stage, self.files.known, self.images.shape)

    def _source(self, name: str, labels: Labels) -> dict[str, Any]:
        """What the key says of a source outside the suite: never a path."""
        source, where = labels.source, f"{self.suite.name}.labels.{name}"
        if isinstance(source, Own):
            return {"route": self.deployed(source.encoder, source.route)} if source.route else {}
        if isinstance(source, LabelFile):
            return {"file": self.files.sha256(source.file, f"{where}.file")}
        if isinstance(source, Saved):
            return {"checkpoint": self.files.sha256(source.checkpoint, f"{where}.checkpoint")}
        weights = weights_file(source.torchvision, source.weights, where)
        network = {"name": source.torchvision, "weights": self.files.sha256(weights, where), "size": source.size}
        return {"torchvision": network}


def training_cost(method: Method, images: Images) -> int:
    """The passes of a training."""
    return round(len(images) * method.training.epochs * method.units)
