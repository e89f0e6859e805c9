"""The only owner of running a suite in the processes of one group, as torchrun starts them: who does what.

Every process runs the same suite. What is trained is trained by all of them together, one stage after another; the
other stages that are ready are dealt out, one process each. The first process alone writes what they trained.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from robustcl.bench.executors import Watch
from robustcl.bench.place import Place
from robustcl.bench.stages import execute, work_of
from robustcl.bench.store import Stage
from robustcl.models.errors import NumberError, UserError
from robustcl.models.share import agreed, processes

TRAINED = ("pretrain", "finetune")
_PATIENCE = timedelta(days=7)  # how long a process waits for one that still attacks; one that is gone is seen at once


def started() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def alone() -> None:
    """Errors: `UserError` where torchrun started this process."""
    if started():
        raise UserError("evaluate: started by torchrun, expected it by itself, with --workers for several processes")


def join(device: str) -> str:
    """Enter the group that torchrun has started, if it has; the device of this process.

    Errors: `UserError` for a numbered device, which could serve one of the processes alone.
    """
    if not started():
        return device
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: started by torchrun, expected cpu, or cuda for one GPU per process")
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    return device if device == "cpu" else f"cuda:{dist.get_node_local_rank()}"


def leave() -> None:
    """Leave the group of torchrun."""
    if started() and dist.is_initialized():
        dist.destroy_process_group()


def run_together(stages: Sequence[Stage], place: Place, watch: Watch) -> None:
    """Make every stage that the store lacks, parents first; all processes of the group call this alike.

    What is to be trained goes first, so that the others can be dealt out many at a time. Errors: those of a stage, in
    every process; `LostError` where a process is gone.
    """
    if place.device.startswith("cuda"):
        torch.cuda.set_device(place.device)
    todo = _missing(stages, place)
    while todo:
        keys = {stage.key for stage in todo}
        ready = [stage for stage in todo if not keys & {parent.key for parent in stage.parents.values()}]
        trained = [stage for stage in ready if stage.kind in TRAINED]
        if trained:
            _train(trained[0], place, watch)
        else:
            _deal(ready, place, watch)
        todo = _missing(todo, place)


def _missing(stages: Sequence[Stage], place: Place) -> list[Stage]:
    """What the store lacks, as the first process sees it."""
    lacks = agreed(torch.tensor([not place.store.has(stage) for stage in stages], dtype=torch.int64)).tolist()
    return [stage for stage, missing in zip(stages, lacks, strict=True) if missing]


def _train(stage: Stage, place: Place, watch: Watch) -> None:
    """All processes make the stage. It may have been made meanwhile: the first one says whether there is work."""
    work = work_of(stage, place, lambda done, total: watch.moved(stage, done, total))
    watch.started(stage)
    begun = torch.zeros(1)
    if processes()[0]:
        if agreed(begun):
            with place.store.beside(stage) as folder:
                work(folder)
            agreed(begun)
        watch.finished(stage)
        return

    def announced(folder: Path) -> Mapping[str, Any]:
        (folder / "progress").mkdir(exist_ok=True)
        agreed(begun.fill_(1))
        return work(folder)

    place.store.make(stage, announced)
    agreed(begun)  # that it lies in the store, or that there was nothing to do
    watch.finished(stage)


def _deal(ready: Sequence[Stage], place: Place, watch: Watch) -> None:
    """Each process makes its share of the stages; an error of one is raised in all, after all are through."""
    rank, world = processes()
    error: Exception | None = None
    for stage in ready:
        watch.started(stage)
    try:
        for stage in ready[rank::world]:
            execute(stage, place, lambda done, total, stage=stage: watch.moved(stage, done, total))  # type: ignore[misc]
            watch.finished(stage)
    except (UserError, NumberError) as wrong:
        error = wrong
    found: list[Exception | None] = [None] * world
    dist.all_gather_object(found, error)
    for told in filter(None, found):
        raise told
    for number, stage in enumerate(ready):
        if number % world != rank:
            watch.finished(stage)
