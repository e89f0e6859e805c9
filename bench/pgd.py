"""The only owner of PGD: losses, targets, restarts, FGSM as one full step, and gradients averaged over draws."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustcl.bench.judge import Attack, Judge, margins
from robustcl.models.seeding import ImageDraws, generator
from robustcl.models.threat import Norm
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent, Step

_TARGETS = {"none": "", "each": "-targeted", "least-likely": "-least-likely", "random": "-random"}


@value
class PGD(Attack):
    """Projected gradient descent (Madry et al., ICLR 2018).

    `loss` is the cross-entropy or the difference of logits, best other minus own (Carlini and Wagner, S&P 2017, f6,
    neither cut off nor shifted), whose gradient does not vanish where the softmax is sure. `target` climbs towards a
    class instead of away from the label: `each` other class in turn, the likeliest first, up to `targets` of them (as
    MultiTargeted, Gowal et al., 2019), the `least-likely` (Kurakin et al., 2017), or a `random` one, drawn per image;
    whatever the target, an image is broken by any wrong answer. `restarts` are runs from further random starts.

    `samples` gradients are averaged per step (expectation over transformation, Athalye et al., ICML 2018), for models
    that draw; such a model draws per batch, so its answers depend on the batch size. In l1 a step moves the share
    `share` of the pixels with the largest gradients by equal amounts, at least one (SLIDE, Tramer and Boneh, NeurIPS
    2019, whose code takes 1 % too, but leaves out pixels at the edge of the box): one pixel alone is a weak step.

    With `verdict = "first"` an image is out at the first iterate that breaks it; published PGD-20 often judges the last
    iterate alone, which can only be higher. `"last"` does that, for comparison.
    """

    keyed: ClassVar[bool] = True  # its draws, by image
    version: ClassVar[int] = 2

    steps: int = Field(default=20, ge=0)
    step: Step = "eps/4"
    restarts: int = Field(default=1, ge=1)
    loss: Literal["ce", "margin"] = "ce"
    target: Literal["none", "each", "least-likely", "random"] = "none"
    targets: int = Field(default=9, ge=1)
    init: Literal["random", "clean"] = "random"
    samples: int = Field(default=1, ge=1)
    share: float = Field(default=0.01, ge=0, le=1)
    verdict: Literal["first", "last"] = "first"

    @model_validator(mode="after")
    def _restarts_differ(self) -> "PGD":
        if self.init == "clean" and self.restarts > 1 and self.samples == 1:
            raise ValueError("restarts from clean images are all the same, expected init 'random' or restarts 1")
        return self

    @property
    def name(self) -> str:
        loss = "-margin" if self.loss == "margin" else ""
        single = self.steps == 1 and self.step == "eps/1" and self.init == "clean"
        base = ("fgsm" if single else "pgd") + loss + _TARGETS[self.target]
        more = f"x{self.restarts}" if self.restarts > 1 else ""
        draws = f"-eot{self.samples}" if self.samples > 1 else ""
        last = "-last" if self.verdict == "last" and not single else ""
        return base + ("" if single else f"-{self.steps}") + more + draws + last

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        runs = min(self.targets, classes - 1) if self.target == "each" else 1
        ranking = int(self.target in ("each", "least-likely"))
        return ranking + self.restarts * runs * (2 * self.steps * self.samples + 1)

    def run(self, judge: Judge) -> None:
        for rows in judge.batches():
            goals = self._goals(judge, rows)
            left = rows
            for restart in range(self.restarts):
                for turn, goal in enumerate(goals):
                    left = self._climb(judge, left, goal[left - rows[0]], restart * len(goals) + turn)
            judge.finish(rows)

    def _goals(self, judge: Judge, rows: Tensor) -> list[Tensor]:
        """The class to climb towards, per run and image; without a target the label, to climb away from."""
        y = judge.y[rows]
        if self.target == "none":
            return [y]
        if self.target == "random":
            sources = [generator(judge.seed, "target", judge.images[int(row)]) for row in rows]
            drawn = [int(torch.randint(judge.classes - 1, (), generator=source)) for source in sources]
            return [(y + 1 + torch.tensor(drawn, device=y.device)) % judge.classes]
        with torch.no_grad():
            logits = judge.model(judge.x[rows]).scatter(1, y[:, None], -torch.inf)
        judge.charge(len(rows), rows)
        order = logits.argsort(dim=1, descending=True, stable=True)[:, : judge.classes - 1]
        return [order[:, -1]] if self.target == "least-likely" else list(order[:, : self.targets].T)

    def _climb(self, judge: Judge, rows: Tensor, goal: Tensor, number: int) -> Tensor:
        """One run over these rows; the rows that are still right."""
        if not len(rows):
            return rows
        ascent, threat = Ascent(steps=self.steps, step=self.step, init=self.init), judge.threat
        draws = ImageDraws([judge.images[int(row)] for row in rows], judge.seed, "pgd", number)
        size, point = ascent.size(threat), ascent.start(judge.x[rows], threat, draws)
        for step in range(self.steps):
            before = judge.model.passes
            logits, gradient = self._gradient(judge.model, point, judge.y[rows], goal)
            judge.charge(judge.model.passes - before, rows)
            claimed = logits.argmax(1) != judge.y[rows]
            if step and self.verdict == "first" and claimed.any():
                stays = torch.ones_like(claimed)
                stays[claimed] = ~_confirm(judge, point[claimed], rows[claimed], step)
                point, gradient, rows, goal = point[stays], gradient[stays], rows[stays], goal[stays]
            if not len(rows):
                return rows
            point = threat.project(point + size * threat.steepest(gradient, self.share), judge.x[rows])
        return rows[~_confirm(judge, point, rows, self.steps)]

    def _gradient(self, model: nn.Module, point: Tensor, labels: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the gradient of the summed loss with respect to the images alone, over all samples."""
        total, gradient = point.new_zeros(len(point), 1), torch.zeros_like(point)
        for _ in range(self.samples):
            point = point.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(point)
                (found,) = torch.autograd.grad(self._loss(logits, labels, goal), point)
            total, gradient = total + logits.detach(), gradient + found
        return total / self.samples, (gradient / self.samples).nan_to_num(0, 0, 0)  # no number, no direction

    def _loss(self, logits: Tensor, labels: Tensor, goal: Tensor) -> Tensor:
        targeted = self.target != "none"
        if self.loss == "ce":
            loss = nn.functional.cross_entropy(logits, goal, reduction="sum")
            return -loss if targeted else loss
        if targeted:
            return (logits.gather(1, goal[:, None]) - logits.gather(1, labels[:, None])).sum()
        return -margins(logits, labels).sum()


def fgsm(loss: Literal["ce", "margin"] = "ce") -> PGD:
    """The fast gradient sign method (Goodfellow et al., ICLR 2015): one full step from the clean image, in any norm."""
    return PGD(steps=1, step="eps/1", init="clean", loss=loss)


def _confirm(judge: Judge, point: Tensor, rows: Tensor, step: int) -> Tensor:
    before = judge.model.passes
    broken = judge.confirm(point, rows, step)
    judge.charge(judge.model.passes - before, rows)
    return broken
