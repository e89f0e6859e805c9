"""SLF, ALF, SFF, AFF and LP-AFF: {head, all} x {clean, adversarial, TRADES} on labels."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from robustcl.bench.scheme import Scheme, classes
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Facts, Net, Targets, Training, Views
from robustcl.pretraining.supervision import Objective, attack, facts, terms
from robustcl.pretraining.views import RecipeField, apply, recipe


@value
class Labelled(Scheme):
    """What finetuning `trains` (`head` or `all`) and on what.

    With `head` the encoder is frozen in eval mode, statistics included. The head `begins` at zero, or as the one that
    the scheme SLF has found (LP-AFF).
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Fan et al., NeurIPS 2021; RobustSSL benchmark"
    cite: ClassVar[str] = "fan2021advcl"

    training: Training = Training(epochs=25)
    trains: Literal["head", "all"] = "head"
    objective: Objective = "clean"
    begins: Literal["zero", "SLF"] = "zero"
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4")
    beta: float = Field(default=6.0, ge=0)

    @property
    def facts(self) -> Facts:
        return facts(self.objective, self.ascent, freezes=self.trains == "head")

    @property
    def words(self) -> str:
        probed = " from SLF's head" if self.begins == "SLF" else ""
        return f"trains {self.trains} on {self.objective}{probed}"

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        return classes(width, targets)

    def views(self, batch: Batch) -> Views:
        return {"clean": apply(self.weak, batch.images, batch.draws("views"))}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        if not self.adversarial:
            return views
        found = attack(self.objective, lambda x: net(x, "classes"), views["clean"], self.ascent, net, batch)
        return views | {"adversarial": found}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        clean, adversarial = views["clean"], views.get("adversarial")
        return terms(self.objective, lambda x: net(x, "classes"), clean, adversarial, batch.labels, self.beta)
