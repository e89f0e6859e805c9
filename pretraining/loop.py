"""The only owner of the training loop: every method and every scheme runs through `fit`."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from robustcl.models.encoder import Encoder
from robustcl.models.errors import NumberError, UserError
from robustcl.models.folding import folded
from robustcl.models.memory import told
from robustcl.models.plugin import name_of
from robustcl.models.routing import shared
from robustcl.models.seeding import generator
from robustcl.models.share import Share, agreed, processes, total
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain
from robustcl.pretraining.coreset import Coreset, select
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Batch, Method, Net, Prepared, Surveying, identity
from robustcl.pretraining.optim import Automatic, Schedule
from robustcl.pretraining.partial import Partial
from robustcl.pretraining.selection import Epoch as Epoch
from robustcl.pretraining.selection import Validation
from robustcl.pretraining.state import State


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of `fit` is, methods and images apart. `keep` is where the state after each epoch is kept.

    `snapshot` is given the epoch and the deployed encoder after the epochs that the training names. It comes before
    the state of that epoch is kept, so that a run that goes on has missed none, and must leave the encoder as it is.
    `validation` measures the classifier after every epoch on images that are not among the trained ones, and holds
    the best weights; `partial` says which images have labels where not all of them do. `log` is told events
    with their fields: `resumed`, `step` at every step, and `epoch` with its row of the curve.
    """

    seed: int
    threat: Threat | None = None
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)  # K -> (n,) labels in the order of the images
    validation: Validation | None = None
    partial: Partial | None = None
    keep: Path | None = None
    where: str = "fit"
    report: Callable[[int, int], None] = lambda done, total: None
    log: Callable[..., None] = lambda event, **fields: None
    snapshot: Callable[[int, Encoder], None] = lambda epoch, encoder: None


