"""LP-AFF on pseudo-labels, the post-processing that makes DynACL++ of DynACL (Luo et al., ICLR 2023)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.encoder import Encoder
from robustcl.models.heads import linear
from robustcl.models.routing import adopt, batch_norm_mode
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import kl
from robustcl.pretraining.method import Batch, Facts, Method, Net, Prepared, Targets, Training, Views
from robustcl.pretraining.methods.advcl import labelled
from robustcl.pretraining.optim import Optimiser, Pieces
from robustcl.pretraining.supervision import units
from robustcl.pretraining.views import RecipeField, apply, recipe

# 10 epochs of the linear probe at 0.01, then 25 at 0.1 with decays after 10 and 20 of them.
RECIPE = Training(
    epochs=35,
    batch=512,
    optimiser=Optimiser(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Pieces(starts=(0, 10 / 35, 20 / 35, 30 / 35), factors=(0.1, 1, 0.1, 0.01)),
)


@value
class LPAFF(Method, Prepared):
    """A linear probe for the first share `linear` of the epochs, then TRADES on everything, on clusters as labels.

    It begins as the encoder that the suite names as its `start`, on the route that this one deploys. Official DynACL++
    clusters that encoder's own features (K = 10 on every data set) on its route `normal`.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Luo et al., ICLR 2023 (DynACL++)"
    cite: ClassVar[str] = "luo2023dynacl"

    training: Training = RECIPE
    weak: RecipeField = recipe("weak")
    # The released stage climbs from the image itself, where the divergence has no slope and the first step follows
    # round-off; with the noise of TRADES it has one.
    ascent: Ascent = Ascent(steps=10, step="eps/4", init="gaussian")
    beta: float = Field(default=6.0, ge=0)
    linear: float = Field(default=10 / 35, ge=0, le=1)

    @property
    def facts(self) -> Facts:
        epochs = max(self.training.epochs, 1)
        share = self._probing(epochs) / epochs
        return Facts(
            units=share + (1 - share) * units("trades", self.ascent, encoder=True),
            perturbs="x",
            maximises="KL(x || x + d)",
            supervision="pseudo",
            needs=("start",),
            begins_as="start",
        )

    def _probing(self, epochs: int) -> int:
        return round(self.linear * epochs)

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {f"clusters_{k}": linear(width, k) for k in sorted(targets.pseudo)}

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        adopt(net.encoder, given["start"])
        return {}

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        if batch.epoch < self._probing(batch.epochs):
            return views
        with torch.no_grad(), batch_norm_mode(net, self.ascent.batch_norm == "train"):
            clean = self._answers(net, views["clean"], batch)

        def diverged(x: Tensor) -> Tensor:
            return torch.stack([kl(c, a) for c, a in zip(clean, self._answers(net, x, batch), strict=True)]).sum()

        return views | {"adversarial": self.ascent(diverged, views["clean"], batch.ball, net, batch.draws("adversary"))}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        if "adversarial" not in views:  # the probe: the encoder as it is, in eval mode
            with torch.no_grad(), batch_norm_mode(net.encoder, False):
                features = net.encoder(views["clean"])
            clean = [net.heads[f"clusters_{k}"](features) for k in sorted(batch.pseudo)]
            return {"clean": self._right(clean, batch), "divergence": torch.zeros((), device=features.device)}
        clean, attacked = (self._answers(net, views[name], batch) for name in ("clean", "adversarial"))
        far = torch.stack([kl(c, a) for c, a in zip(clean, attacked, strict=True)]).mean()
        return {"clean": self._right(clean, batch), "divergence": self.beta * far}

    def _answers(self, net: Net, x: Tensor, batch: Batch) -> list[Tensor]:
        features = net.encoder(x)
        return [net.heads[f"clusters_{k}"](features) for k in sorted(batch.pseudo)]

    def _right(self, answers: list[Tensor], batch: Batch) -> Tensor:
        """The mean over K of the cross-entropy on the cluster labels; label -1 is ignored."""
        labels = [batch.pseudo[k] for k in sorted(batch.pseudo)]
        return torch.stack([labelled(a, y) for a, y in zip(answers, labels, strict=True)]).mean()

    def before_step(self, net: Net, batch: Batch) -> None:
        pass
