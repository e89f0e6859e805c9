"""The only owner of what a method is: `Method`, the paper as a value, with the `Batch` and the `Net` it works on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError, unknown
from robustcl.models.plugin import find, name_of, names
from robustcl.models.routing import branch
from robustcl.models.seeding import BatchDraws, Draws, PartDraws, derive, generator
from robustcl.models.share import Share
from robustcl.models.threat import Threat
from robustcl.models.value import merge, plain, read, value
from robustcl.pretraining.coreset import Coreset
from robustcl.pretraining.images import Images
from robustcl.pretraining.monitor import Monitor
from robustcl.pretraining.optim import Cosine, Optimiser, Schedule
from robustcl.pretraining.partial import Partial

PACKAGE = "robustcl.pretraining.methods"
Views = dict[str, Tensor]


@value
class Training:
    """How long and how a method is optimised. `batch` counts images, not views; the last short batch is kept.

    `snapshots` are the epochs (from 1) after which the encoder is handed out. A `monitor` watches on training images
    that it holds out; a `coreset` trains an adversarial method on chosen batches alone. Batch norms take the statistics
    of `groups` parts of each batch, as several devices do that do not synchronise them; 1 is the whole batch, on one
    device or on several.
    """

    epochs: int = Field(default=100, ge=0)
    batch: int = Field(default=512, ge=2)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Cosine()
    precision: Literal["float32", "bfloat16"] = "float32"
    snapshots: tuple[PositiveInt, ...] = ()
    monitor: Monitor | None = None
    coreset: Coreset | None = None
    groups: int = Field(default=1, ge=1)

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """One group goes unsaid, as before there were any: keys stay."""
        return {name: held for name, held in write(self).items() if (name, held) != ("groups", 1)}

    @model_validator(mode="after")
    def _reached(self) -> "Training":
        beyond = [epoch for epoch in self.snapshots if epoch > self.epochs]
        if beyond:
            raise ValueError(f"snapshots: {beyond[0]}, expected epochs from 1 to {self.epochs}")
        return self


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images and everything that is drawn or given for it.

    Where several processes share the batch, the images are the part of this one and all else is of the whole batch, as
    is what the network answers: a loss reads the same wherever it is computed.
    """

    images: Tensor  # (n, channels, height, width) float32 in [0, 1]
    labels: Tensor  # (n,) int64; read by supervised methods and schemes alone
    threat: Threat | None
    seed: int
    epoch: int  # from 0
    epochs: int
    iteration: int  # of the whole run, from 0
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)  # K -> (n,) int64
    partial: Partial | None = None
    share: Share | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of this iteration for one purpose, on the device of the images.

        What is drawn per image comes from `draws`, which know whose images these are. Errors: `UserError` for several
        processes, of which each would draw as if its images were the first ones.
        """
        if self.share is not None and self.share.world > 1:
            raise UserError(f"the method draws its {purpose} for a whole batch, expected one process")
        return generator(self.seed, purpose, self.iteration, device=self.images.device)

    def draws(self, purpose: str) -> Draws:
        """Numbers per image in this iteration for one purpose: for views and ascents."""
        whole = BatchDraws(generator(self.seed, purpose, self.iteration, device=self.images.device))
        return whole if self.share is None else PartDraws(whole, self.share)

    @property
    def ball(self) -> Threat:
        """The threat of an adversarial method."""
        assert self.threat is not None
        return self.threat

    @property
    def some(self) -> Partial:
        """Which images have labels, for a scheme that reads some alone."""
        assert self.partial is not None
        return self.partial


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What heads may be needed for: the number of classes, and the pseudo-labels by their K."""

    classes: int
    pseudo: Mapping[int, Tensor] = field(default_factory=dict)


class Net(nn.Module):
    """An encoder with the heads that its method trains, and `beside` them what it does not train.

    Beside lie, for example, a frozen teacher, a momentum copy (a `Net` of its own) or a running mean: no gradient
    reaches them, and they are part of the state that a run goes on from.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.heads, self.beside = encoder, nn.ModuleDict(heads), nn.ModuleDict()

    def forward(self, images: Tensor, head: str, route: str | None = None) -> Tensor:
        """What `head` answers on the features of `images` by way of `route`: (n, size of the head)."""
        return self.encoder.switch.answer(self.heads[head], self.encoder(images, route))

    def deployed(self, network: str) -> Encoder:
        """The encoder that a method deploys: the trained one, or that of a network beside it."""
        found = self if network == "trained" else self.beside[network]
        assert isinstance(found, Net)
        return found.encoder


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What holds of one method with the fields it has.

    `units` are forward-equivalents per image and epoch (a forward or an input gradient is 1, a full backward 2).
    `routes` are those that it trains: a batch norm has a branch for each, in this order. `deploy` and `network` are the
    route and the network that is finetuned and judged. `perturbs` and `maximises` say in words what the inner
    maximisation does; a method without them is not adversarial and needs no threat. `supervision` is which labels it
    reads: none, the true ones, or those of a clustering. With `freezes` the encoder stays as it is, statistics
    included, and the heads alone are trained. With `branched` the heads' batch norms have a branch per route too.
    `needs` are the encoders that it is given, `begins_as` the one of them whose weights it begins with, if any.
    `whole` is why the method needs every batch whole: it is refused by several processes and by `groups`.
    """

    units: float
    routes: tuple[str, ...] = ("normal",)
    deploy: str = "normal"
    network: str = "trained"
    perturbs: str = ""
    maximises: str = ""
    supervision: Literal["none", "labels", "pseudo"] = "none"
    freezes: bool = False
    branched: bool = False
    needs: tuple[str, ...] = ()
    begins_as: str = ""
    whole: str = ""


