"""The only owner of how one point of a suite becomes cells, and stages of finetuning and judging."""

from collections.abc import Iterator, Sequence

from robustcl.bench import reliability
from robustcl.bench.attacks import Attack, identity, judges
from robustcl.bench.data import DataSet
from robustcl.bench.encoders import Encoders, training_cost
from robustcl.bench.files import Files
from robustcl.bench.fingerprint import fingerprints
from robustcl.bench.library import Library
from robustcl.bench.rows import Cell
from robustcl.bench.store import Stage
from robustcl.bench.suite import RANDOM, Row, Suite
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import identity as method_identity


class Draft:
    """One point of a suite on its way to stages: `ends` are those that nothing builds on, `cost` is in passes."""

    def __init__(self, suite: Suite, library: Library, files: Files) -> None:
        self.suite, target = suite, suite.target or suite.data
        source, self.tuned = library.part(suite.data, "train"), library.part(target, "train")
        _check_shapes(suite, source, self.tuned)
        n, whole = suite.judge.images, library.part(target, "test")
        if n is not None and n > len(whole):
            raise UserError(f"{suite.name}.judge.images: {n}, expected at most the {len(whole)} test images")
        self.test: Images = library.part(target, "test", n or len(whole))
        self.encoders = Encoders(suite, source, files)
        self.ends: list[Stage] = []
        self.cost = self.encoders.cost

    def cells(self) -> Iterator[Cell]:
        """One cell per encoder, scheme and radius."""
        suite = self.suite
        sweep = [Threat(eps, norm=suite.threat.norm) for eps in suite.judge.sweep.eps if eps != suite.threat.eps]
        for row in [Row(entry=RANDOM), *suite.rows]:
            for scheme in suite.schemes:
                classifier = self._finetune(row, scheme)
                yield self._cell(row, scheme, classifier, suite.threat, suite.judge.judges)
                for threat in sweep:
                    yield self._cell(row, scheme, classifier, threat, suite.judge.sweep.judges)

    def _cell(self, row: Row, scheme: str, classifier: Stage, threat: Threat, names: Sequence[str]) -> Cell:
        suite = self.suite
        bench = judges(names, self.test.classes, suite.judge.batch)
        part = {
            "judges": {judge: [identity(attack) for attack in attacks] for judge, attacks in bench.items()},
            "threat": plain(threat),
            "data": self.test.fingerprint,
            "images": len(self.test),
            "seed": suite.seeds.judge,
        }
        name = self.encoders.label(str(row))
        label = f"evaluate {name} {scheme} at {threat.eps}"
        stage = Stage(kind="evaluate", part=part, parents={"classifier": classifier}, label=label)
        self.ends.append(stage)
        passes = len(self.test) * (1 + sum(_cost(a, self.test.classes) for a in bench.values()))
        self.cost[stage.key] = passes + reliability.cost(len(self.test))
        method = RANDOM if row.entry == RANDOM else name_of(suite.pretrain[row.entry].method)
        return {
            "encoder": name,
            "method": method,
            "scheme": scheme,
            "data": data_name(suite),
            "classes": self.test.classes,
            "norm": threat.norm,
            "eps": str(threat.eps),
            "headline": threat.eps == suite.threat.eps,
            "judges": {judge: [attack.name for attack in attacks] for judge, attacks in bench.items()},
            "fingerprints": fingerprints(bench, threat, suite.seeds.judge),
            "seeds": plain(suite.seeds),
            "protocol": self._protocol(row, scheme),
            "stage": stage.key,
        }

    def _protocol(self, row: Row, scheme: str) -> str:
        entry, epochs = self.encoders.entry(row.entry), self.suite.finetune[scheme].training.epochs
        parts = [
            f"route {row.route or entry.method.deploy}",
            *([f"pretraining's epoch {row.snapshot}"] if row.snapshot else []),
            f"{scheme} {epochs} epochs, last epoch",
            *(["input normalised"] if entry.mean or entry.std else []),
            *(["external data"] if self.encoders.external(row.entry) else []),
        ]
        return ", ".join(parts)

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
        if row.route not in (None, self.encoders.entry(row.entry).method.deploy):
            part["route"] = row.route
        label = f"finetune {self.encoders.label(str(row))} {scheme}"
        stage = Stage(kind="finetune", part=part, parents={"encoder": self.encoders.stage(row.entry)}, label=label)
        self.cost[stage.key] = training_cost(value, self.tuned)
        return stage


def data_name(suite: Suite) -> str:
    """The data of a suite for people: `c10`, or `c10 -> stl10` where it is judged on other data than pretrained on."""
    names = [suite.data_name or _name(suite.data)]
    if suite.target:
        names.append(suite.target_name or _name(suite.target))
    return " -> ".join(names)


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
    where, source = (
        (f"sets.{suite.target_name}", f"[sets.{suite.data_name}]") if suite.target_name else ("target", "[data]")
    )
    raise UserError(f"{suite.name}.{where}: images of shape {target.shape}, expected {data.shape} as in {source}{hint}")


def _cost(attacks: Sequence[Attack], classes: int) -> int:
    return sum(attack.cost(classes) for attack in attacks)
