"""The only owner of one attack in several processes or on several devices at once, with the very same records.

Whole batches are dealt out, and what comes of a batch depends on nothing outside it. What each of them finishes is laid
down as for a restart, and read back as a restart would.
"""

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from robustcl.bench import forks, memory
from robustcl.bench.batches import Batches
from robustcl.bench.forks import Told
from robustcl.bench.judge import Attack, Counted, Judge
from robustcl.models.errors import UserError

_PAUSE = 0.5  # seconds between two looks for batches that others are at


def check(workers: int, device: str, budget: object = None) -> None:
    """Errors: `UserError` where this machine cannot judge in so many processes, or on so many devices, or there is a
    budget, which has its batches judged one after another."""
    if workers > 1 and budget:
        raise UserError(f"workers {workers}: with a budget one batch is judged after another, expected one of the two")
    kind = torch.device(device).type
    if workers == 1 or (kind == "cpu" and forks.possible()):
        return
    if kind == "cuda":
        count = torch.cuda.device_count()
        if workers > count or device not in ("cuda", "cuda:0"):
            raise UserError(f"workers {workers}: on {device}, expected at most {count} on cuda, one for each GPU")
        return
    hint = ', or CUDA_VISIBLE_DEVICES="" to hide the accelerator' if kind == "cpu" else ""
    raise UserError(f"workers {workers}: on {kind} of this machine processes cannot be forked, expected 1{hint}")


def unsplit(judges: Mapping[str, Sequence[Attack]], device: str) -> list[str]:
    """The attacks that several devices do not share, in a line each: threads have much between them."""
    if torch.device(device).type == "cpu":
        return []
    reasons = {attack.name: _alone(attack) for attacks in judges.values() for attack in attacks}
    return [f"{name} {reason}, and runs on one device" for name, reason in reasons.items() if reason]


def run(attack: Attack, court: Judge, workers: int, desk: Batches, order: int, told: Told) -> None:
    """`attack.run(court)`, its batches dealt out; `told` hears how many more images are through, in this thread or one
    at a time.

    `desk` is where finished batches of the attack, number `order` of its trial, are kept; None keeps them for as long
    as this takes. Errors: those of the attack; `LostError` where a process died.
    """
    count = min(workers, -(-len(court.y) // court.batch))
    if count < 2 or (court.y.is_cuda and _alone(attack)):
        memory.run(attack, court)
        return
    with TemporaryDirectory() if desk.folder is None else nullcontext() as folder:
        kept = desk if folder is None else Batches(Path(folder), {})
        if court.y.is_cuda:
            devices = [torch.device("cuda", number) for number in range(count)]
            in_threads(attack, court, devices, kept, order, told)
        else:
            forks.in_forks(lambda part, say: _shard(attack, court, (part, count), kept, order, say), count, told)
        kept.restore(court, order)


def with_others(attack: Attack, court: Judge, desk: Batches, order: int) -> None:
    """`attack.run(court)` together with other processes that do the same, on this machine or on others.

    Each batch is claimed by who attacks it, and read by the others. Nobody waits for a process that has not begun, and
    what one leaves undone is attacked by another. Errors: those of the attack.
    """
    court.claim = lambda rows: desk.claim(court, order, rows)
    memory.run(attack, court)
    while not court.done.all():
        time.sleep(_PAUSE)
        desk.restore(court, order)
        memory.run(attack, court)


def in_threads(
    attack: Attack, court: Judge, devices: Sequence[torch.device], kept: Batches, order: int, told: Told
) -> None:
    """A thread per device, with a copy of the model and the images there."""
    stopped, lock = threading.Event(), threading.Lock()

    def say(count: int) -> None:
        if stopped.is_set():
            raise _Stopped
        with lock:
            told(count)

    def work(number: int) -> None:
        if devices[number].type == "cuda":
            torch.cuda.set_device(devices[number])
        _shard(attack, _copy(court, devices[number]), (number, len(devices)), kept, order, say)

    with ThreadPoolExecutor(len(devices)) as threads:
        running = [threads.submit(work, number) for number in range(len(devices))]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            stopped.set()


class _Stopped(Exception):  # noqa: N818 (an end, not an error)
    pass


def _shard(attack: Attack, court: Judge, shard: tuple[int, int], kept: Batches, order: int, told: Told) -> None:
    """Attack the batches of one shard, and keep them."""

    def finished(rows: Tensor) -> None:
        kept.save(court, order, rows)
        told(len(rows))

    court.shard, court.finished = shard, finished
    with torch.no_grad():  # as judging does; a new thread begins with torch's default
        memory.run(attack, court)


def _copy(court: Judge, device: torch.device) -> Judge:
    """The same judge on another device, with a model of its own."""
    model = court.model.model
    other = Judge(
        Counted(copy.deepcopy(model).to(device) if isinstance(model, nn.Module) else model),
        court.x.to(device),
        court.y.to(device),
        court.images,
        threat=court.threat,
        seed=court.seed,
        batch=court.batch,
        classes=court.classes,
        keep_points=court.point is not None,
    )
    other.done = court.done.to(device, copy=True)
    return other


def _alone(attack: Attack) -> str:
    """Why threads cannot share this attack; empty where they can."""
    if not getattr(attack, "keyed", False):
        return "draws from the one generator of the process"
    # One thread would search in 10 bits while the other judges.
    return "rounds for the whole process" if getattr(attack, "precision", "") == "tf32" else ""
