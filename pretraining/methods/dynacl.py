"""DynACL (Luo et al., ICLR 2023): ACL with augmentations that weaken, a growing weight and a momentum copy."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.encoder import Encoder
from robustcl.models.heads import projector
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import nt_xent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Prepared, Targets, Training, Views
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import RecipeField, apply, recipe, weakened

# ACL's optimiser, but the rate changes by epoch: lr (e + 1) / 10 for ten epochs, then the cosine.
RECIPE = Training(
    epochs=1000,
    batch=512,
    optimiser=Optimiser(name="lars", lr=5.0, momentum=0.9, weight_decay=1e-6),
    schedule=Cosine(floor=1e-6, warmup=10, warmup_per="epoch", warmup_shift=1, decay="rest"),
)


def strength(epoch: int, epochs: int, every: int) -> float:
    """The strength of the augmentations in `epoch` (from 1): 1 - (e - 1) / E, renewed each `every` epochs."""
    return 1 - (epoch - 1) // every * every / epochs


def weight(epoch: int, epochs: int, every: int, growth: float, offset: bool) -> float:
    """The weight of the adversarial term in `epoch` (from 1): 1 + growth (1 - strength), at most 2.

    With `offset` it grows one epoch before the strength falls, as in the released code, which counts from 0 here and
    from 1 there; without, both follow one schedule.
    """
    begun = (epoch if offset else epoch - 1) // every
    return min(1 + begun * every / epochs * growth, 2)


@value
class DynACL(Method, Prepared):
    """[(2 - w) NT-Xent(clean pair) + w NT-Xent(adversarial pair)] / 2, one view through q and one through its copy k.

    k is an exponential moving average of q (`momentum`); no gradient reaches it, but the attack's input gradients pass
    through it. `annealed` false keeps the augmentations at full strength and `growth` 0 the weight at 1. What is
    deployed is k. `every` epochs is 50 of 1000 in the paper: scale it with the run.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Luo et al., ICLR 2023"
    cite: ClassVar[str] = "luo2023dynacl"
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fixed": {"annealed": False, "growth": 0},
        "trained": {"deployed": "trained"},
    }

    training: Training = RECIPE
    strong: RecipeField = recipe("dynacl")
    ascent: Ascent = Ascent(steps=5, step="eps/4")
    temperature: float = Field(default=0.5, gt=0)
    hidden: int = Field(default=512, gt=0)
    output: int = Field(default=512, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    annealed: bool = True
    every: int = Field(default=50, ge=1)
    growth: float = Field(default=2 / 3, ge=0)
    official_offset: bool = False
    deployed: Literal["momentum", "trained"] = "momentum"

    @property
    def facts(self) -> Facts:
        return Facts(
            units=4 * self.ascent.steps + 2 * 3 + 2,
            routes=("normal", "pgd"),
            deploy="pgd",
            network=self.deployed,
            perturbs="t1 and t2",
            maximises="NT-Xent(t1 + d1, t2 + d2)",
            branched=True,
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"projector": projector(width, self.hidden, self.output, 3, "all")}

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        return {"momentum": copy.deepcopy(net)}

    def views(self, batch: Batch) -> Views:
        s = strength(batch.epoch + 1, batch.epochs, self.every) if self.annealed else 1.0
        g, recipe = batch.draws("views"), weakened(self.strong, s)
        return {"x1": apply(recipe, batch.images, g), "x2": apply(recipe, batch.images, g)}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        def contrast(x: Tensor) -> Tensor:
            first, second = x.chunk(2)
            other = net.beside["momentum"](second, "projector", "pgd")
            return nt_xent([net(first, "projector", "pgd"), other], self.temperature)

        both = torch.cat([views["x1"], views["x2"]])
        return views | {"adversarial": self.ascent(contrast, both, batch.ball, net, batch.draws("adversary"))}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        w = weight(batch.epoch + 1, batch.epochs, self.every, self.growth, self.official_offset)
        first, second = views["adversarial"].chunk(2)
        return {
            "adversarial": w / 2 * nt_xent(self.pair(net, first, second, "pgd"), self.temperature),
            "clean": (2 - w) / 2 * nt_xent(self.pair(net, views["x1"], views["x2"], "normal"), self.temperature),
        }

    def pair(self, net: Net, first: Tensor, second: Tensor, route: str) -> list[Tensor]:
        """The projection of one view by q, and of the other by k, as a constant; k has statistics of its own."""
        with torch.no_grad():
            other = net.beside["momentum"](second, "projector", route)
        return [net(first, "projector", route), other]

    def before_step(self, net: Net, batch: Batch) -> None:
        # Between the forward passes and the optimiser's step, as released; parameters alone.
        slow = net.beside["momentum"]
        assert isinstance(slow, Net)
        with torch.no_grad():
            for module, follower in ((net.encoder, slow.encoder), (net.heads, slow.heads)):
                for p, k in zip(module.parameters(), follower.parameters(), strict=True):
                    k.lerp_(p, 1 - self.momentum)
