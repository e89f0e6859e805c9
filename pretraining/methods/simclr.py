"""SimCLR (Chen et al., ICML 2020): two augmented views, NT-Xent, no attack; with ACL's recipe it is ACL's S2S arm."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.heads import projector
from robustcl.models.value import value
from robustcl.pretraining.losses import nt_xent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import RecipeField, apply, recipe

RECIPE = Training(
    epochs=1000,
    batch=512,
    optimiser=Optimiser(name="lars", lr=5.0, momentum=0.9, weight_decay=1e-6),
    schedule=Cosine(floor=1e-6, warmup=10, per="iteration", shift=1, warmup_shift=1, decay="rest"),
)


@value
class SimCLR(Method):
    """Defaults: ACL's standard arm (S2S): two `acl` views in one batch, three-layer projector, LARS.

    The arm `advcl` is the control of AdvCL, which differs in the adversarial part alone: its views, projector and
    optimiser, and its contrast, `scale` times NT-Xent. With `together` false each view is a batch of its own.
    """

    version: ClassVar[int] = 2
    source: ClassVar[str] = "Chen et al., ICML 2020"
    cite: ClassVar[str] = "chen2020simclr"
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "advcl": {
            "strong": "advcl",
            "output": 128,
            "layers": 2,
            "norm": "hidden",
            "together": False,
            "scale": 0.5 / 0.07,
            "training": {
                "optimiser": {"name": "sgd", "lr": 0.5, "weight_decay": 1e-4},
                "schedule": {"floor": 5e-4, "warmup_from": 0.01, "per": "epoch", "warmup_shift": 0, "decay": "whole"},
            },
        }
    }

    training: Training = RECIPE
    strong: RecipeField = recipe("acl")
    temperature: float = Field(default=0.5, gt=0)
    hidden: int = Field(default=512, gt=0)
    output: int = Field(default=512, gt=0)
    layers: Literal[2, 3] = 3
    norm: Literal["hidden", "all", "none"] = "all"
    together: bool = True
    scale: float = Field(default=1.0, gt=0)

    @property
    def facts(self) -> Facts:
        return Facts(units=6)

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"projector": projector(width, self.hidden, self.output, self.layers, self.norm)}

    def views(self, batch: Batch) -> Views:
        g = batch.draws("views")
        return {"x1": apply(self.strong, batch.images, g), "x2": apply(self.strong, batch.images, g)}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        return views

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        x = [views["x1"], views["x2"]]
        z = net(torch.cat(x), "projector").chunk(2) if self.together else [net(one, "projector") for one in x]
        return {"contrast": self.scale * nt_xent(z, self.temperature)}