def fit(method: Method, net: Net, images: Images, run: Run) -> list[Epoch]:
    """Train `net` in place with `method` on `images`; both lie on one device. Returns the training curve.

    Every draw is keyed by (seed, purpose, iteration), so a run that goes on from `keep` ends with the same bytes as
    one that was never stopped. With a monitor, the images that it holds out are not trained on. Errors: `NumberError`
    where the loss is not finite (the state after the last good epoch stays in `keep`); `UserError` where `keep`
    belongs to another run, and for a coreset of a method that is not adversarial.

    Within a process group of torch.distributed all processes call this alike and train together: each takes its part of
    every batch, all end with the same weights, and the first one alone writes. Errors: `UserError` for a method that
    needs its batches whole, and for batches too small to share; `LostError` where a process is gone.
    """
    training, identity = method.training, _identity(method, net, images, run)
    _check(method, run)
    watch = training.monitor.watch(images, run.threat, run.seed, run.where) if training.monitor else None
    if watch is not None:
        images = watch.bank
        run = replace(
            run,
            pseudo={k: labels[watch.rows.to(labels.device)] for k, labels in run.pseudo.items()},
            partial=run.partial.take(watch.rows) if run.partial else None,
        )
    work = _Work(method=method, net=net, images=images, run=run)
    _check_shares(work, identity)
    prepare(method, net)
    optimiser = training.optimiser.build([p for p in net.parameters() if p.requires_grad])
    state = State(net, optimiser, run.keep, identity, run.validation)
    history = _restored(state, run, training.epochs)
    for tensor in net.state_dict().values():
        tensor.copy_(agreed(tensor))
    encoder = net.deployed(method.facts.network)
    for epoch in range(len(history), training.epochs):
        if training.coreset is not None and training.coreset.due(epoch):
            state.coreset = agreed(_select(work, training.coreset, epoch))
        schedule, began = _schedule(work, history), time.perf_counter()
        # Halving a batch as judges do would make another run of it, behind everybody's back.
        room = f"a device with more for a batch of {training.batch} images, or a smaller training.batch: another run"
        with told(run.where, room), folded(net.encoder) if method.freezes else nullcontext():
            row = _epoch(work, optimiser, epoch, state.coreset, schedule)
        speed = _speed(len(images if state.coreset is None else state.coreset), began)
        if watch is not None and watch.due(epoch + 1, training.epochs):
            row |= watch.measure(encoder, _route(method, encoder), epoch + 1)
        history.append(row)
        if run.validation is not None:
            run.validation.measure(net, history)
        if epoch + 1 in training.snapshots and processes()[0] == 0:
            run.snapshot(epoch + 1, encoder)
        state.save(history)
        run.log("epoch", epoch=epoch + 1, epochs=training.epochs, **speed, curve=history[-1])
        run.report(epoch + 1, training.epochs)
    net.eval()
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as it is when it is loaded again
    return history


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is trained and on what; the images and labels are those that no monitor holds out."""

    method: Method
    net: Net
    images: Images
    run: Run

    def batch(self, rows: Tensor, epoch: int, iteration: int, *, alone: bool = False) -> Batch:
        """The batch of these rows, of which this process has the images of its part, or `alone` all of them."""
        rows = rows.to(self.images.pixels.device)
        rank, world = (0, 1) if alone else processes()
        share = Share(n=len(rows), rank=rank, world=world, groups=self.method.training.groups)
        return Batch(
            images=self.images.floats(rows[share.own]),
            labels=self.images.labels[rows],
            threat=self.run.threat,
            seed=self.run.seed,
            epoch=epoch,
            epochs=self.method.training.epochs,
            iteration=iteration,
            pseudo={k: labels.to(rows.device)[rows] for k, labels in self.run.pseudo.items()},
            partial=self.run.partial.take(rows) if self.run.partial else None,
            share=share if share.world > 1 or share.groups > 1 else None,
        )

    def batches(self, epoch: int, among: Tensor | None = None) -> list[Tensor]:
        """Rows of one epoch's batches, `among` all or some rows, in the order of the epoch's own key."""
        n = len(self.images) if among is None else len(among)
        order, size = torch.randperm(n, generator=generator(self.run.seed, "order", epoch)), self.method.training.batch
        parts = self.run.partial.batches(order, size) if self.run.partial else _batches(order, size)
        return parts if among is None else [among[part] for part in parts]


def _check(method: Method, run: Run) -> None:
    if method.adversarial and run.threat is None:
        raise UserError(f"{run.where}: the method is adversarial, expected a threat such as Threat('8/255')")
    if method.training.coreset is not None and (not method.adversarial or method.freezes):
        raise UserError(f"{run.where}: rcs needs an adversarial method that trains its encoder, expected no coreset")
    if method.training.coreset is not None and run.partial is not None:
        raise UserError(f"{run.where}: rcs where only some images have labels, expected no coreset")
    if isinstance(method.training.schedule, Automatic) and run.validation is None:
        raise UserError(f"{run.where}: the rate 'automatic' follows a validation, which finetuning alone has")


def _check_shares(work: _Work, identity: str) -> None:
    """Errors: `UserError` where the batches cannot be shared, or the processes were not given the same."""
    world, groups, where = processes()[1], work.method.training.groups, work.run.where
    why, pieces = work.method.facts.whole, max(world, groups)
    if pieces > 1 and why:
        raise UserError(f"{where}: {name_of(work.method)} {why}, expected one process and training.groups = 1")
    if groups > 1 and groups % world:
        raise UserError(f"{where}: training.groups is {groups}, expected a number of processes that divides it")
    least, smallest = pieces * (2 if groups > 1 else 1), min(len(part) for part in work.batches(0))
    if pieces > 1 and smallest < least:
        raise UserError(f"{where}: a batch of {smallest} images in {pieces} parts, expected at least {least}")
    if world > 1:
        said = torch.tensor([int(identity[:8], 16), int(identity[8:], 16)], device=work.images.pixels.device)
        others = int(total((agreed(said) != said).any().long()))
        if others:
            raise UserError(f"{where}: {others} of {world} processes have other images or fields than the first one")


def prepare(method: Method, net: Net) -> None:
    net.train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in which convolutions are fastest
    net.requires_grad_(True)
    net.beside.requires_grad_(False)
    if method.freezes:
        net.encoder.eval()
        net.encoder.requires_grad_(False)


def _route(method: Method, encoder: Encoder) -> str | None:
    """The deployed route; an encoder that is finetuned has one route alone, under the name that it came with."""
    return method.facts.deploy if method.facts.deploy in encoder.routes else None


def _select(work: _Work, coreset: Coreset, epoch: int) -> Tensor:
    """The rows to train on from this epoch; iterations below 0 key other draws than those of the steps."""
    parts, run = work.batches(epoch), work.run
    probe = coreset.probe(work.images, run.threat, _route(work.method, work.net.encoder), run.seed, epoch)

    def loss(net: Net, number: int) -> Tensor:
        batch = work.batch(parts[number], epoch, -1 - epoch * len(parts) - number, alone=True)
        return torch.stack(list(_terms(work.method, net, batch).values())).sum()

    return select(coreset, work.net, parts, loss, probe)


def _schedule(work: _Work, history: Sequence[Epoch]) -> Schedule:
    """The schedule of the next epoch; where an automatic rate was lowered just now, the best weights come back."""
    schedule, validation, epochs = work.method.training.schedule, work.run.validation, work.method.training.epochs
    if not isinstance(schedule, Automatic) or validation is None:
        return schedule
    found = schedule.after([row[validation.column] for row in history], epochs)
    if history and found.starts[-1] == len(history):
        # The momentum buffers stay, as in the released code of AutoLoRa.
        work.net.load_state_dict(validation.best)
    return found


def _restored(state: State, run: Run, epochs: int) -> list[Epoch]:
    history = state.restore()
    if history:
        run.log("resumed", epoch=len(history), epochs=epochs)
    return history


def _speed(images: int, began: float) -> dict[str, float]:
    seconds = max(time.perf_counter() - began, 1e-9)
    return {"images": images, "seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1)}


def _epoch(
    work: _Work, optimiser: torch.optim.Optimizer, epoch: int, coreset: Tensor | None, schedule: Schedule
) -> Epoch:
    training, device, where = work.method.training, work.images.pixels.device, work.run.where
    parts, first = work.batches(epoch, coreset), epoch * len(work.batches(epoch))
    sums: dict[str, Tensor] = {}
    first_bad = torch.full((), -1, device=device)
    for number, rows in enumerate(parts):
        rate = schedule.lr(training.optimiser.lr, epoch, number, len(parts), training.epochs)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Numbered as if all batches were trained on: no two steps of a run share a key, whatever a coreset leaves.
        batch = work.batch(rows, epoch, first + number)
        if isinstance(work.method, Surveying):
            work.method.survey(work.net, work.images, replace(batch, share=None), number, len(parts))
        terms = step(work.method, work.net, batch, optimiser)
        work.run.log("step", epoch=epoch + 1, epochs=training.epochs, step=number + 1, steps=len(parts))
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + term
        # No .item() per step: the first step that went wrong is remembered on the device and read once per epoch.
        good = torch.isfinite(torch.stack(list(terms.values())).sum())
        first_bad = torch.where(good | (first_bad >= 0), first_bad, torch.full_like(first_bad, number))
    kept = f"the state after epoch {epoch} is kept" if epoch else "nothing was kept yet"
    if int(first_bad) >= 0:
        raise NumberError(
            f"{where}: the loss is not finite in epoch {epoch + 1}, step {int(first_bad) + 1} of {len(parts)}, "
            f"expected a number (terms: {', '.join(sums)}); stopped, {kept}"
        )
    if not all(torch.isfinite(tensor).all() for tensor in work.net.state_dict().values()):
        raise NumberError(f"{where}: weights are not finite after epoch {epoch + 1}; stopped, {kept}")
    means = {name: float(total) / len(parts) for name, total in sums.items()}
    return {"epoch": epoch + 1, "lr": rate, "loss": sum(means.values()), **means}


def _terms(method: Method, net: Net, batch: Batch) -> dict[str, Tensor]:
    device = batch.images.device.type
    autocast = torch.autocast(device, torch.bfloat16, enabled=method.training.precision == "bfloat16")
    with shared(net, batch.share), autocast:
        views = method.adversary(net, method.views(batch), batch)
        return method.loss(net, views, batch)


def step(method: Method, net: Net, batch: Batch, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    terms = _terms(method, net, batch)
    optimiser.zero_grad(set_to_none=True)
    total: Tensor = torch.stack(list(terms.values())).sum()
    total.backward()
    if batch.share is not None:
        batch.share.average(p for group in optimiser.param_groups for p in group["params"])
    if isinstance(method, Prepared):
        method.before_step(net, batch)
    optimiser.step()
    return {name: term.detach() for name, term in terms.items()}


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Rows of one epoch in this order; a single last image joins the batch before it."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _identity(method: Method, net: Net, images: Images, run: Run) -> str:
    labels = {str(k): digest(part.tolist()) for k, part in run.pseudo.items()}
    threat = plain(run.threat) if run.threat else None
    start = [[name, list(tensor.shape)] for name, tensor in net.state_dict().items()]
    held = [part.identity if part else None for part in (run.validation, run.partial)]
    return digest([identity(method), images.fingerprint, threat, run.seed, labels, start, held])
