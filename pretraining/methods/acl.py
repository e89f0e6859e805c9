"""ACL (Jiang et al., NeurIPS 2020): adversarial contrastive learning with its four arms: DS, A2A, A2S and S2S."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.heads import projector
from robustcl.models.routing import batch_norm_mode
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import nt_xent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
from robustcl.pretraining.methods.simclr import RECIPE
from robustcl.pretraining.views import RecipeField, apply, recipe


@value
class ACL(Method):
    """Dual stream: half of NT-Xent(t1, t2) on route `normal` and half of NT-Xent(t1 + d1, t2 + d2) on route `pgd`.

    The arms are `form`: `DS`; `A2A`, the adversarial pair alone; `A2S`, t1 + d1 on `pgd` against t2 on `normal`;
    `S2S`, the clean pair alone, which is SimCLR. The released code trains DS and S2S; A2A and A2S follow the figure
    of its README.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Jiang et al., NeurIPS 2020"
    cite: ClassVar[str] = "jiang2020acl"
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {form: {"form": form} for form in ("A2A", "A2S", "S2S")}

    training: Training = RECIPE
    form: Literal["DS", "A2A", "A2S", "S2S"] = "DS"
    strong: RecipeField = recipe("acl")
    ascent: Ascent = Ascent(steps=5, step="eps/4")
    temperature: float = Field(default=0.5, gt=0)
    hidden: int = Field(default=512, gt=0)
    output: int = Field(default=512, gt=0)
    layers: Literal[2, 3] = 3

    @property
    def facts(self) -> Facts:
        climbed = {"DS": 2, "A2A": 2, "A2S": 1, "S2S": 0}[self.form]  # views that climb
        passes = 4 if self.form == "DS" else 2
        # The released attack also makes parameter gradients, which it throws away: input gradients alone here.
        return Facts(
            units=2 * self.ascent.steps * climbed + (self.form == "A2S") + 3 * passes,
            routes={"DS": ("normal", "pgd"), "A2S": ("normal", "pgd"), "A2A": ("pgd",), "S2S": ("normal",)}[self.form],
            deploy="pgd" if climbed else "normal",
            perturbs={0: "", 1: "t1", 2: "t1 and t2"}[climbed],
            maximises={0: "", 1: "NT-Xent(t1 + d, t2)", 2: "NT-Xent(t1 + d1, t2 + d2)"}[climbed],
            branched=True,
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"projector": projector(width, self.hidden, self.output, self.layers, "all")}

    def views(self, batch: Batch) -> Views:
        g = batch.draws("views")
        return {"x1": apply(self.strong, batch.images, g), "x2": apply(self.strong, batch.images, g)}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        if self.form == "S2S":
            return views
        if self.form != "A2S":
            both = torch.cat([views["x1"], views["x2"]])
            found = self.ascent(
                lambda x: nt_xent(pair(net, x, "pgd"), self.temperature),
                both,
                batch.ball,
                net,
                batch.draws("adversary"),
            )
            return views | {"adversarial": found}
        with torch.no_grad(), batch_norm_mode(net, self.ascent.batch_norm == "train"):
            fixed = net(views["x2"], "projector", "normal")
        found = self.ascent(
            lambda x: nt_xent([net(x, "projector", "pgd"), fixed], self.temperature),
            views["x1"],
            batch.ball,
            net,
            batch.draws("adversary"),
        )
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        if self.form == "A2S":
            z = [net(views["adversarial"], "projector", "pgd"), net(views["x2"], "projector", "normal")]
            return {"mixed": nt_xent(z, self.temperature)}
        weight = 0.5 if self.form == "DS" else 1.0
        terms = {}
        if self.form != "S2S":  # the adversarial pair first, as released; each pair is one batch of its route
            terms["adversarial"] = weight * nt_xent(pair(net, views["adversarial"], "pgd"), self.temperature)
        if self.form != "A2A":
            clean = torch.cat([views["x1"], views["x2"]])
            terms["clean"] = weight * nt_xent(pair(net, clean, "normal"), self.temperature)
        return terms


def pair(net: Net, both: Tensor, route: str) -> list[Tensor]:
    """The projections of two views, which lie one below the other in `both` and make one batch of `route`."""
    return list(net(both, "projector", route).chunk(2))
