"""Semi-supervised adversarial finetuning (ACL, Jiang et al., NeurIPS 2020): labels of some images, answers for all."""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.scheme import Choice, Scheme, classes
from robustcl.bench.schemes.labelled import Labelled
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import kl
from robustcl.pretraining.method import Batch, Facts, Net, Targets, Training, Views
from robustcl.pretraining.optim import Optimiser, Steps
from robustcl.pretraining.views import RecipeField, apply, recipe

# The batch is not told; it is the one of ACL's other finetuning.
LABELLER = Labelled(
    trains="all",
    training=Training(
        epochs=100,
        batch=128,
        optimiser=Optimiser(lr=0.1, weight_decay=2e-4),
        schedule=Steps(milestones=(40, 60), factor=0.1),
    ),
)
# 2 and 198 images per step at 1 %; at 10 % the batch is 250, 25 and 225.
TRAINING = Training(
    epochs=15,
    batch=200,
    optimiser=Optimiser(lr=0.1, weight_decay=5e-4),
    schedule=Steps(milestones=(5, 10), factor=0.1),
)


@value
class Semi(Scheme):
    """TRADES with cross-entropies on adversarial images: their labels where known, the labeller's answers on all.

    A `share` of the images has labels. The `labeller` is finetuned on those by the route `normal`, where the encoder
    has one, and answers once for all images as they are. With N images in a batch, of which l have labels and u have
    none, and soft targets q at the temperature T, all logits of the first three terms adversarial:
    `(1/N) [(1 - a) sum_l CE(y) + a T^2 sum_l H(q) + T^2 sum_u H(q)] + beta/N sum KL(clean || adversarial)`,
    a the weight of `soft`. The attack climbs the cross-entropy on y, and on the most probable class where y is unknown.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Jiang et al., NeurIPS 2020"
    cite: ClassVar[str] = "jiang2020acl"

    training: Training = TRAINING
    selection: tuple[Choice, ...] = ("best_val",)
    share: float = Field(default=0.01, gt=0, lt=1)
    labeller: Labelled = LABELLER
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4")
    soft: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=6.0, ge=0)

    @model_validator(mode="after")
    def _answers(self) -> "Semi":
        if self.labeller.held or self.labeller.begins != "zero":
            raise ValueError("labeller: chooses an epoch or begins as SLF, expected its last epoch and a new head")
        return self

    @property
    def facts(self) -> Facts:
        units = 2 * self.ascent.steps + 2 * 3
        return Facts(units=units, perturbs="x", maximises="CE(x + d, y or q)", supervision="labels")

    @property
    def words(self) -> str:
        return f"trains all on trades with {100 * self.share:g} % of the labels"

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return classes(width, targets)

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        labels = torch.where(batch.some.known, batch.labels, batch.some.logits.argmax(1))

        def objective(x: Tensor) -> Tensor:
            return F.cross_entropy(net(x, "classes"), labels)

        found = self.ascent(objective, views["clean"], batch.ball, net, batch.draws("adversary"))
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        clean, attacked = net(views["clean"], "classes"), net(views["adversarial"], "classes")
        known, t = batch.some.known.to(attacked.dtype), self.temperature
        hard = F.cross_entropy(attacked, batch.labels, reduction="none")
        targets = (batch.some.logits.to(attacked.dtype) / t).softmax(1)
        soft = t**2 * F.cross_entropy(attacked / t, targets, reduction="none")
        weights = torch.where(batch.some.known, self.soft, 1.0)
        return {
            "hard": ((1 - self.soft) * known * hard).mean(),
            "soft": (weights * soft).mean(),
            "divergence": self.beta * kl(clean, attacked),
        }
