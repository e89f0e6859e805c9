"""The only owner of the training loop: every method and every scheme runs through `fit`."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcl.models import checkpoint
from robustcl.models.errors import NumberError, UserError
from robustcl.models.seeding import generator
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Batch, Method, Net, Prepared, identity

Epoch = dict[str, float]
"""One epoch's row of the training curve: epoch (from 1), lr, loss and each named term, means over the steps."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of `fit` is, methods and images apart. `keep` is where the state after each epoch is kept."""

    seed: int
    threat: Threat | None = None
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)  # K -> (n,) labels in the order of the images
    keep: Path | None = None
    where: str = "fit"
    report: Callable[[int, int], None] = lambda done, total: None


def fit(method: Method, net: Net, images: Images, run: Run) -> list[Epoch]:
    """Train `net` in place with `method` on `images`; both lie on one device. Returns the training curve.

    Every draw is keyed by (seed, purpose, iteration), so a run that goes on from `keep` ends with the same bytes as
    one that was never stopped. Errors: `NumberError` where the loss is not finite (the state after the last good
    epoch stays in `keep`); `UserError` where `keep` belongs to another run.
    """
    if method.adversarial and run.threat is None:
        raise UserError(f"{run.where}: the method is adversarial, expected a threat such as Threat('8/255')")
    net.train()
    net.requires_grad_(True)
    net.beside.requires_grad_(False)
    if method.freezes:
        net.encoder.eval()
        net.encoder.requires_grad_(False)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimiser = method.training.optimiser.build(list(trained.values()))
    state = _State(net, optimiser, trained, run.keep, _identity(method, net, images, run))
    history = state.restore()
    for epoch in range(len(history), method.training.epochs):
        history.append(_epoch(method, net, images, run, optimiser, epoch))
        state.save(history)
        run.report(epoch + 1, method.training.epochs)
    net.eval()
    return history


def _epoch(method: Method, net: Net, images: Images, run: Run, optimiser: torch.optim.Optimizer, epoch: int) -> Epoch:
    training, device = method.training, images.pixels.device
    parts = _batches(len(images), training.batch, run.seed, epoch)
    sums: dict[str, Tensor] = {}
    first_bad = torch.full((), -1, device=device)
    for number, rows in enumerate(parts):
        rate = training.schedule.lr(training.optimiser.lr, epoch, number, len(parts), training.epochs)
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = rows.to(device)
        batch = Batch(
            images=images.floats(rows),
            labels=images.labels[rows],
            threat=run.threat,
            seed=run.seed,
            epoch=epoch,
            epochs=training.epochs,
            iteration=epoch * len(parts) + number,
            pseudo={k: labels.to(device)[rows] for k, labels in run.pseudo.items()},
        )
        terms = _step(method, net, batch, optimiser)
        for name, term in terms.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + term
        # No .item() per step: the first step that went wrong is remembered on the device and read once per epoch.
        good = torch.isfinite(torch.stack(list(terms.values())).sum())
        first_bad = torch.where(good | (first_bad >= 0), first_bad, torch.full_like(first_bad, number))
    kept = f"the state after epoch {epoch} is kept" if epoch else "nothing was kept yet"
    if int(first_bad) >= 0:
        raise NumberError(
            f"{run.where}: the loss is not finite in epoch {epoch + 1}, step {int(first_bad) + 1} of {len(parts)}, "
            f"expected a number (terms: {', '.join(sums)}); stopped, {kept}"
        )
    if not all(torch.isfinite(tensor).all() for tensor in net.state_dict().values()):
        raise NumberError(f"{run.where}: weights are not finite after epoch {epoch + 1}; stopped, {kept}")
    means = {name: float(total) / len(parts) for name, total in sums.items()}
    return {"epoch": epoch + 1, "lr": rate, "loss": sum(means.values()), **means}


def _step(method: Method, net: Net, batch: Batch, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    device = batch.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=method.training.precision == "bfloat16"):
        views = method.adversary(net, method.views(batch), batch)
        terms = method.loss(net, views, batch)
    optimiser.zero_grad(set_to_none=True)
    total: Tensor = torch.stack(list(terms.values())).sum()
    total.backward()
    if isinstance(method, Prepared):
        method.before_step(net, batch)
    optimiser.step()
    return {name: term.detach() for name, term in terms.items()}


def _batches(n: int, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Rows of one epoch in the order of its own key; a single last image joins the batch before it."""
    parts = list(torch.randperm(n, generator=generator(seed, "order", epoch)).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _identity(method: Method, net: Net, images: Images, run: Run) -> str:
    labels = {str(k): digest(part.tolist()) for k, part in run.pseudo.items()}
    threat = plain(run.threat) if run.threat else None
    start = [[name, list(tensor.shape)] for name, tensor in net.state_dict().items()]
    return digest([identity(method), images.fingerprint, threat, run.seed, labels, start])


class _State:
    """The state after the last whole epoch, on disk: weights, momentum buffers and the curve."""

    def __init__(
        self,
        net: Net,
        optimiser: torch.optim.Optimizer,
        trained: Mapping[str, torch.nn.Parameter],
        keep: Path | None,
        identity: str,
    ) -> None:
        self.net, self.optimiser, self.trained, self.keep, self.identity = net, optimiser, trained, keep, identity

    def save(self, history: list[Epoch]) -> None:
        if self.keep is None:
            return
        tensors = {f"net/{name}": tensor for name, tensor in self.net.state_dict().items()}
        tensors |= {f"optimiser/{entry}/{name}": tensor for name, entry, tensor in self._buffers()}
        checkpoint.write(self.keep, "training", {"identity": self.identity, "history": json.dumps(history)}, tensors)

    def restore(self) -> list[Epoch]:
        if self.keep is None or not self.keep.exists():
            return []
        found = checkpoint.read(self.keep)
        if found.kind != "training" or found.description["identity"] != self.identity:
            raise UserError(f"{self.keep}: the kept state of another run, expected this one; remove it to start anew")
        checkpoint.match(self.net, _below(found.tensors, "net/"), str(self.keep))
        for key, tensor in _below(found.tensors, "optimiser/").items():
            entry, _, name = key.partition("/")
            self.optimiser.state[self.trained[name]][entry] = tensor.to(self.trained[name].device)
        history: list[Epoch] = json.loads(found.description["history"])
        return history

    def _buffers(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, parameter in self.trained.items():
            for entry, held in self.optimiser.state.get(parameter, {}).items():
                if isinstance(held, Tensor):
                    yield name, entry, held


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): held for name, held in tensors.items() if name.startswith(prefix)}
