"""The only owner of the state after the last whole epoch, from which a run that was stopped goes on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcl.models import checkpoint
from robustcl.models.errors import UserError
from robustcl.models.share import processes
from robustcl.pretraining.method import Net
from robustcl.pretraining.selection import Epoch, Validation


class State:
    """The state on disk: weights, momentum buffers, the best weights so far, a coreset's rows and the curve."""

    def __init__(
        self,
        net: Net,
        optimiser: torch.optim.Optimizer,
        keep: Path | None,
        identity: str,
        validation: Validation | None = None,
    ) -> None:
        self.net, self.optimiser, self.keep, self.identity, self.validation = net, optimiser, keep, identity, validation
        self.trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.coreset: Tensor | None = None

    def save(self, history: list[Epoch]) -> None:
        """Keep the state; `history` has a row for every epoch that is over. Of several processes the first one does."""
        if self.keep is None or processes()[0]:
            return
        tensors = {f"net/{name}": tensor for name, tensor in self.net.state_dict().items()}
        tensors |= {f"optimiser/{entry}/{name}": tensor for name, entry, tensor in self._buffers()}
        tensors |= {
            f"best/{name}": tensor for name, tensor in (self.validation.best if self.validation else {}).items()
        }
        tensors |= {} if self.coreset is None else {"coreset": self.coreset}
        checkpoint.write(self.keep, "training", {"identity": self.identity, "history": json.dumps(history)}, tensors)

    def restore(self) -> list[Epoch]:
        """Go on from what was kept, if anything; the curve so far. Errors: `UserError` for the state of another run."""
        if self.keep is None or not self.keep.exists():
            return []
        found = checkpoint.read(self.keep)
        if found.kind != "training" or found.description["identity"] != self.identity:
            raise UserError(f"{self.keep}: the kept state of another run, expected this one; remove it to start anew")
        checkpoint.match(self.net, _below(found.tensors, "net/"), str(self.keep))
        for key, tensor in _below(found.tensors, "optimiser/").items():
            entry, _, name = key.partition("/")
            self.optimiser.state[self.trained[name]][entry] = torch.empty_like(self.trained[name]).copy_(tensor)
        if self.validation is not None:
            self.validation.best = _below(found.tensors, "best/")
        self.coreset = found.tensors.get("coreset")
        history: list[Epoch] = json.loads(found.description["history"])
        return history

    def _buffers(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, parameter in self.trained.items():
            for entry, held in self.optimiser.state.get(parameter, {}).items():
                if isinstance(held, Tensor):
                    yield name, entry, held


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): held for name, held in tensors.items() if name.startswith(prefix)}
