"""The only owner of judging a given classifier into a run folder: its stages, its cells, and what a cell refuses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from robustcl.bench import records
from robustcl.bench.about import about
from robustcl.bench.adversarial import Saved
from robustcl.bench.budget import Check, blocks, within
from robustcl.bench.case import Case, cell
from robustcl.bench.evaluate import judge
from robustcl.bench.executors import Watch
from robustcl.bench.journal import logged, memory
from robustcl.bench.pace import duration
from robustcl.bench.probe import FILE, Subject, write_arrays
from robustcl.bench.probes.thumbnails import Thumbnails
from robustcl.bench.probing import image_stage
from robustcl.bench.provenance import provenance
from robustcl.bench.store import Stage, Store, write_json
from robustcl.models.errors import UserError
from robustcl.models.naming import check_seen
from robustcl.pretraining.images import Images

SUITE = "evaluate"
_BEGUN = "progress/cell.json"  # in the folder of a stage that is not finished: what it is to become


def _go_on() -> None:
    """Never stop."""


def admit(case: Case, store: Store) -> None:
    """See whether the folder may hold this case; nothing is written.

    A folder holds any number of rows, data sets and radii, but one protocol of each: where its row was judged with
    other weights, images, attacks or seed, it is refused, and nobody has to guess which of two numbers is shown.
    Errors: `UserError` that says what differs; where the folder is a suite's.
    """
    check_seen([case.row, case.data], "evaluate")  # readers refuse the run folder otherwise, when all is done
    place = (case.row, case.data, case.threat.norm, str(case.threat.eps))
    for held in store.suite(SUITE)["cells"]:
        if _place(held) == place:
            _refuse(
                held["part"], case, f"{store.root}: row '{case.row}' at {case.threat.norm} {case.threat.eps} is there"
            )
    for path in store.root.glob(f"*/.*/{_BEGUN}"):
        held = _begun(path)
        if held and _place(held) == place:
            _refuse(held["part"], case, f"{path.parent.parent}: row '{case.row}' was interrupted")
    if case.save and all(store.has(stage) for stage in case.stages):
        made = store.note(case.stages[0])["made"].get("adversarial")
        if not case.save.exists() or Saved(path=case.save).content != made:
            raise UserError(
                f"{case.save}: {case.label} is there without its adversarial images (none, or of another judgement), "
                "expected the file that was written with it, or another --runs folder"
            )


def make(case: Case, store: Store, watch: Watch) -> None:
    """Judge what the store lacks, and enter the cell. Whatever stops it, finished batches and blocks stay.

    With a budget, images are judged in a fixed random order, a block at a time (see `budget.within`); the same call
    again goes on with the next blocks, and those that are there take no time.
    """
    _show(case, store)
    if not case.budget:
        (stage,) = case.stages
        judge_stage(case, case.images, stage, store, watch)
        store.add(SUITE, [cell(case, stage)])
        return
    parts = list(zip(case.stages, blocks(case.images, case.batch), strict=True))

    def block(part: tuple[Stage, Images], check: Check) -> Stage:
        judge_stage(case, part[1], part[0], store, watch, check)
        return part[0]

    done = within(case.budget, parts, block)
    stage = _joined(case, done, store)
    n = sum(len(images) for _, images in parts[: len(done)])
    told = f"{n} of {len(case.images)} images, budget {duration(case.budget)}"
    store.add(SUITE, [cell(case, stage, told)])


def _show(case: Case, store: Store) -> None:
    """Make the folder one of given classifiers, with some of the images for pages that show them."""
    probe = Thumbnails()
    entry, stage = image_stage(probe, case.images, case.data)

    def work(folder: Path) -> Mapping[str, Any]:
        write_arrays(folder / FILE, probe.run(Subject(images=case.images, where=stage.label)))
        return provenance()

    store.add(SUITE, [], [entry])
    store.make(stage, work)


def judge_stage(case: Case, images: Images, stage: Stage, store: Store, watch: Watch, check: Check = _go_on) -> None:
    """Judge a stage of a case on its images unless the store has it; `check` is called whenever it could stop."""
    if store.has(stage):
        return
    watch.started(stage)

    def report(done: int, total: int) -> None:
        watch.moved(stage, done, total)
        check()

    def work(folder: Path) -> Mapping[str, Any]:
        where = {"device": str(images.pixels.device)}
        with logged(folder, stage.label, report, **where) as journal:
            keep = folder / "progress" / "batches"
            keep.mkdir(parents=True, exist_ok=True)
            write_json(folder / _BEGUN, cell(case, stage))
            known = records_of(case.smaller.stages[0], store) if case.smaller else None
            trial = replace(case.trial, keep=keep, save=case.save, known=known, workers=case.workers)
            trial = replace(trial, report=journal.moved, log=journal.write)
            found = judge(case.given.model, images, trial)
            told = about(stage, case.given.model, images, trial, found) if stage.kind == "evaluate" else None
            records.write(folder / "records.parquet", found, told)
        kept = {"adversarial": Saved(path=case.save).content} if case.save else {}
        return {**provenance(), **where, "seconds": journal.seconds, **memory(), **kept}

    store.make(stage, work)
    watch.finished(stage)


def _joined(case: Case, done: Sequence[Stage], store: Store) -> Stage:
    """The records of whole blocks as one evaluation."""
    parents = {f"block {number}": stage for number, stage in enumerate(done)}
    whole = Stage(kind="evaluate", part=case.part, parents=parents, label=case.label)

    def work(folder: Path) -> Mapping[str, Any]:
        rows = pd.concat([records_of(stage, store) for stage in done])
        rows = rows.sort_values("image", kind="stable", ignore_index=True)
        known = torch.from_numpy(rows["image"].unique()).to(case.images.index.device)
        images = case.images.take(torch.isin(case.images.index, known))
        records.write(folder / "records.parquet", rows, about(whole, case.given.model, images, case.trial, rows))
        return provenance()

    store.make(whole, work)
    return whole


def records_of(stage: Stage, store: Store) -> pd.DataFrame:
    """The records of a finished stage."""
    return records.read(store.file(stage, "records.parquet")).astype({"judge": str, "attack": str})


def _begun(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # finished meanwhile, or written by half: nothing to go on with
        return {}


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[key] for key in ("encoder", "data", "norm", "eps"))


def _refuse(held: Mapping[str, Any], case: Case, where: str) -> None:
    """Errors: `UserError` where what is held there is of another protocol."""
    new = case.part
    odd = [key for key in new if held.get(key) != new[key]]
    if odd:
        told = "; ".join(f"{key} {_shown(held.get(key))}, now {_shown(new[key])}" for key in odd)
        raise UserError(f"{where} with {told}; expected the same, another --name or another --runs folder")


def _shown(part: Any) -> str:
    return ", ".join(part) or "none" if isinstance(part, dict | list) else str(part)
