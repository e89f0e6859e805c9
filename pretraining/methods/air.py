"""ACL-AIR (Xu et al., NeurIPS 2023): ACL with standard and adversarial invariant regularisation."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.heads import projector
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import nt_xent, precise
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
from robustcl.pretraining.methods.acl import pair
from robustcl.pretraining.methods.dynacl import strength, weight
from robustcl.pretraining.methods.simclr import RECIPE
from robustcl.pretraining.views import RecipeField, apply, recipe, weakened

Regulariser = Literal["official", "divergence"]


@value
class AIR(Method):
    """(1 - w) NT-Xent(clean) + (1 + w) NT-Xent(adversarial) + `standard` SIR + `adversarial_weight` AIR.

    The contrastive terms are not halved, as in the released code: twice ACL's. `regulariser` is `official`, what the
    released code computes: its divergence expects log-probabilities and is given probabilities, which makes SIR about
    minus an entropy and AIR almost nothing; or `divergence`, what the paper means. `dynamic` is the form on DynACL's
    schedules (`w` above 0, augmentations that weaken), without its momentum copy.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Xu et al., NeurIPS 2023"
    cite: ClassVar[str] = "xu2023air"
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "divergence": {"regulariser": "divergence"},
        "dynamic": {"dynamic": True},
    }

    training: Training = RECIPE
    regulariser: Regulariser = "official"
    strong: RecipeField = recipe("acl")
    ascent: Ascent = Ascent(steps=5, step="eps/4")
    temperature: float = Field(default=0.5, gt=0)
    hidden: int = Field(default=512, gt=0)
    output: int = Field(default=512, gt=0)
    standard: float = Field(default=0.5, ge=0)
    adversarial_weight: float = Field(default=0.5, ge=0)
    dynamic: bool = False
    every: int = Field(default=50, ge=1)
    growth: float = Field(default=2 / 3, ge=0)

    @property
    def facts(self) -> Facts:
        return Facts(
            units=4 * self.ascent.steps + 5 * 3,
            routes=("normal", "pgd"),
            deploy="pgd",
            perturbs="t1 and t2",
            maximises="NT-Xent(t1 + d1, t2 + d2)",
            branched=True,
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"projector": projector(width, self.hidden, self.output, 3, "all")}

    def views(self, batch: Batch) -> Views:
        s = strength(batch.epoch + 1, batch.epochs, self.every) if self.dynamic else 1.0
        g, recipe = batch.draws("views"), weakened(self.strong, s)
        views = {"x1": apply(recipe, batch.images, g), "x2": apply(recipe, batch.images, g)}
        return views | {"origin": batch.images}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        both = torch.cat([views["x1"], views["x2"]])
        found = self.ascent(
            lambda x: nt_xent(pair(net, x, "pgd"), self.temperature), both, batch.ball, net, batch.draws("adversary")
        )
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        t, w = self.temperature, 0.0
        if self.dynamic:
            w = weight(batch.epoch + 1, batch.epochs, self.every, self.growth, offset=False) - 1
        adversarial = pair(net, views["adversarial"], "pgd")
        clean = pair(net, torch.cat([views["x1"], views["x2"]]), "normal")
        origin = net(views["origin"], "projector", "normal")
        # Over the images of the batch: how like each view is to its own unaugmented image.
        q = [diagonal(z, origin, t) for z in clean]
        a = [diagonal(x, z, t) + diagonal(x, origin, t) for x, z in zip(adversarial, clean, strict=True)]
        return {
            "clean": (1 - w) * nt_xent(clean, t),
            "adversarial": (1 + w) * nt_xent(adversarial, t),
            "sir": self.standard * divergence(q[0], q[1], self.regulariser),
            "air": self.adversarial_weight * divergence(a[0], a[1], self.regulariser),
        }


def diagonal(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """(n,) logarithms of the softmax over the n images of the similarity of an image's two projections."""
    return F.log_softmax(F.cosine_similarity(precise(one), precise(other), dim=1) / temperature, dim=0)


def divergence(log_first: Tensor, log_second: Tensor, regulariser: Regulariser) -> Tensor:
    """`sum_b q_b (log q_b - log p_b)` from p, the first, to q, the second; `official` has p_b where log p_b belongs."""
    against = log_first.exp() if regulariser == "official" else log_first
    return (log_second.exp() * (log_second - against)).sum()
