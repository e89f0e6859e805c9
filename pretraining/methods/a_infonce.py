"""A-InfoNCE (Yu et al., ECCV 2022): asymmetric contrast by inferior positives and hard negatives, on AdvCL or RoCL."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from torch import Tensor, nn

from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError, unknown
from robustcl.models.plugin import name_of
from robustcl.models.value import plain, read, value
from robustcl.pretraining.losses import Hard, directed, precise
from robustcl.pretraining.method import Batch, Facts, Method, Net, Prepared, Targets, Training, Views
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.rocl import RECIPE as ROCL
from robustcl.pretraining.methods.rocl import RoCL
from robustcl.pretraining.optim import Cosine, Optimiser

BASES: dict[str, type[AdvCL | RoCL]] = {"advcl": AdvCL, "rocl": RoCL}


def _read(given: Any) -> Any:
    """A table `{name = "rocl", ...}` as the base of that name."""
    if not isinstance(given, Mapping):
        return given
    try:
        name = str(given.get("name", "advcl"))
        if name not in BASES:
            raise unknown("base", "name", name, BASES)
        return read(BASES[name], {key: entry for key, entry in given.items() if key != "name"}, "base")
    except UserError as error:  # the reader of the file says where
        raise ValueError(str(error).removeprefix("base: ")) from None


def _written(base: AdvCL | RoCL) -> dict[str, Any]:
    """The base as a table; it is trained by the recipe of the whole, so its own is left out."""
    fields = plain(base)
    del fields["training"]
    return {"name": name_of(base), **fields}


Base = Annotated[AdvCL | RoCL, BeforeValidator(_read), PlainSerializer(_written)]


def _sgd(lr: float) -> Training:
    """AdvCL's recipe over 400 epochs at another rate."""
    schedule = Cosine(floor=lr * 0.001, warmup=10, warmup_from=0.01, per="epoch", shift=1)
    return Training(epochs=400, optimiser=Optimiser(lr=lr, momentum=0.9, weight_decay=1e-4), schedule=schedule)


def _lars(lr: float) -> Mapping[str, Any]:
    """RoCL's recipe at another rate: warmed up from it to 15 times as much."""
    training = plain(ROCL)
    training["optimiser"]["lr"], training["schedule"]["warmup_from"] = 15 * lr, lr
    return {"base": {"name": "rocl"}, "training": training, "weight": 1.0, "adapt": 0}


