"""DeACL (Zhang et al., ECCV 2022): a robust student of a standard self-supervised teacher."""

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.encoder import Encoder
from robustcl.models.routing import adopt, batch_norm_mode
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import precise
from robustcl.pretraining.method import Batch, Facts, Method, Net, Prepared, Targets, Training, Views
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import RecipeField, apply, recipe

RECIPE = Training(
    epochs=100,
    batch=256,
    optimiser=Optimiser(name="sgd", lr=0.5, momentum=0.9, weight_decay=5e-4),
    # Released: the rate climbs by epochs, in ninths, and is full in epochs 9 and 10; here in tenths.
    schedule=Cosine(warmup=10, warmup_from=0.003, warmup_per="epoch", decay="rest"),
)


@value
class DeACL(Method, Prepared):
    """-cos(student(x), teacher(x)) - `robust` cos(student(x + d), student(x)); no projector.

    The teacher is the encoder of another entry of the suite (official: SimCLR), frozen; the student begins as the
    teacher unless `from_teacher` is false. The encoder keeps its own stem: the official one pads the first convolution
    by 2, which moves every map by a pixel.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Zhang et al., ECCV 2022"
    cite: ClassVar[str] = "zhang2022deacl"

    training: Training = RECIPE
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=5, step="eps/4")
    robust: float = Field(default=2.0, ge=0)
    from_teacher: bool = True

    @property
    def facts(self) -> Facts:
        # The official monitor, a linear classifier on detached features, is the loop's `monitor` here and not counted.
        return Facts(
            units=1 + 2 * self.ascent.steps + 2 * 3,
            perturbs="x",
            maximises="-cos(student(x + d), teacher(x))",
            needs=("teacher",),
            begins_as="teacher" if self.from_teacher else "",
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {}

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        if self.from_teacher:
            adopt(net.encoder, given["teacher"])
        return {"teacher": copy.deepcopy(given["teacher"])}

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        teacher = net.beside["teacher"]
        with torch.no_grad(), batch_norm_mode(teacher, False):
            target = teacher(views["clean"])
        found = self.ascent(
            lambda x: -cosine(net.encoder(x), target), views["clean"], batch.ball, net, batch.draws("adversary")
        )
        return views | {"target": target, "adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        # One forward: clean and adversarial images share the statistics of one batch. Both sides of the second term
        # carry a gradient, as released.
        clean, adversarial = net.encoder(torch.cat([views["clean"], views["adversarial"]])).chunk(2)
        return {"distil": -cosine(clean, views["target"]), "robust": -self.robust * cosine(adversarial, clean)}

    def before_step(self, net: Net, batch: Batch) -> None:
        pass


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """The mean cosine between the rows of two (n, width) tensors."""
    return F.cosine_similarity(precise(one), precise(other), dim=1).mean()
