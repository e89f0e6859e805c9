"""The only owner of the stages that a point's classifiers come from: finetuning, and what has to come before it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robustcl.bench.encoders import Encoders
from robustcl.bench.finetuning import subset
from robustcl.bench.per_method import kind, recipe_row
from robustcl.bench.profiles import changed, read_scheme
from robustcl.bench.scheme import Choice, Scheme
from robustcl.bench.schemes.labelled import Labelled
from robustcl.bench.schemes.semi import Semi
from robustcl.bench.store import Stage
from robustcl.bench.suite import Row, Suite
from robustcl.models.errors import UserError
from robustcl.models.value import Table, plain
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import identity


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A classifier of a row: the scheme that it comes from, which epoch's it is, and its name in the table.

    `changed` is what the suite has other than the profile (see `profiles.changed`).
    """

    name: str
    scheme: Scheme
    choice: Choice
    stage: Stage
    changed: Mapping[str, Any]


class Classifiers:
    """The finetuning of one point of a suite on its training images. `cost` is in passes, by key."""

    def __init__(self, suite: Suite, encoders: Encoders, images: Images) -> None:
        self.suite, self.encoders, self.images, self.cost = suite, encoders, images, encoders.cost
        self._counted: dict[tuple[float, int | None], int] = {}

    def outcomes(self, row: Row, name: str) -> Iterator[Outcome]:
        """The classifiers of a row under a scheme: one per selection, which share a stage where they share a run."""
        scheme = self.scheme(row, name)
        if scheme.held and scheme.held > len(self.images):
            where, most = f"{self.suite.name}.finetune.{name}.validation", len(self.images)
            raise UserError(f"{where}: {scheme.held}, expected at most the number of training images, {most}")
        odd = changed(scheme, self.scheme(row, name, {}))
        for run in scheme.runs:
            stage = self._stage(row, name, run)
            for choice in run.selection:
                words = {"last": "last", "best_val": "best val"}[choice]
                shown = f"{name} ({words})" if len(scheme.selection) > 1 else name
                yield Outcome(name=shown, scheme=run, choice=choice, stage=stage, changed=odd)

    def scheme(self, row: Row, name: str, fields: Table | None = None) -> Scheme:
        """The scheme of this name for a row: the profile's, or that of the row's method where it has one of its own.

        With what the suite sets, or else with these `fields`.
        """
        where, data = f"{self.suite.name}.finetune", self.suite.target or self.suite.data
        if fields is None:
            fields = self.suite.table["finetune"].get(name, {})
        made_by = self.encoders.layout(row.entry) or kind(self.suite, row.entry)
        own = recipe_row(made_by, name, data, self.images, where) if self.suite.per_method else None
        return read_scheme({"scheme": name, **fields}, f"{where}.{name}", self.suite.profile, own)

    def labels(self, scheme: Scheme) -> int:
        """How many labels are trained on."""
        if not isinstance(scheme, Semi):
            return scheme.trained(len(self.images))
        key = scheme.share, scheme.held
        if key not in self._counted:
            self._counted[key] = len(subset(self.images, *key))
        return self._counted[key]

    def _stage(self, row: Row, name: str, scheme: Scheme) -> Stage:
        part = self._part(row, scheme)
        parents = {"encoder": self.encoders.stage(row.entry)}
        if isinstance(scheme, Labelled) and scheme.begins == "SLF":
            parents["head"], part["head"] = self._probe(row, scheme)
        if isinstance(scheme, Semi):
            parents["labeller"] = self._labeller(row, name, scheme)
        return self._made(row, name, part, parents, scheme.passes(len(self.images)))

    def _probe(self, row: Row, scheme: Scheme) -> tuple[Stage, Choice]:
        """The stage of SLF whose head a scheme begins with, and which of its heads: one that saw the same images."""
        slf = self.scheme(row, "SLF")
        same = [run for run in slf.runs if run.held == scheme.held]
        choice: Choice = "best_val" if scheme.held else "last"
        probe = same[0] if same else replace(slf, selection=(choice,), validation=scheme.validation)
        return self._stage(row, "SLF", probe), probe.selection[-1]

    def _labeller(self, row: Row, name: str, scheme: Semi) -> Stage:
        part = self._part(row, scheme.labeller)
        part["subset"] = {"share": scheme.share, "validation": scheme.held}
        if "normal" in self.encoders.routes(row.entry) and self.encoders.deployed(row.entry) != "normal":
            part["route"] = "normal"
        parents = {"encoder": self.encoders.stage(row.entry)}
        return self._made(row, f"{name} labeller", part, parents, scheme.labeller.passes(self.labels(scheme)))

    def _part(self, row: Row, scheme: Scheme) -> dict[str, Any]:
        part: dict[str, Any] = {
            "scheme": identity(scheme),
            "data": self.images.fingerprint,
            "threat": plain(self.suite.threat) if scheme.adversarial or scheme.attacked else None,
            "seed": self.suite.seeds.finetune,
        }
        return part | self.encoders.network(row)

    def _made(self, row: Row, name: str, part: dict[str, Any], parents: Mapping[str, Stage], passes: int) -> Stage:
        seeds = self.encoders.seeds("pretrain", "finetune")
        label = f"finetune {self.encoders.label(str(row))} {name}{seeds}"
        stage = Stage(kind="finetune", part=part, parents=dict(parents), label=label)
        self.cost[stage.key] = passes
        return stage