class Distance(nn.Module):
    """The running mean of the distance between clean and adversarial features: sum and count."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))


@value
class AInfoNCE(Method, Prepared):
    """AdvCL or RoCL with `inferior` positives (IP), `hard` negatives (HN), or both (IPHN).

    IP: the terms between a clean and an adversarial view are one-sided, the other side a constant: `weight` times
    [a l(clean -> adversarial) + (1 - a) l(adversarial -> clean)], so that a = 0 never pulls clean features to
    adversarial ones. On AdvCL a is `pull` for the first `adapt` epochs, while the mean distance of both features is
    collected, and follows the distance of the batch after them, up to 0.5 at `nearest`; on RoCL it stays at `pull`.
    The attack climbs the plain loss of the base (`attack = "plain"`) or the one with hard negatives; never IP's.

    `form` is `corrected`, or `official` with the slips of the released code: those of `Hard` (on RoCL its bound is
    right), and on AdvCL, without IP and in the attack, the term clean -> adversarial overwritten by adversarial ->
    clean and both weighed by the square of `weight`, which makes even the plain form another loss than AdvCL's.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Yu et al., ECCV 2022"
    cite: ClassVar[str] = "yu2022ainfonce"
    # The released settings for CIFAR-10.
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hn": {"inferior": False, "hard": True, "weight": 1.0, "training": plain(_sgd(1.2))},
        "iphn": {"hard": True, "weight": 0.7, "tau": 0.1, "training": plain(_sgd(2.0))},
        "rocl-ip": _lars(0.1),
        "rocl-hn": {**_lars(0.2), "inferior": False, "hard": True},
        "rocl-iphn": {**_lars(0.3), "hard": True},
        "official": {"inferior": False, "form": "official", "weight": 1.0, "training": plain(_sgd(0.5))},
        "official-hn": {
            "inferior": False,
            "hard": True,
            "form": "official",
            "weight": 1.0,
            "training": plain(_sgd(1.2)),
        },
    }

    training: Training = Field(default_factory=lambda: _sgd(1.0))
    base: Base = Field(default_factory=AdvCL)
    inferior: bool = True
    hard: bool = False
    pull: float = Field(default=0.2, ge=0, le=1)
    weight: float = Field(default=1.2, ge=0)
    adapt: int = Field(default=30, ge=0)
    nearest: float = Field(default=0.4, ge=0)
    beta: float = Field(default=1.0, ge=0)
    tau: float = Field(default=0.12, ge=0, lt=1)
    attack: Literal["plain", "hard"] = "plain"
    form: Literal["corrected", "official"] = "corrected"

    @model_validator(mode="after")
    def _possible(self) -> "AInfoNCE":
        if isinstance(self.base, AdvCL) and (len(self.base.attacked) != 1 or not self.base.clean):
            raise ValueError("base: contrasted has not one perturbed view and clean ones, expected those of AdvCL")
        if self.attack == "hard" and not self.hard:
            raise ValueError("attack is 'hard' without hard negatives, expected hard = true or attack = 'plain'")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether the pull follows the distance of the features: two more forwards per step."""
        return self.inferior and isinstance(self.base, AdvCL) and self.adapt > 0

    @property
    def facts(self) -> Facts:
        base = self.base.facts
        return Facts(
            units=base.units + 2 * self.adaptive,
            routes=base.routes,
            deploy=base.deploy,
            perturbs=base.perturbs,
            maximises=base.maximises,
            supervision=base.supervision,
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return self.base.heads(width, targets)

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        return {"distance": Distance()} if self.adaptive else {}

    def views(self, batch: Batch) -> Views:
        return self.base.views(batch)

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        hard = self._hard if self.attack == "hard" else None
        mirrored = self.form == "official" and isinstance(self.base, AdvCL)

        def contrast(z: Sequence[Tensor]) -> Tensor:
            terms = self._directed(z, hard)
            return (self._mirrored(terms) if mirrored else terms).sum()

        return self.base.attack(net, views, batch, contrast)

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        if isinstance(self.base, RoCL):
            three, two = self.base.project(net, views)
            # The six directions over 3 n rows lean and harden; the small second term stays RoCL's, as released.
            return {
                "contrast": self._leaning(self._directed(three, self._hard)).sum() / 3,
                "adversarial": self._directed(two, None).sum() / 2 / self.base.divisor,
            }
        z = self.base.projections(net, views)
        terms, m = self._directed(z, self._hard), len(z)
        if self.inferior:
            pull = self._pull(net, views, batch) if self.adaptive else self.pull
            one_sided = directed(z, self.base.temperature, detach=True, hard=self._hard)
            blended = pull * one_sided[1:, 0] + (1 - pull) * one_sided[0, 1:]
            total = terms[1:, 1:].sum() + 2 * self.weight * blended.sum()
        else:
            total = (self._mirrored(terms) if self.form == "official" else terms).sum()
        return {"contrast": self.base.scale * total / (m * (m - 1))} | self.base.pseudo(net, views, batch)

    @property
    def _hard(self) -> Hard | None:
        slips = self.form == "official"
        bound = slips and isinstance(self.base, AdvCL)
        return Hard(beta=self.beta, tau=self.tau, across=slips, unshifted=bound) if self.hard else None

    def _directed(self, z: Sequence[Tensor], hard: Hard | None) -> Tensor:
        detach = isinstance(self.base, RoCL) and self.base.detach_second_factor
        return directed(z, self.base.temperature, detach=detach, hard=hard)

    def _mirrored(self, terms: Tensor) -> Tensor:
        """The adversarial view is first: its column (clean -> adversarial) is overwritten by its row, counted twice.

        In the released code both are one memory, so that the weight of either falls on both.
        """
        row = self.weight**2 * terms[:1]
        return torch.cat([row, torch.cat([row[:, 1:].T, terms[1:, 1:]], dim=1)])

    def _leaning(self, terms: Tensor) -> Tensor:
        """RoCL's IP: clean -> adversarial weighs `pull`, adversarial -> clean the rest; the adversarial is first."""
        if not self.inferior:
            return terms
        weights = torch.ones_like(terms)
        weights[1:, 0], weights[0, 1:] = self.pull, 1 - self.pull
        return weights * terms

    def _pull(self, net: Net, views: Views, batch: Batch) -> Tensor:
        """The pull of this batch: `pull` where its features lie far apart, 0.5 where they lie near."""
        distance, seen = net.beside["distance"], ("origin", "x_cl")
        assert isinstance(distance, Distance)
        with torch.no_grad():  # in train mode and on route `normal`, as released
            clean, attacked = (precise(net.encoder(views[name], "normal")) for name in seen)
            now = (clean - attacked).norm(dim=1).mean()
            if batch.epoch < self.adapt:
                distance.total += now
                distance.count += 1
                return torch.full_like(now, self.pull)
            usual = distance.total / distance.count
            near = (usual - now) / (usual - self.nearest).clamp(min=1e-12)
            pull = self.pull + (0.5 - self.pull) * near
            return torch.where(now > usual, self.pull, torch.where(now < self.nearest, 0.5, pull))

    def before_step(self, net: Net, batch: Batch) -> None:
        pass
