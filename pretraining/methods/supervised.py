"""Supervised training as the upper baseline: standard, PGD adversarial (Madry et al.) and TRADES (Zhang et al.)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustcl.models.heads import linear
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
from robustcl.pretraining.optim import Optimiser, Steps
from robustcl.pretraining.supervision import Objective, attack, facts, terms
from robustcl.pretraining.views import RecipeField, apply, recipe

RECIPE = Training(
    epochs=110,
    batch=128,
    optimiser=Optimiser(name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=Steps(milestones=(0.5, 0.75), factor=0.1),
)


@value
class Supervised(Method):
    """Cross-entropy on the true labels: `clean`, on PGD-10 images alone (`adversarial`), or `trades` with `beta`.

    `trades` with the default ascent starts anywhere in the ball; the arm of that name starts as published, from 0.001
    times a normal, which keeps the first step from following round-off signs.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Madry et al., ICLR 2018; Zhang et al., ICML 2019"
    cite: ClassVar[str] = "madry2018pgd"

    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trades": {"objective": "trades", "ascent": {"init": "gaussian"}},
        "clean": {"objective": "clean"},
    }

    training: Training = RECIPE
    objective: Objective = "adversarial"
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4")
    beta: float = Field(default=6.0, ge=0)

    @property
    def facts(self) -> Facts:
        return facts(self.objective, self.ascent, freezes=False)

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"classes": linear(width, targets.classes)}

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        if not self.adversarial:
            return views
        found = attack(self.objective, lambda x: net(x, "classes", "normal"), views["clean"], self.ascent, net, batch)
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        return terms(
            self.objective,
            lambda x: net(x, "classes", "normal"),
            views["clean"],
            views.get("adversarial"),
            batch.labels,
            self.beta,
        )
