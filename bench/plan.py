"""The only owner of the plan of a suite: its cells, and the graph of stages they need, each stage once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustcl.bench.attacks import Attack, identity, judges
from robustcl.bench.data import Splits
from robustcl.bench.spec import RANDOM, Pretrain, Suite, random_encoder
from robustcl.bench.store import Stage
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Method
from robustcl.pretraining.method import identity as method_identity
from robustcl.pretraining.pseudo_labels import check_k


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite comes to: the cells of its table, the stages in an order that respects their parents, their cost.

    `cost` counts forward-equivalents of one image; for a judge it is the most it can take.
    """

    cells: Sequence[dict[str, Any]]
    stages: Sequence[Stage]
    cost: dict[str, int]


def plan(points: Sequence[Suite], splits: Splits) -> Plan:
    """The plan of a suite's points on the images of its data set."""
    drafts = [_Draft(suite, splits) for suite in points]
    cells: dict[str, tuple[dict[str, Any], str]] = {}  # points of a grid share what it does not touch
    for draft in drafts:
        for cell in draft.cells():
            cells.setdefault(cell["stage"], (cell, draft.suite.point))
    _tell_apart(list(cells.values()))
    stages: dict[str, Stage] = {}
    cost: dict[str, int] = {}
    for draft in drafts:
        for stage in _parents_first(draft.ends):
            stages.setdefault(stage.key, stage)
        cost |= draft.cost
    return Plan(cells=[cell for cell, _ in cells.values()], stages=list(stages.values()), cost=cost)


def _tell_apart(cells: Sequence[tuple[dict[str, Any], str]]) -> None:
    """Where a grid goes over finetuning or judging, the random encoder has a row for each point too."""
    same: dict[tuple[str, str, str], list[tuple[dict[str, Any], str]]] = {}
    for cell, point in cells:
        if cell["encoder"] == RANDOM:
            same.setdefault((cell["scheme"], cell["norm"], cell["eps"]), []).append((cell, point))
    for rows in same.values():
        for cell, point in rows if len(rows) > 1 else []:
            cell["encoder"] = f"{RANDOM} ({point})"


class _Draft:
    """One point of a suite on its way to stages."""

    def __init__(self, suite: Suite, splits: Splits) -> None:
        self.suite, self.train = suite, splits.train
        n = suite.judge.images
        if n is not None and n > len(splits.test):
            raise UserError(f"{suite.name}.judge.images: {n}, expected at most the {len(splits.test)} test images")
        self.test: Images = splits.test.sample(n or len(splits.test))
        # What would fail in a worker after an hour fails here, before anything is written.
        Encoder(suite.architecture, self.train.shape, mean=suite.mean, std=suite.std)
        for labels in suite.labels.values():
            check_k(labels.fit, len(self.train))
        self.ends: list[Stage] = []
        self.cost: dict[str, int] = {}
        self.made: dict[str, Stage] = {}

    def cells(self) -> Iterator[dict[str, Any]]:
        """One cell per encoder, scheme and radius."""
        suite = self.suite
        sweep = [Threat(eps, norm=suite.threat.norm) for eps in suite.judge.sweep.eps if eps != suite.threat.eps]
        for name in [RANDOM, *suite.pretrain]:
            for scheme in suite.finetune:
                classifier = self._finetune(name, scheme)
                yield self._cell(name, scheme, classifier, suite.threat, suite.judge.judges)
                for threat in sweep:
                    yield self._cell(name, scheme, classifier, threat, suite.judge.sweep.judges)

    def _cell(self, name: str, scheme: str, classifier: Stage, threat: Threat, names: Sequence[str]) -> dict[str, Any]:
        suite = self.suite
        bench = judges(names, self.test.classes, suite.judge.batch)
        part = {
            "judges": {judge: [identity(attack) for attack in attacks] for judge, attacks in bench.items()},
            "threat": plain(threat),
            "data": self.test.fingerprint,
            "images": len(self.test),
            "seed": suite.seeds.judge,
        }
        label = f"evaluate {self._label(name)} {scheme} at {threat.eps}"
        stage = Stage(kind="evaluate", part=part, parents={"classifier": classifier}, label=label)
        self.ends.append(stage)
        self.cost[stage.key] = len(self.test) * (1 + sum(_cost(a, self.test.classes) for a in bench.values()))
        method = name if name == RANDOM else name_of(suite.pretrain[name].method)
        return {
            "encoder": self._label(name),
            "method": method,
            "scheme": scheme,
            "data": type(suite.data).__name__.lower(),
            "classes": self.test.classes,
            "norm": threat.norm,
            "eps": str(threat.eps),
            "headline": threat.eps == suite.threat.eps,
            "judges": {judge: [attack.name for attack in attacks] for judge, attacks in bench.items()},
            "seeds": plain(suite.seeds),
            "protocol": self._protocol(name, scheme),
            "stage": stage.key,
        }

    def _protocol(self, name: str, scheme: str) -> str:
        epochs = self.suite.finetune[scheme].training.epochs
        return f"route {self._method(name).method.deploy}, {scheme} {epochs} epochs, last epoch"

    def _label(self, name: str) -> str:
        return f"{name} ({self.suite.point})" if self.suite.point and name != RANDOM else name

    def _method(self, name: str) -> Pretrain:
        return random_encoder(self.suite) if name == RANDOM else self.suite.pretrain[name]

    def _pretrain(self, name: str) -> Stage:
        if name not in self.made:
            suite, chosen = self.suite, self._method(name)
            method = chosen.method
            architecture = {"name": name_of(suite.architecture), **plain(suite.architecture)}
            part = {
                "method": method_identity(method),
                "encoder": {"architecture": architecture, "mean": suite.mean, "std": suite.std},
                "data": self.train.fingerprint,
                "threat": plain(suite.threat) if method.adversarial else None,
                "seed": suite.seeds.pretrain,
            }
            parents = {"labels": self._labels(chosen.labels)} if chosen.labels else {}
            stage = Stage(kind="pretrain", part=part, parents=parents, label=f"pretrain {self._label(name)}")
            self.cost[stage.key] = self._training_cost(method)
            self.made[name] = stage
        return self.made[name]

    def _labels(self, name: str) -> Stage:
        labels = self.suite.labels[name]
        part = {"fit": plain(labels.fit), "data": self.train.fingerprint, "seed": self.suite.seeds.pretrain}
        parents = {"encoder": self._pretrain(labels.encoder)}
        stage = Stage(kind="labels", part=part, parents=parents, label=f"labels {name}")
        self.cost[stage.key] = len(self.train)
        return stage

    def _finetune(self, name: str, scheme: str) -> Stage:
        value = self.suite.finetune[scheme]
        part = {
            "scheme": method_identity(value),
            "data": self.train.fingerprint,
            "threat": plain(self.suite.threat) if value.adversarial else None,
            "seed": self.suite.seeds.finetune,
        }
        label = f"finetune {self._label(name)} {scheme}"
        stage = Stage(kind="finetune", part=part, parents={"encoder": self._pretrain(name)}, label=label)
        self.cost[stage.key] = self._training_cost(value)
        return stage

    def _training_cost(self, method: Method) -> int:
        return round(len(self.train) * method.training.epochs * method.units)


def _cost(attacks: Sequence[Attack], classes: int) -> int:
    return sum(attack.cost(classes) for attack in attacks)


def _parents_first(ends: Sequence[Stage]) -> Iterator[Stage]:
    for stage in ends:
        yield from _parents_first(list(stage.parents.values()))
        yield stage
