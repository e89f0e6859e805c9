"""The only owner of how one point of a suite becomes cells, and stages of finetuning and judging."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from robustcl.bench import reliability
from robustcl.bench.attacks import identity
from robustcl.bench.classifiers import Classifiers, Outcome
from robustcl.bench.corruptions import JUDGE, Corruptions, check
from robustcl.bench.data import DataSet
from robustcl.bench.encoders import Encoders
from robustcl.bench.files import Files
from robustcl.bench.fingerprint import fingerprints
from robustcl.bench.jury import jury, sources
from robustcl.bench.library import Library
from robustcl.bench.official import Official
from robustcl.bench.pace import most
from robustcl.bench.probing import Entry, Sight
from robustcl.bench.protocol import terms, words
from robustcl.bench.references import references
from robustcl.bench.rows import Cell
from robustcl.bench.store import Stage
from robustcl.bench.suite import RANDOM, Row, Suite
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images


class Draft:
    """One point of a suite on its way to stages: `ends` are those that nothing builds on, `cost` is in passes."""

    def __init__(self, suite: Suite, library: Library, files: Files) -> None:
        self.suite, target = suite, suite.target or suite.data
        source, self.tuned = library.pretraining(suite.data), library.part(target, "train")
        _check_shapes(suite, source, self.tuned)
        n, whole = suite.judge.images, library.part(target, "test")
        if n is not None and n > len(whole):
            raise UserError(f"{suite.name}.judge.images: {n}, expected at most the {len(whole)} test images")
        self.test: Images = library.part(target, "test", n or len(whole))
        self.files, self.encoders = files, Encoders(suite, source, files)
        self.classifiers = Classifiers(suite, self.encoders, self.tuned)
        if suite.judge.corruptions:
            _check_corruptions(suite.judge.corruptions, target, self.test, suite.name)
        self.ends: list[Stage] = []
        self.given: dict[str, Cell] = {}
        self.cost = self.encoders.cost

    def cells(self) -> Iterator[Cell]:
        """One cell per encoder, scheme and radius, those of references first."""
        suite = self.suite
        radii = sorted(eps for eps in suite.judge.sweep.eps if eps != suite.threat.eps)
        sweep = [Threat(eps, norm=suite.threat.norm) for eps in radii]
        for cell, stage, passes in references(suite, self.test, data_name(suite), self.files.given):
            self.ends.append(stage)
            self.cost[stage.key] = passes
            self.given[cell["encoder"]] = cell
            yield cell
        for row in [Row(entry=RANDOM), *suite.rows]:
            for scheme in suite.schemes:
                for outcome in self.classifiers.outcomes(row, scheme):
                    cell = self._cell(row, scheme, outcome, suite.threat, suite.judge.judges)
                    yield self._corrupt(outcome, cell)
                    below: dict[str, Stage] = {}
                    for threat in sweep:  # each takes over what the one below it broke
                        yield self._cell(row, scheme, outcome, threat, suite.judge.sweep.judges, below)
                        below = {"smaller": self.ends[-1]}

    def probes(self) -> Iterator[Entry]:
        """What `suite.json` says of every probe, once the cells are there."""
        name = data_name(self.suite)
        sight = Sight(classifiers=self.classifiers, images=self.test, data=name, given=self.given)
        for probe in sight.planned():
            self.ends.append(probe.stage)
            self.cost[probe.stage.key] = probe.passes
            yield probe.entry

    def _cell(
        self,
        row: Row,
        scheme: str,
        outcome: Outcome,
        threat: Threat,
        names: Sequence[str],
        below: Mapping[str, Stage] = MappingProxyType({}),
    ) -> Cell:
        suite = self.suite
        bench = jury(suite, names, self.test.classes)
        parents = {"classifier": outcome.stage, **sources(bench, self.classifiers, scheme, outcome), **below}
        part = {
            "judges": {judge: [identity(attack) for attack in attacks] for judge, attacks in bench.items()},
            "threat": plain(threat),
            "data": self.test.fingerprint,
            "images": len(self.test),
            "seed": suite.seeds.judge,
            **({} if outcome.choice == "last" else {"selection": outcome.choice}),
        }
        name = self.encoders.label(str(row))
        seeds = self.encoders.seeds("pretrain", "finetune", "judge")
        label = f"evaluate {name} {outcome.name} at {threat.eps}{seeds}"
        stage = Stage(kind="evaluate", part=part, parents=parents, label=label)
        self.ends.append(stage)
        passes = most(bench, self.test.classes, len(self.test), threat.norm)
        self.cost[stage.key] = passes + reliability.cost(len(self.test))
        told = terms(row, outcome, self.classifiers, self.test)
        return {
            "encoder": name,
            "method": self.encoders.method(row.entry),
            "architecture": self.encoders.architecture(row.entry),
            "scheme": outcome.name,
            "data": data_name(suite),
            "classes": self.test.classes,
            "norm": threat.norm,
            "eps": str(threat.eps),
            "headline": threat.eps == suite.threat.eps,
            "judges": {judge: [attack.name for attack in attacks] for judge, attacks in bench.items()},
            "fingerprints": fingerprints(bench, threat, suite.seeds.judge, self.test.classes),
            "seeds": plain(suite.seeds),
            "protocol": words(scheme, told),
            "terms": told,
            "stage": stage.key,
        }

    def _corrupt(self, outcome: Outcome, cell: Cell) -> Cell:
        """The cell, with a further judge and its stage where the suite asks for the accuracy under corruptions."""
        given = self.suite.judge.corruptions
        if not given:
            return cell
        where = f"{self.suite.name}.judge.corruptions"
        part = {
            "corruptions": list(given.names),
            "severities": list(given.severities),
            "files": {name: self.files.sha256(file, where) for name, file in given.files.items()},
            "data": self.test.fingerprint,
            "images": len(self.test),
            **({} if outcome.choice == "last" else {"selection": outcome.choice}),
        }
        label = f"corrupt {cell['encoder']} {cell['scheme']}{self.encoders.seeds('pretrain', 'finetune')}"
        stage = Stage(kind="corrupt", part=part, parents={"classifier": outcome.stage}, label=label)
        self.ends.append(stage)
        self.cost[stage.key] = len(self.test) * len(given.attacks)
        return cell | {"judges": cell["judges"] | {JUDGE: given.attacks}, "corrupt": stage.key}


def data_name(suite: Suite) -> str:
    """The data of a suite for people: `c10`, or `c10 -> stl10` where it is judged on other data than pretrained on."""
    names = [suite.data_name or set_name(suite.data)]
    if suite.target:
        names.append(suite.target_name or set_name(suite.target))
    return " -> ".join(names)


def set_name(data: DataSet) -> str:
    """A data set for people: what it is, and of somebody's own files the stem of their path."""
    path = None if isinstance(data, Official) else getattr(data, "path", None)
    name = (path.stem if path else "") or name_of(data)
    return f"{name} (held-out training images)" if data.holdout else name


def _check_shapes(suite: Suite, data: Images, target: Images) -> None:
    if data.shape == target.shape:
        return
    channels, height, width = data.shape
    hint = f"; set size = {height}" if channels == target.shape[0] and height == width else ""
    where, source = (
        (f"sets.{suite.target_name}", f"[sets.{suite.data_name}]") if suite.target_name else ("target", "[data]")
    )
    raise UserError(f"{suite.name}.{where}: images of shape {target.shape}, expected {data.shape} as in {source}{hint}")


def _check_corruptions(given: Corruptions, data: DataSet, test: Images, name: str) -> None:
    """What would fail in a worker after an hour fails here, before anything is written."""
    if data.holdout:
        raise UserError(f"{name}.judge.corruptions: made of test images, expected them judged; remove holdout")
    check(given.files, test)
