"""The only owner of `robustcl check --sequential`: a classifier is attacked until the gate's answer is certain."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from robustcl.bench import reliability
from robustcl.bench.attacks import Engine, judges
from robustcl.bench.budget import blocks
from robustcl.bench.case import Case
from robustcl.bench.data import datasets, read_dataset
from robustcl.bench.evaluate import judge
from robustcl.bench.fingerprint import engine_of, fingerprint
from robustcl.bench.given import give
from robustcl.bench.judged import judge_stage, records_of
from robustcl.bench.library import Library
from robustcl.bench.place import find_device
from robustcl.bench.store import Store
from robustcl.console import Display
from robustcl.judging import data_table, folder_name
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import read
from robustcl.pretraining.images import Images
from robustcl.reports.baseline import Row, chosen, read_baseline
from robustcl.reports.check import LEVEL, MARGIN, Check
from robustcl.reports.follow import Watched, conclude, follow, line, watch
from robustcl.reports.seeds import attack
from robustcl.reports.trust import text_of

LEAST = 32  # images between two looks
LOOKS = 16  # where there are more images: small batches are slow


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line was given."""

    target: str
    baseline: Path
    data: str | None = None
    margin: float = MARGIN
    level: float = LEVEL
    encoders: Sequence[str] = ()
    schemes: Sequence[str] = ()
    judges: Sequence[str] = ()
    block: int | None = None
    device: str = "cpu"
    runs: Path | None = None
    models: Path | None = None
    overrides: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A given classifier that is to be compared with a baseline, and the run folder that its blocks are kept in."""

    case: Case
    store: Store
    watched: Watched


def hear(asked: Asked) -> Gate:
    """What was asked for, read and tried; nothing is written. Errors: `UserError` for everything that is wrong."""
    if Path(asked.target).is_dir():
        kept = Path(asked.target) / "finetune" / "<key>" / "classifier.safetensors"
        raise UserError(f"check: {asked.target} is a folder, expected with --sequential a classifier, such as {kept}")
    whole = read_baseline(asked.baseline).rows
    rows = chosen(whole, asked.encoders, asked.schemes, asked.judges)
    watched = watch(rows, f"{asked.baseline}", asked.margin, asked.level)
    first = next(iter(watched.rows.values()))
    attacked = [watched.rows[name] for name in watched.attacked]
    images = _images(asked, first).to(find_device(asked.device))
    threat = read(Threat, {"norm": attacked[0].norm, "eps": attacked[0].eps}, "check")
    held = judges(watched.attacked, images.classes, _engine(attacked))
    for row in attacked:
        now = attack(fingerprint(row.judge, held[row.judge], threat, 0, images.classes))
        if now != row.fingerprint:
            raise UserError(f"check: the baseline's attack is {row.fingerprint} and here {now}, expected one attack")
    given = give(asked.target, images, norm=threat.norm, models=asked.models)
    case = Case(
        given=given,
        row=given.name,
        images=images,
        data=first.data,
        threat=threat,
        judges=held,
        seed=first.seeds.get("judge", 0),
        batch=asked.block or max(LEAST, len(images) // LOOKS),
        budget=math.inf,
    )
    store = Store(asked.runs or Path("runs") / folder_name("check", given.name))
    return Gate(case=case, store=store, watched=watched)


def check(gate: Gate, say: Callable[[str], None] = lambda text: None) -> Check:
    """Judge block after block until the answer is certain; whatever stops it, finished batches and blocks stay."""
    case, store, watched = gate.case, gate.store, gate.watched
    store.add("evaluate", [])  # the folder is one of given classifiers from now on
    parts, kept = blocks(case.images, case.batch), list[pd.DataFrame]()
    missing = [stage.key for stage in case.stages if not store.has(stage)]
    clean = judge(case.given.model, case.images, replace(case.trial, judges={}))

    with Display(case.cost, missing, store) as display:

        def work(number: int, asked: Sequence[str]) -> pd.DataFrame:
            part = replace(case, judges={name: case.judges[name] for name in asked})
            stage = part.stages[number]
            judge_stage(part, parts[number], stage, store, display)
            kept.append(records_of(stage, store))
            return kept[-1]

        held = {name: [attack.name for attack in attacks] for name, attacks in case.judges.items()}
        for found in follow(watched, clean, len(parts), work, held):
            say(line(found, len(case.images)))
    return conclude(watched, found, _reliability(case, kept) if kept else "", len(case.images))


def _reliability(case: Case, kept: Sequence[pd.DataFrame]) -> str:
    """What the checks find on the images that were attacked, as text."""
    records = pd.concat(kept, ignore_index=True)
    seen = torch.from_numpy(records["image"].unique()).to(case.images.index.device)
    images = case.images.take(torch.isin(case.images.index, seen))
    return text_of(reliability.check(case.given.model, images, case.trial, records))


def _images(asked: Asked, row: Row) -> Images:
    """The images of a row of the baseline. Errors: `UserError` where the data are others."""
    known = row.data in datasets() and "path" not in datasets()[row.data].__dataclass_fields__
    if asked.data is None and not known:
        raise UserError(f"--data: the baseline is of '{row.data}', expected where it lies, such as --data npz:FILE")
    whole = Library()
    data = read_dataset(data_table(asked.data or row.data, asked.overrides), "--data")
    test = whole.part(data, "test")
    images = whole.part(data, "test", row.n if row.n < len(test) else None)
    if images.index.tolist() != row.image.tolist() or images.fingerprint != (row.content or images.fingerprint):
        raise UserError(
            f"--data {asked.data or row.data}: its {len(images)} test images are not the {row.n} of the baseline, "
            "expected the same data"
        )
    return images


def _engine(rows: Sequence[Row]) -> Engine:
    """Who ran AutoAttack in the baseline. Errors: `UserError` where it was not the same everywhere."""
    found = {engine for row in rows if (engine := engine_of(row.fingerprint))}
    if len(found) > 1:
        raise UserError("check: the baseline's attacks are of several engines, expected one; choose with --judge")
    return found.pop() if found else Engine()
