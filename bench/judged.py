"""The only owner of judging a given classifier into a run folder: its stages, its cells, and what a cell refuses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from robustcl.bench import records
from robustcl.bench.attacks import Attack, identity
from robustcl.bench.budget import Check, blocks, within
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.executors import Watch
from robustcl.bench.given import Given
from robustcl.bench.pace import duration, most
from robustcl.bench.provenance import provenance
from robustcl.bench.store import Stage, Store
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images

SUITE, SCHEME = "evaluate", "as given"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One given classifier under one threat. `row` and `data` are their names for people; `batch` is how many images
    are attacked at a time, and with a `budget` (seconds) also the size of a block."""

    given: Given
    row: str
    images: Images
    data: str
    threat: Threat
    judges: Mapping[str, Sequence[Attack]]
    seed: int = 0
    batch: int = 256
    budget: float | None = None

    @property
    def part(self) -> dict[str, Any]:
        """All that its numbers depend on."""
        return {
            "weights": self.given.weights,
            "data": self.images.fingerprint,
            "images": len(self.images),
            "threat": plain(self.threat),
            "judges": {name: [identity(attack) for attack in attacks] for name, attacks in self.judges.items()},
            "seed": self.seed,
            "blocks of": self.batch if self.budget else None,
        }

    @property
    def label(self) -> str:
        """What people read while it runs."""
        return f"evaluate {self.row} at {self.threat.eps}"

    @property
    def stages(self) -> list[Stage]:
        """The work: one stage, or one per block."""
        if not self.budget:
            return [Stage(kind="evaluate", part=self.part, label=self.label)]
        count = -(-len(self.images) // self.batch)
        parts = [{**self.part, "block": number} for number in range(count)]
        return [
            Stage(kind="block", part=part, label=f"{self.label}, block {number} of {count}")
            for number, part in enumerate(parts, 1)
        ]

    @property
    def cost(self) -> dict[str, int]:
        """The most passes that each stage can take."""
        sizes = [len(self.images)] if not self.budget else [len(part) for part in blocks(self.images, self.batch)]
        classes = self.images.classes
        return {s.key: most(self.judges, classes, n) for s, n in zip(self.stages, sizes, strict=True)}


def admit(case: Case, store: Store) -> None:
    """See whether the folder may hold this case; nothing is written.

    A folder holds any number of rows, data sets and radii, but one protocol of each: where its row was judged with
    other weights, images, attacks or seed, it is refused, and nobody has to guess which of two numbers is shown.
    Errors: `UserError` that says what differs; where the folder is a suite's.
    """
    for cell in store.cells(SUITE):
        if _place(cell) == (case.row, case.data, case.threat.norm, str(case.threat.eps)):
            _refuse(cell["part"], case, store)


def make(case: Case, store: Store, watch: Watch) -> None:
    """Judge what the store lacks, and enter the cell. Whatever stops it, finished batches and blocks stay.

    With a budget, images are judged in a fixed random order, a block at a time (see `budget.within`); the same call
    again goes on with the next blocks, and those that are there take no time.
    """
    store.add_cells(SUITE, [])  # the folder is one of given classifiers from now on
    if not case.budget:
        (stage,) = case.stages
        _judge(case, case.images, stage, store, watch, lambda: None)
        store.add_cells(SUITE, [_cell(case, stage)])
        return
    parts = list(zip(case.stages, blocks(case.images, case.batch), strict=True))

    def block(part: tuple[Stage, Images], check: Check) -> Stage:
        _judge(case, part[1], part[0], store, watch, check)
        return part[0]

    done = within(case.budget, parts, block)
    stage = _joined(case, done, store)
    n = sum(len(images) for _, images in parts[: len(done)])
    told = f"{n} of {len(case.images)} images, budget {duration(case.budget)}"
    store.add_cells(SUITE, [_cell(case, stage, told)])


def _judge(case: Case, images: Images, stage: Stage, store: Store, watch: Watch, check: Check) -> None:
    if store.has(stage):
        return
    watch.started(stage)

    def report(done: int, total: int) -> None:
        watch.moved(stage, done, total)
        check()

    def work(folder: Path) -> Mapping[str, Any]:
        keep = folder / "progress" / "batches"
        trial = Trial(
            threat=case.threat, judges=case.judges, seed=case.seed, batch=case.batch, keep=keep, report=report
        )
        records.write(folder / "records.parquet", judge(case.given.model, images, trial))
        return {**provenance(), "device": str(images.pixels.device)}

    store.make(stage, work)
    watch.finished(stage)


def _joined(case: Case, done: Sequence[Stage], store: Store) -> Stage:
    """The records of whole blocks as one evaluation."""
    parents = {f"block {number}": stage for number, stage in enumerate(done)}
    whole = Stage(kind="evaluate", part=case.part, parents=parents, label=case.label)

    def work(folder: Path) -> Mapping[str, Any]:
        parts = [pq.read_table(store.file(stage, "records.parquet")).to_pandas() for stage in done]
        rows = pd.concat([part.astype({"judge": str, "attack": str}) for part in parts])
        records.write(folder / "records.parquet", rows.sort_values("image", kind="stable", ignore_index=True))
        return provenance()

    store.make(whole, work)
    return whole


def _cell(case: Case, stage: Stage, told: str = "") -> dict[str, Any]:
    return {
        "encoder": case.row,
        "method": case.given.architecture,
        "scheme": SCHEME,
        "data": case.data,
        "classes": case.images.classes,
        "norm": case.threat.norm,
        "eps": str(case.threat.eps),
        "headline": True,
        "judges": {name: [attack.name for attack in attacks] for name, attacks in case.judges.items()},
        "seeds": {"judge": case.seed},
        "protocol": ", ".join(filter(None, [SCHEME, told])),
        "part": case.part,
        "stage": stage.key,
    }


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[key] for key in ("encoder", "data", "norm", "eps"))


def _refuse(held: Mapping[str, Any], case: Case, store: Store) -> None:
    """Errors: `UserError` where the cell that is there is of another protocol."""
    new = case.part
    odd = [key for key in new if held.get(key) != new[key]]
    if odd:
        show: Callable[[Any], str] = lambda of: ", ".join(of) if isinstance(of, dict) else str(of)  # noqa: E731
        told = "; ".join(f"{key} {show(held.get(key))}, now {show(new[key])}" for key in odd)
        raise UserError(
            f"{store.root}: row '{case.row}' at {case.threat.norm} {case.threat.eps} is there with {told}; "
            "expected the same, another --name or another --runs folder"
        )
