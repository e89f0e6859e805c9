"""The only owner of the finetuning schemes: {head, all} x {clean, adversarial, TRADES}, a `Method` over labels.

SLF, ALF, SFF and AFF with AdvCL's recipe (25 epochs, decays at 15 and 20, weight decay 2e-4).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from robustcl.models.errors import unknown
from robustcl.models.heads import linear
from robustcl.models.value import merge, plain, read, value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
from robustcl.pretraining.optim import Optimiser, Steps
from robustcl.pretraining.supervision import Objective, attack, facts, terms
from robustcl.pretraining.views import RecipeField, apply, recipe


def _training(batch: int, lr: float) -> Training:
    return Training(
        epochs=25,
        batch=batch,
        optimiser=Optimiser(name="sgd", lr=lr, momentum=0.9, weight_decay=2e-4),
        schedule=Steps(milestones=(15, 20), factor=0.1),
    )


@value
class Scheme(Method):
    """What finetuning trains (`head` or `all`) and on what. The head starts at zero, so that no seed enters there.

    The encoder has the deployed route alone. With `head` it is frozen in eval mode, statistics included.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Fan et al., NeurIPS 2021; RobustSSL benchmark"
    cite: ClassVar[str] = "fan2021advcl"

    training: Training = Field(default_factory=lambda: _training(512, 0.01))
    trains: Literal["head", "all"] = "head"
    objective: Objective = "clean"
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4")
    beta: float = Field(default=6.0, ge=0)

    @property
    def facts(self) -> Facts:
        return facts(self.objective, self.ascent, freezes=self.trains == "head")

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return {"classes": linear(width, targets.classes, zero=True)}

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.generator("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        if not self.adversarial:
            return views
        found = attack(self.objective, lambda x: net(x, "classes"), views["clean"], self.ascent, net, batch)
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        clean, adversarial = views["clean"], views.get("adversarial")
        return terms(self.objective, lambda x: net(x, "classes"), clean, adversarial, batch.labels, self.beta)


def schemes() -> dict[str, Scheme]:
    """The named schemes: standard and adversarial, linear and full finetuning."""
    trades = Ascent(steps=10, step="eps/4", init="gaussian")
    return {
        "SLF": Scheme(trains="head", objective="clean"),
        "ALF": Scheme(trains="head", objective="adversarial"),
        "SFF": Scheme(trains="all", objective="clean", training=_training(128, 0.1)),
        "AFF": Scheme(trains="all", objective="trades", training=_training(128, 0.1), ascent=trades),
    }


def read_scheme(table: Mapping[str, Any], where: str) -> Scheme:
    """The scheme of a table `{scheme = "SLF", ...}`: the named one with what the table changes."""
    known = schemes()
    name = str(table.get("scheme"))
    if name not in known:
        raise unknown(where, "scheme", name, known)
    fields = {key: entry for key, entry in table.items() if key != "scheme"}
    return read(Scheme, merge(plain(known[name]), fields), where)
