"""The only owner of training on labels: clean, adversarial (Madry et al., ICLR 2018) and TRADES (Zhang et al., 2019).

Supervised pretraining and every finetuning scheme are these objectives over a classifier.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.routing import batch_norm_mode
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import kl
from robustcl.pretraining.method import Batch, Facts, Net

Objective = Literal["clean", "adversarial", "trades"]
Logits = Callable[[Tensor], Tensor]


def attack(objective: Objective, logits: Logits, images: Tensor, ascent: Ascent, net: Net, batch: Batch) -> Tensor:
    """The adversarial images (n, ...) of an objective: cross-entropy is climbed, for TRADES the divergence."""
    if objective == "trades":
        # The clean answers do not move while climbing: computed once, where the released code repeats them per step.
        with torch.no_grad(), batch_norm_mode(net, ascent.batch_norm == "train"):
            clean = logits(images)
        return ascent(lambda x: kl(clean, logits(x)), images, batch.ball, net, batch.draws("adversary"))

    def cross_entropy(x: Tensor) -> Tensor:
        return F.cross_entropy(logits(x), batch.labels)

    return ascent(cross_entropy, images, batch.ball, net, batch.draws("adversary"))


def terms(
    objective: Objective, logits: Logits, clean: Tensor, adversarial: Tensor | None, labels: Tensor, beta: float
) -> dict[str, Tensor]:
    """The loss of an objective as named terms; `beta` weighs the divergence of TRADES."""
    if objective == "clean" or adversarial is None:
        return {"clean": F.cross_entropy(logits(clean), labels)}
    if objective == "adversarial":
        return {"adversarial": F.cross_entropy(logits(adversarial), labels)}
    answer = logits(clean)
    return {"clean": F.cross_entropy(answer, labels), "divergence": beta * kl(answer, logits(adversarial))}


def units(objective: Objective, ascent: Ascent, *, encoder: bool) -> float:
    """Forward-equivalents per image and epoch; without `encoder` the head alone is trained."""
    passes = {"clean": 1, "adversarial": 1, "trades": 2}[objective]
    climb = 0 if objective == "clean" else 2 * ascent.steps + (objective == "trades")
    return climb + passes * (3 if encoder else 1)


def facts(objective: Objective, ascent: Ascent, *, freezes: bool) -> Facts:
    """The facts of training on labels: on everything, or with `freezes` on the head alone."""
    return Facts(
        units=units(objective, ascent, encoder=not freezes),
        perturbs="" if objective == "clean" else "x",
        maximises={"clean": "", "adversarial": "CE(x + d, y)", "trades": "KL(x || x + d)"}[objective],
        supervision="labels",
        freezes=freezes,
    )