@value
class Method(ABC):
    """A pretraining method: its hyper-parameters are fields; one file per method in `pretraining/methods`.

    `version` is raised when a change moves numbers: it is part of every key. `cite` is its key in the BibTeX file of
    the reports. `arms` are named settings, fields by name, that a paper tells apart.
    """

    version: ClassVar[int]
    source: ClassVar[str]  # paper, venue and year
    cite: ClassVar[str]
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    training: Training = Training()

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What holds of it: deployed route, labels, cost."""

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

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes that it trains."""
        return self.facts.routes

    @property
    def deploy(self) -> str:
        """The route that is finetuned and judged."""
        return self.facts.deploy

    @property
    def adversarial(self) -> bool:
        """Whether it climbs within a threat."""
        return bool(self.facts.perturbs)

    @property
    def supervision(self) -> Literal["none", "labels", "pseudo"]:
        """Which labels it reads: none, the true ones, or those of a clustering."""
        return self.facts.supervision

    @property
    def freezes(self) -> bool:
        """Whether the heads alone are trained."""
        return self.facts.freezes

    @property
    def units(self) -> float:
        """Forward-equivalents per image and epoch."""
        return self.facts.units


class Prepared(ABC):
    """What a method is as well that needs more than an encoder and heads."""

    @abstractmethod
    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        """What lies beside the trained network; weights that are drawn come from the seed of the heads.

        `given` are the encoders of `facts.needs`, on one route each.
        """

    @abstractmethod
    def before_step(self, net: Net, batch: Batch) -> None:
        """What happens between the gradient and the optimiser's step, such as moving a momentum copy."""


class Surveying(ABC):
    """What a method is as well that looks at all of its training images now and then."""

    @abstractmethod
    def survey(self, net: Net, images: Images, batch: Batch, step: int, steps: int) -> None:
        """What happens before `step` (from 0) of an epoch's `steps`; what it finds has to lie beside the net."""


def read_method(table: Mapping[str, Any], where: str) -> Method:
    """The method that a table `{method = "advcl", ...}` describes; what it leaves out stays as published.

    `arm` is one of the method's named settings; other keys of the table go before it.
    """
    if "method" not in table:
        raise UserError(f"{where}: missing key 'method', expected the name of a pretraining method")
    found = find(PACKAGE, "method", table["method"], Method, where)
    fields = {key: entry for key, entry in table.items() if key not in ("method", "arm")}
    arm = table.get("arm")
    if arm is not None and (not isinstance(arm, str) or arm not in found.arms):
        raise unknown(where, "arm", str(arm), found.arms)
    return read(found, merge(found.arms[arm], fields) if arm else fields, where)


def every() -> list[str]:
    """Every method, and every arm of one as `<method>/<arm>`."""
    known = {name: find(PACKAGE, "method", name, Method, "methods") for name in names(PACKAGE)}
    return [case for name, found in known.items() for case in (name, *(f"{name}/{arm}" for arm in found.arms))]


def named(case: str, table: Mapping[str, Any] | None = None) -> Method:
    """A method or an arm by its name in `every`, with the fields of `table`."""
    name, _, arm = case.partition("/")
    return read_method({"method": name, **({"arm": arm} if arm else {}), **(table or {})}, case)


def identity(method: Method) -> dict[str, Any]:
    """What tells this method from another in a key: its name, version and fields."""
    return {"name": name_of(method), "version": method.version, **plain(method)}


def build_net(
    method: Method, encoder: Encoder, targets: Targets, seed: int, given: Mapping[str, Encoder] | None = None
) -> Net:
    """The encoder with freshly initialised heads, seeded before they are made, and what lies beside them.

    Errors: `UserError` where an encoder that the method needs is not `given`.
    """
    missing = sorted(set(method.facts.needs) - set(given or {}))
    if missing:
        raise UserError(f"{name_of(method)}: needs an encoder as its {missing[0]}, expected one")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "heads"))
        net = Net(encoder, method.heads(encoder.width, targets))
        if method.facts.branched:
            branch(net.heads, encoder.switch)
        if isinstance(method, Prepared):
            net.beside.update(method.prepare(net, given or {}))
    return net
