"""The only owner of PGD: losses, targets, restarts, FGSM as one full step, and gradients averaged over draws."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustcl.bench.judge import Attack, Judge, margins
from robustcl.models.lean import Lean
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
    version: ClassVar[int] = 3

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
            goals, model = self._goals(judge, rows), judge.lean()
            left = rows
            for restart in range(self.restarts):
                for turn, goal in enumerate(goals):
                    climbers = _Climbers(judge, left, goal[left - rows[0]], model)
                    left = self._climb(climbers, restart * len(goals) + turn)
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

    def _climb(self, climbers: "_Climbers", number: int) -> Tensor:
        """One run; the rows that are still right."""
        if not len(climbers.rows):
            return climbers.rows
        judge, first = climbers.judge, self.verdict == "first"
        ascent, threat = Ascent(steps=self.steps, step=self.step, init=self.init), judge.threat
        draws = ImageDraws([judge.images[row] for row in climbers.rows.tolist()], judge.seed, "pgd", number)
        size, climbers.point = ascent.size(threat), ascent.start(climbers.origin, threat, draws)
        for step in range(self.steps):
            logits, climbers.gradient = self._gradient(climbers)
            if step and first:
                climbers.settle(logits.argmax(1) != climbers.labels, step, last=step == self.steps - 1)
                if not len(climbers.rows):
                    return climbers.rows
            direction = threat.steepest(climbers.gradient, self.share)
            climbers.point = threat.project(climbers.point + size * direction, climbers.origin)
        return climbers.rows[~climbers.confirm(climbers.rows, climbers.point, self.steps)]

    def _gradient(self, climbers: "_Climbers") -> tuple[Tensor, Tensor]:
        """Logits, and the gradient of the summed loss with respect to the images alone, over all samples."""

        def losses(logits: Tensor) -> Tensor:
            return self._losses(logits, climbers.labels, climbers.goal)

        climbers.judge.book(climbers.rows, 2 * self.samples)
        total, _, gradient = climbers.model.gradient(climbers.point, losses)
        for _ in range(self.samples - 1):
            logits, _, found = climbers.model.gradient(climbers.point, losses)
            total, gradient = total + logits, gradient + found
        return total, gradient.nan_to_num(0, 0, 0) / self.samples  # no number, no direction

    def _losses(self, logits: Tensor, labels: Tensor, goal: Tensor) -> Tensor:
        """(n,) what is climbed."""
        targeted = self.target != "none"
        if self.loss == "ce":
            loss = nn.functional.cross_entropy(logits, goal, reduction="none")
            return -loss if targeted else loss
        if targeted:
            return (logits.gather(1, goal[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
        return -margins(logits, labels)


def fgsm(loss: Literal["ce", "margin"] = "ce") -> PGD:
    """The fast gradient sign method (Goodfellow et al., ICLR 2015): one full step from the clean image, in any norm."""
    return PGD(steps=1, step="eps/1", init="clean", loss=loss)


def patience(device: torch.device) -> int:
    """Steps between two looks at who is broken: each step where that costs nothing, few where a device has to wait."""
    return 1 if device.type == "cpu" else 10


class _Climbers:
    """Images that climb together on the lean model, each until the judge agrees that it is broken.

    `rows` (n,), where they stand with the judge, and of each the image, label, goal, point and gradient. The judge is
    asked about the first point that the lean model got wrong since it was asked last: at once on a CPU, where an image
    thus leaves at its first break, and every ten steps where a look at the device would make it wait. What the judge
    does not confirm goes on.
    """

    def __init__(self, judge: Judge, rows: Tensor, goal: Tensor, model: Lean) -> None:
        self.judge, self.rows, self.goal, self.model = judge, rows, goal, model
        self.origin, self.labels = model.laid_out(judge.x[rows]), judge.y[rows]
        self.point = self.gradient = self.claim = self.origin
        self.step = torch.full_like(rows, -1)  # of the claim
        self.every = patience(rows.device)

    def settle(self, wrong: Tensor, step: int, *, last: bool) -> None:
        """Note who is `wrong` (n,) at `step`; when it is time, or at the `last`, whom the judge confirms leaves."""
        new = wrong & (self.step < 0)
        self.claim = torch.where(new.view(-1, *[1] * (self.point.dim() - 1)), self.point, self.claim)
        self.step = torch.where(new, step, self.step)
        if step % self.every and not last:
            return
        claimed = (self.step >= 0).nonzero()[:, 0]
        if not len(claimed):
            return
        broken = self.confirm(self.rows[claimed], self.claim[claimed], self.step[claimed])
        self.step = torch.full_like(self.step, -1)
        stays = torch.ones_like(wrong)
        stays[claimed] = ~broken
        for name in ("rows", "origin", "labels", "goal", "point", "gradient", "claim", "step"):
            setattr(self, name, getattr(self, name)[stays])

    def confirm(self, rows: Tensor, points: Tensor, step: int | Tensor) -> Tensor:
        """Which of these the judge itself gets wrong."""
        before = self.judge.model.passes
        broken = self.judge.confirm(points, rows, step)
        self.judge.charge(self.judge.model.passes - before, rows)
        return broken
