"""The only owner of the stages that a point's encoders come from: pretraining, and the labels that it reads."""

from typing import Any

from robustcl.bench.files import Files
from robustcl.bench.place import outside
from robustcl.bench.store import Stage
from robustcl.bench.suite import (
    RANDOM,
    LabelFile,
    Labels,
    Own,
    Pretrain,
    Saved,
    Suite,
    encoders_below,
    random_encoder,
)
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.value import plain
from robustcl.models.vision import weights_file
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Method
from robustcl.pretraining.method import identity as method_identity
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

    def entry(self, name: str) -> Pretrain:
        """The entry of this name below [pretrain], or that of the random encoder."""
        return random_encoder(self.suite) if name == RANDOM else self.suite.pretrain[name]

    def label(self, name: str) -> str:
        """A row's name, with the point of the grid behind it."""
        return f"{name} ({self.suite.point})" if self.suite.point and name != RANDOM else name

    def external(self, name: str) -> bool:
        """Whether data from outside the suite went into the encoder, or into one that it is made from."""
        labels = self._read(name)
        if labels and self.suite.labels[labels].external:
            return True
        return name != RANDOM and any(self.external(other) for other in encoders_below(self.suite, name))

    def stage(self, name: str) -> Stage:
        """The stage that makes this encoder. Errors: `UserError` where its inputs do not fit."""
        if name not in self.made:
            suite, chosen = self.suite, self.entry(name)
            method = chosen.method
            self._check_inputs(name, chosen)
            architecture = {"name": name_of(suite.architecture), **plain(suite.architecture)}
            part = {
                "method": method_identity(method),
                "encoder": {"architecture": architecture, "mean": chosen.mean, "std": chosen.std},
                "data": self.images.fingerprint,
                "threat": plain(suite.threat) if method.adversarial else None,
                "seed": suite.seeds.pretrain,
            }
            parents = {role: self.stage(other) for role, other in chosen.given.items()}
            labels = self._read(name)
            if labels:
                parents["labels"] = self._labels(labels)
            stage = Stage(kind="pretrain", part=part, parents=parents, label=f"pretrain {self.label(name)}")
            self.cost[stage.key] = training_cost(method, self.images)
            self.made[name] = stage
        return self.made[name]

    def _read(self, name: str) -> str | None:
        """The labels that a method reads: none where one of its fields, such as a weight of 0, leaves them out."""
        chosen = self.entry(name)
        return chosen.labels if chosen.method.supervision == "pseudo" else None

    def _check_inputs(self, name: str, chosen: Pretrain) -> None:
        """What would fail in a worker after an hour fails here, before anything is written."""
        where = f"{self.suite.name}.pretrain.{name}" if name != RANDOM else f"{self.suite.name}.encoder"
        try:
            Encoder(self.suite.architecture, self.images.shape, mean=chosen.mean, std=chosen.std)
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('encoder: ')}") from None
        role = chosen.method.facts.begins_as
        other = self.entry(chosen.given[role]) if role else chosen
        if (other.mean, other.std) != (chosen.mean, chosen.std):
            raise UserError(
                f"{where}: mean {chosen.mean} and std {chosen.std}, expected those of the {role} "
                f"'{chosen.given[role]}' that it begins as, {other.mean} and {other.std}"
            )

    def _labels(self, name: str) -> Stage:
        if name not in self.labelled:
            labels = self.suite.labels[name]
            part: dict[str, Any] = {"data": self.images.fingerprint, **self._source(name, labels)}
            if labels.fit:
                part |= {"fit": plain(labels.fit), "seed": self.suite.seeds.pretrain}
            source = labels.source
            parents = {"encoder": self.stage(source.encoder)} if isinstance(source, Own) else {}
            stage = Stage(kind="labels", part=part, parents=parents, label=f"labels {name}")
            self._try_out(stage)
            self.cost[stage.key] = len(self.images) if labels.fit else 0
            self.labelled[name] = stage
        return self.labelled[name]

    def _try_out(self, stage: Stage) -> None:
        """Read what the stage will read: what would fail in a worker after an hour fails here."""
        if not self.files.first(stage.key):
            return
        if "file" in stage.part:
            load_labels(self.files.known[stage.part["file"]], len(self.images))
        elif not stage.parents:
            outside(stage, self.files.known, self.images.shape)

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


def training_cost(method: Method, images: Images) -> int:
    """The passes of a training."""
    return round(len(images) * method.training.epochs * method.units)
