"""AutoLoRa (Xu et al., ICLR 2024): clean images by way of a low-rank bypass, adversarial ones through the backbone."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.scheme import Choice, Scheme, classes
from robustcl.models.bypass import Bypass
from robustcl.models.encoder import Encoder
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images
from robustcl.pretraining.losses import kl
from robustcl.pretraining.method import Batch, Facts, Net, Prepared, Surveying, Targets, Training, Views
from robustcl.pretraining.monitor import PIECE, unmoved
from robustcl.pretraining.optim import Automatic
from robustcl.pretraining.supervision import attack
from robustcl.pretraining.views import RecipeField, apply, recipe

QUARTERS = 4  # how often an epoch the clean accuracy is measured


@value
class AutoLoRa(Scheme, Prepared, Surveying):
    """(1 - A) CE(clean) + A CE(adversarial) + `beta` A KL(clean || adversarial), A the accuracy on clean images.

    Clean images pass the encoder with a bypass of `rank`, adversarial ones the encoder alone; the clean terms move
    bypass and head, the adversarial ones encoder and head. The statistics of the batch norms see both, as released
    without dual batch norms. A is measured on the augmented training images by way of the bypass, each quarter of an
    epoch. What is judged is the encoder without the bypass.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Xu et al., ICLR 2024"
    cite: ClassVar[str] = "xu2024autolora"

    training: Training = Training(epochs=50, batch=128, schedule=Automatic())
    selection: tuple[Choice, ...] = ("best_val",)
    rank: int = Field(default=8, ge=1)
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4", init="gaussian")
    beta: float = Field(default=6.0, ge=0)

    @property
    def facts(self) -> Facts:
        units = 2 * self.ascent.steps + 2 * 3 + QUARTERS
        return Facts(units=units, perturbs="x", maximises="CE(x + d, y)", supervision="labels")

    @property
    def words(self) -> str:
        return f"trains all on adversarial and a bypass of rank {self.rank} on clean"

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return classes(width, targets)

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        net.heads["bypass"] = Bypass(net.encoder, self.rank)
        return {"survey": Survey()}

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        found = attack("adversarial", lambda x: net(x, "classes"), views["clean"], self.ascent, net, batch)
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        right = natural(net)
        clean, attacked = by_bypass(net, views["clean"]), net(views["adversarial"], "classes")
        return {
            "clean": (1 - right) * F.cross_entropy(clean, batch.labels),
            "adversarial": right * F.cross_entropy(attacked, batch.labels),
            "divergence": self.beta * right * kl(clean, attacked),
        }

    def survey(self, net: Net, images: Images, batch: Batch, step: int, steps: int) -> None:
        # The released code counts in whole batches and may measure a fifth time at the end of an epoch.
        if step and step * QUARTERS // steps == (step - 1) * QUARTERS // steps:
            return
        right = torch.zeros((), device=images.pixels.device)
        source = batch.generator("survey")
        with torch.no_grad(), unmoved(net.encoder):
            for rows in torch.arange(len(images), device=images.pixels.device).split(PIECE):
                answers = by_bypass(net, apply(self.weak, images.floats(rows), source))
                right += (answers.argmax(1) == images.labels[rows]).sum()
        natural(net).fill_(right / len(images))

    def before_step(self, net: Net, batch: Batch) -> None:
        pass


class Survey(nn.Module):
    """The share of the training images that were answered rightly when they were last looked at."""

    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("right", torch.zeros(()))


def natural(net: Net) -> Tensor:
    """The accuracy that weighs the terms, in [0, 1]."""
    survey = net.beside["survey"]
    assert isinstance(survey, Survey)
    return survey.right


def by_bypass(net: Net, images: Tensor) -> Tensor:
    """The logits (n, classes) of clean images."""
    logits: Tensor = net.heads["classes"](net.heads["bypass"](net.encoder, images))
    return logits
