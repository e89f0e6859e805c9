"""The only owner of `robustcl evaluate`: what was asked for as cases, what is told before, and running them."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustcl.bench import judged, shards
from robustcl.bench.attacks import Engine, judges
from robustcl.bench.budget import read_budget
from robustcl.bench.case import Case
from robustcl.bench.data import datasets, read_dataset
from robustcl.bench.draft import set_name
from robustcl.bench.given import give
from robustcl.bench.judged import admit
from robustcl.bench.library import Library
from robustcl.bench.pace import duration, measure
from robustcl.bench.place import find_device
from robustcl.bench.store import Store
from robustcl.bench.suite import Imported
from robustcl.bench.tables import override
from robustcl.bench.together import alone
from robustcl.console import Display
from robustcl.models.convert import import_encoder
from robustcl.models.errors import UserError, nearest
from robustcl.models.threat import Threat
from robustcl.models.value import Table, read
from robustcl.outline import planned, told


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line was given."""

    target: str
    data: str
    eps: Sequence[str]
    norm: str = "linf"
    attacks: Sequence[str] = ("pgd-20,autoattack",)
    images: int | None = None
    seed: int = 0
    batch: int = 256
    engine: str = "fast"
    precision: str = "float32"
    workers: int = 1
    device: str = "cpu"
    runs: Path | None = None
    name: str | None = None
    budget: str | None = None
    models: Path | None = None
    save: Path | None = None
    schemes: Sequence[str] = ()
    layout: str | None = None
    route: str | None = None
    profile: str | None = None
    overrides: Sequence[str] = field(default_factory=list)

    @property
    def how(self) -> Engine:
        """Who runs AutoAttack."""
        return read(Engine, {"name": self.engine, "precision": self.precision, "batch": self.batch}, "--engine")

    @property
    def judges(self) -> list[str]:
        """The names of the judges."""
        return [name.strip() for text in self.attacks for name in text.split(",")]


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """One given classifier under one or several radii, and the run folder that it is judged into."""

    cases: Sequence[Case]
    store: Store

    @property
    def cost(self) -> dict[str, int]:
        """The most passes of every stage, by key."""
        return {key: passes for case in self.cases for key, passes in case.cost.items()}

    @property
    def missing(self) -> list[str]:
        """The keys of the stages that the store lacks."""
        return [stage.key for case in self.cases for stage in case.stages if not self.store.has(stage)]


def encoder_suite(asked: Asked) -> tuple[str, Table]:
    """The name and the tables of the suite that finetunes the encoder of a file under `schemes` and judges it.

    `layout` and `route` say what the file does not, and `--set pretrain.<row>.stem` (`mean`, `std`) what the layout
    has otherwise. Errors: `UserError` for a file that is no encoder's.
    """
    if asked.budget or asked.models or asked.save:
        more = "neither --budget nor --models nor --save-adversarial"
        raise UserError(f"--scheme: finetunes the encoder of a file first, expected {more}")
    data = data_table(asked.data, [one for one in asked.overrides if one.startswith("data.")])
    test = Library().part(read_dataset(data, "--data"), "test")
    row = asked.name or Path(asked.target).stem
    given = {"checkpoint": asked.target, "layout": asked.layout, "route": asked.route}
    tables: Table = {"pretrain": {row: {key: text for key, text in given.items() if text}}}
    for one in asked.overrides:
        if one.startswith("pretrain."):
            override(tables, one)
    entry = read(Imported, tables["pretrain"][row], f"--set pretrain.{row}")
    kept = {key: getattr(entry, key) for key in ("layout", "route", "stem", "mean", "std")}
    said = import_encoder(entry.checkpoint, shape=test.shape, **kept)[1]
    return folder_name("evaluate", row), {
        "data": data,
        "encoder": dict(said.network),
        "threat": {"norm": asked.norm, "eps": asked.eps[0]},
        **tables,
        "finetune": {**({"profile": asked.profile} if asked.profile else {}), **{name: {} for name in asked.schemes}},
        "judge": {
            "judges": asked.judges,
            "engine": asked.engine,
            "precision": asked.precision,
            "batch": asked.batch,
            **({"images": asked.images} if asked.images else {}),
            "sweep": {"eps": list(asked.eps[1:]), "judges": asked.judges},
        },
        "seeds": {"judge": asked.seed},
    }


