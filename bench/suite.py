"""The only owner of what a suite is: its tables as typed values, one suite per point of its grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from robustcl.bench.attacks import Definitions
from robustcl.bench.autoattack.engine import Engine, EngineName
from robustcl.bench.corruptions import Corruptions
from robustcl.bench.data import DataSet
from robustcl.bench.labels import Labels, Own
from robustcl.bench.probe import Probe
from robustcl.bench.scheme import Scheme
from robustcl.bench.seeds import Seeds
from robustcl.models.architecture import Architecture
from robustcl.models.architectures.resnet import Stem
from robustcl.models.lean import Precision
from robustcl.models.plugin import name_of
from robustcl.models.threat import Radius, Threat
from robustcl.models.value import Table, plain, value
from robustcl.pretraining.method import Method, Training
from robustcl.pretraining.methods.supervised import Supervised

RANDOM = "random"


@value
class Sweep:
    """Further radii, in the norm of the suite's threat, and the judges that try them."""

    eps: tuple[Radius, ...] = ()
    judges: tuple[str, ...] = ("pgd-20",)


@value
class Judging:
    """Who judges, on how many of the test images (a fixed random part; None is all), in which batches.

    `engine` (`fast`, `reference`; see `Member`) runs AutoAttack, searching in `precision`; `batch` is part of the
    identity of the reference, whose draws depend on it, and of nothing else. `attacks` are judges of the
    suite's own, by name: a table as `read_attack` reads it, or a list of them. `corruptions` is the folder
    of CIFAR-10-C or CIFAR-100-C, or a table of `Corruptions`: then the cells of the table have a corruption accuracy.
    """

    judges: tuple[str, ...] = ("pgd-20", "autoattack")
    images: int | None = Field(default=None, ge=1)
    engine: EngineName = "fast"
    precision: Precision = "float32"
    batch: int = Field(default=512, ge=1)
    sweep: Sweep = Sweep()
    attacks: Mapping[str, Any] = Field(default_factory=dict)
    corruptions: Corruptions | None = None

    @property
    def how(self) -> Engine:
        """Who runs AutoAttack."""
        return Engine(name=self.engine, precision=self.precision, batch=self.batch)

    @field_validator("corruptions", mode="before")
    @classmethod
    def _at(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """A method, the name of the labels it reads, and by their roles the names of the encoders that it needs.

    `mean` and `std` normalise the input of its encoder: those of [encoder], unless the entry has its own.
    """

    method: Method
    labels: str | None
    given: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@value
class Imported:
    """An encoder that was pretrained elsewhere: a file that `import_encoder` reads, and what overrides its layout.

    `route` is the one that is finetuned, None is what its project judges. `external` says that other data than the
    suite's went into it; without `probe` nothing asks whether it knows the suite's images.
    """

    checkpoint: Path
    layout: str | None = None
    route: str | None = None
    stem: Stem | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    external: bool = True
    probe: bool = True


@value
class Outside:
    """A classifier from outside, judged as it is: a `factory` (see `foreign`; this runs its code), or a model of
    RobustBench's zoo, whose files lie in the folder `models` (see `zoo`)."""

    factory: str | None = None
    robustbench: str | None = None
    models: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> "Outside":
        if (self.factory is None) == (self.robustbench is None):
            raise ValueError('expected either factory = "file.py:function" or robustbench = "<name>"')
        return self

    @property
    def target(self) -> str:
        """As `robustcl evaluate` is told."""
        return self.factory if self.factory is not None else f"robustbench:{self.robustbench}"

    @property
    def folder(self) -> str | None:
        """The folder of the zoo, absolute."""
        return None if self.models is None else str(self.models.expanduser().resolve())


@value
class Shown:
    """The encoders and schemes of the table, in its order; None is all.

    `<encoder>@<epoch>` is a snapshot, `<encoder>@<route>` a route that is finetuned in place of the deployed one.
    """

    rows: tuple[str, ...] | None = None
    schemes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: an entry below [pretrain], as it was after the epoch `snapshot` or (None) at its end.

    By way of `route`, or (None) of the one that its method deploys.
    """

    entry: str
    snapshot: int | None = None
    route: str | None = None

    def __str__(self) -> str:
        return "@".join(str(part) for part in (self.entry, self.snapshot, self.route) if part is not None)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite, or one point of its grid (`point` says which) on one pair of data sets of a transfer.

    The entries below [pretrain] are in `pretrain` where a method trains them, in `imports` where a file holds them.
    `finetune` are the schemes of the `profile`; with `per_method` a row's method may have recipes of its own.
    `data_name` and `target_name` are those of [sets], empty where the suite has one [data] and at most one [target].
    """

    name: str
    head: str
    point: str
    data: DataSet
    target: DataSet | None
    data_name: str
    target_name: str
    architecture: Architecture
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    threat: Threat
    labels: Mapping[str, Labels]
    pretrain: Mapping[str, Pretrain]
    imports: Mapping[str, Imported]
    profile: str
    per_method: bool
    finetune: Mapping[str, Scheme]
    references: Mapping[str, Outside]
    rows: Sequence[Row]
    schemes: Sequence[str]
    judge: Judging
    attacks: Definitions
    probes: Mapping[str, Probe]
    seeds: Seeds
    table: Table


def random_encoder(suite: Suite) -> Pretrain:
    """The encoder of the suite's shape that no method has touched: a row of every table."""
    method = Supervised(objective="clean", training=Training(epochs=0))
    return Pretrain(method=method, labels=None, mean=suite.mean, std=suite.std)


def resolved(suite: Suite) -> Table:
    """Every field of the suite, defaults included, as plain tables."""
    return {
        "point": suite.point,
        "data": described(suite.data),
        **({"target": described(suite.target)} if suite.target else {}),
        **({"transfer": [suite.data_name, suite.target_name or suite.data_name]} if suite.data_name else {}),
        "encoder": {"name": name_of(suite.architecture), **plain(suite.architecture)},
        "threat": plain(suite.threat),
        "labels": {
            key: {**plain(part.source), **(plain(part.fit) if part.fit else {})} for key, part in suite.labels.items()
        },
        "pretrain": {key: _trained(part) for key, part in suite.pretrain.items()}
        | {key: plain(part) for key, part in suite.imports.items()},
        "profile": suite.profile,
        "per_method": suite.per_method,
        "finetune": {key: plain(scheme) for key, scheme in suite.finetune.items()},
        **({"reference": {key: plain(part) for key, part in suite.references.items()}} if suite.references else {}),
        "table": {"rows": [str(row) for row in suite.rows], "schemes": list(suite.schemes)},
        "judge": plain(suite.judge),
        "probes": {key: plain(part) for key, part in suite.probes.items()},
        "seeds": plain(suite.seeds),
    }


def _trained(part: Pretrain) -> Table:
    rest = {"labels": part.labels, "mean": part.mean, "std": part.std}
    return {"method": name_of(part.method), **rest, **part.given, **plain(part.method)}


def described(data: DataSet) -> Table:
    """A data set as the table that `read_dataset` reads."""
    return {"name": name_of(data), **plain(data)}


def encoders_below(suite: Suite, name: str) -> Iterator[str]:
    """The encoders of the suite that this one is made from: those that it needs, and that of its labels."""
    if name in suite.imports:
        return
    part = suite.pretrain[name]
    yield from part.given.values()
    if part.labels is not None:
        source = suite.labels[part.labels].source
        if isinstance(source, Own):
            yield source.encoder
