"""The only owner of what a method is: `Method`, the paper as a value, with the `Batch` and the `Net` it works on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.plugin import find, name_of
from robustcl.models.seeding import BatchDraws, derive, generator
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read, value
from robustcl.pretraining.optim import Cosine, Optimiser, Schedule

PACKAGE = "robustcl.pretraining.methods"
Views = dict[str, Tensor]


@value
class Training:
    """How long and how a method is optimised. `batch` counts images, not views; the last short batch is kept."""

    epochs: int = Field(default=100, ge=0)
    batch: int = Field(default=512, ge=2)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Cosine()
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images and everything that is drawn or given for it."""

    images: Tensor  # (n, channels, height, width) float32 in [0, 1]
    labels: Tensor  # (n,) int64; read by supervised methods and schemes alone
    threat: Threat | None
    seed: int
    epoch: int  # from 0
    epochs: int
    iteration: int  # of the whole run, from 0
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)  # K -> (n,) int64

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of this iteration for one purpose, on the device of the images."""
        return generator(self.seed, purpose, self.iteration, device=self.images.device)

    def draws(self, purpose: str) -> BatchDraws:
        """The draws of an ascent in this iteration."""
        return BatchDraws(self.generator(purpose))

    @property
    def ball(self) -> Threat:
        """The threat of an adversarial method."""
        assert self.threat is not None
        return self.threat


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What heads may be needed for: the number of classes, and the pseudo-labels by their K."""

    classes: int
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)


class Net(nn.Module):
    """An encoder with the heads that its method trains beside it."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, nn.ModuleDict(heads)

    def forward(self, images: Tensor, head: str, route: str | None = None) -> Tensor:
        """What `head` answers on the features of `images` by way of `route`: (n, size of the head)."""
        out: Tensor = self.heads[head](self.encoder(images, route))
        return out


@value
class Method(ABC):
    """A pretraining method: its hyper-parameters are fields; one file per method in `pretraining/methods`.

    `version` is raised when a change moves numbers: it is part of every key.
    """

    version: ClassVar[int]
    source: ClassVar[str]  # paper, venue and year
    routes: ClassVar[tuple[str, ...]]

    training: Training = Training()

    @property
    @abstractmethod
    def deploy(self) -> str:
        """The route that is finetuned and judged."""

    @property
    @abstractmethod
    def adversarial(self) -> bool:
        """Whether it climbs within a threat."""

    @property
    @abstractmethod
    def supervision(self) -> Literal["none", "labels", "pseudo"]:
        """Which labels it reads: no, the true ones, or those of a clustering."""

    @property
    @abstractmethod
    def freezes(self) -> bool:
        """Whether the encoder stays as it is, statistics included, and the heads alone are trained."""

    @property
    @abstractmethod
    def units(self) -> float:
        """Forward-equivalents per image and epoch: a forward or an input gradient is 1, a full backward 2."""

    @abstractmethod
    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        """The heads on `width` features."""

    @abstractmethod
    def views(self, batch: Batch) -> Views:
        """The named images, (n, channels, height, width) each, that the step works on."""

    @abstractmethod
    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        """The views with what the inner maximisation found and what it need not compute twice."""

    @abstractmethod
    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Named terms; the loop minimises their sum."""

    @abstractmethod
    def after_step(self, net: Net, batch: Batch) -> None:
        """What follows the optimiser's step, such as a momentum copy."""


def read_method(table: Mapping[str, Any], where: str) -> Method:
    """The method that a table `{method = "advcl", ...}` describes; what it leaves out stays as published."""
    if "method" not in table:
        raise UserError(f"{where}: missing key 'method', expected the name of a pretraining method")
    fields = {key: entry for key, entry in table.items() if key != "method"}
    return read(find(PACKAGE, "method", table["method"], Method, where), fields, where)


def identity(method: Method) -> dict[str, Any]:
    """What tells this method from another in a key: its name, version and fields."""
    return {"name": name_of(method), "version": method.version, **plain(method)}


def build_net(method: Method, encoder: Encoder, targets: Targets, seed: int) -> Net:
    """The encoder with freshly initialised heads, seeded before they are made."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "heads"))
        return Net(encoder, method.heads(encoder.width, targets))