def hear(asked: Asked) -> Hearing:
    """What was asked for, read and tried; nothing is written. Errors: `UserError` for everything that is wrong."""
    alone()
    for option in ("profile", "layout", "route"):
        if getattr(asked, option):
            raise UserError(f"--{option}: of an encoder to finetune, expected --scheme with it, such as --scheme SLF")
    threats = [_threat(asked.norm, eps) for eps in asked.eps]
    data, library = read_dataset(data_table(asked.data, asked.overrides), "--data"), Library()
    n, whole = asked.images, library.part(data, "test")
    if n is not None and n > len(whole):
        raise UserError(f"--images {n}: expected at most the {len(whole)} test images")
    images = library.part(data, "test", n).to(find_device(asked.device))
    bench = judges(asked.judges, images.classes, asked.how)
    given = give(asked.target, images, norm=asked.norm, models=asked.models)
    row, radii = asked.name or given.name, sorted(set(threats), key=lambda threat: threat.eps)
    if asked.save and (len(radii) > 1 or asked.budget or not asked.save.absolute().parent.is_dir()):
        raise UserError(f"--save-adversarial {asked.save}: expected a file in a folder, one radius and no --budget")
    shards.check(asked.workers, asked.device, asked.budget)
    budget = read_budget(asked.budget) / len(radii) if asked.budget else None  # every radius has its share
    cases: list[Case] = []
    for threat in radii:
        case = Case(
            given=given,
            row=row,
            images=images,
            data=set_name(data),
            threat=threat,
            judges=bench,
            seed=asked.seed,
            batch=asked.batch,
            budget=budget,
            smaller=cases[-1] if cases and not budget else None,  # blocks are judged by themselves
            save=asked.save,
            workers=asked.workers,
        )
        cases.append(case)
    store = Store(asked.runs or Path("runs") / folder_name("evaluate", row))
    for case in cases:
        admit(case, store)
    return Hearing(cases=cases, store=store)


def judge(hearing: Hearing) -> str:
    """Judge what the store lacks; whatever stops it, finished batches stay. Where time ran out, a line that says so."""
    with Display(hearing.cost, hearing.missing, hearing.store) as display:
        for case in hearing.cases:
            judged.make(case, hearing.store, display)
    left = len(hearing.missing)
    return f"time is up with {left} blocks to go; the same command goes on with them" if left else ""


def outline(hearing: Hearing) -> str:
    """What would be judged, with an estimate."""
    stages = [stage for case in hearing.cases for stage in case.stages]
    return planned(head(hearing), stages, hearing.cost, hearing.store, estimate(hearing))


def head(hearing: Hearing) -> str:
    """What is judged, in a line."""
    case = hearing.cases[0]
    radii = ", ".join(str(one.threat.eps) for one in hearing.cases)
    return (
        f"{case.row} on {len(case.images)} images of {case.data}, {case.threat.norm} {radii}: {', '.join(case.judges)}"
    )


def unsplit(hearing: Hearing) -> list[str]:
    """What the workers do not share, in a line each."""
    case = hearing.cases[0]
    return shards.unsplit(case.judges, str(case.images.pixels.device)) if case.workers > 1 else []


def estimate(hearing: Hearing) -> str:
    """How long what is missing takes, from a pass of the model itself over its own images."""
    case, passes = hearing.cases[0], sum(hearing.cost[key] for key in hearing.missing)
    pace = measure(case.given.model, case.images.floats(slice(0, 64)))
    share = sum(not hearing.store.has(stage) for one in hearing.cases for stage in one.stages) / len(case.stages)
    line = told(passes, share * pace.least(len(case.images), len(case.judges)), pace)
    if not case.budget:
        return line
    first = pace.seconds(case.cost[case.stages[0].key])
    hint = f"; a block may take {duration(first)}: choose a smaller --batch" if first > case.budget else ""
    each = " for each radius" if len(hearing.cases) > 1 else ""
    return f"{line}; budget {duration(case.budget)}{each}, in blocks of {case.batch} images{hint}"


def _threat(norm: str, eps: str) -> Threat:
    try:
        return read(Threat, {"norm": norm, "eps": eps}, "--eps")
    except UserError as error:
        raise UserError(str(error).replace("--eps.norm: ", "--norm: ")) from None


def folder_name(kind: str, row: str) -> str:
    """The run folder of a row, where none is given."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', row)}"


def data_table(text: str, overrides: Sequence[str]) -> Table:
    """The table of a data set: `digits`, `npz:cifar10.npz` (name and path), or TOML such as `{name = "digits"}`."""
    if text.lstrip().startswith("{"):
        try:
            table: Table = tomllib.loads(f"data = {text}")["data"]
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UserError(f"--data {text}: not a TOML table ({error})") from None
    else:
        name, colon, path = text.partition(":")
        if not colon and Path(name).suffix == ".npz":
            raise UserError(f"--data {text}: expected the kind before the path; did you mean 'npz:{text}'?")
        table = {"name": name, **({"path": path} if colon else {})}
        kind = datasets().get(name)
        given = path or any(one.partition("=")[0].strip() == "data.path" for one in overrides)
        if kind and "path" in kind.__dataclass_fields__ and not given:
            what = {"npz": "cifar10.npz", "folder": "images/"}.get(name, "data")
            hint = f"; 'robustcl fetch {name} data' downloads it" if what == "data" else ""
            raise UserError(f"--data {text}: expected where it lies, such as --data {name}:{what}{hint}")
    whole = {"data": table}
    for given in overrides:
        top = given.partition(".")[0]
        if top != "data":
            raise UserError(f"--set {given}: expected data.<key>=<value>{nearest(top, ['data'])}")
        override(whole, given)
    return table
