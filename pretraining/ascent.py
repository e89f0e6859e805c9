"""The only owner of projected gradient ascent: every inner maximisation and every PGD of the repository is this one."""

from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from robustcl.models.folding import folded
from robustcl.models.routing import batch_norm_mode
from robustcl.models.seeding import Draws
from robustcl.models.threat import Threat
from robustcl.models.value import fraction, value

Objective = Callable[[Tensor], Tensor]
"""Images (n, ...) to a scalar or (n,) losses to be raised; the sum is differentiated, so its scale is free."""


def _step(text: str) -> str:
    if fraction(text.removeprefix("eps/"), "step") <= 0:
        raise ValueError(f"'{text}' is not above 0, expected a step such as '2/255' or 'eps/4'")
    return text


Step = Annotated[str, AfterValidator(_step)]


@value
class Ascent:
    """`steps` steps of size `step` up an objective, within a threat.

    `step` is exact text in pixel units (`"2/255"`) or relative to the radius (`"eps/4"`, which is 2/255 at 8/255).
    `init` is `random` (uniform in the ball, not clipped before the first step, as in AdvCL and ACL), `clipped` (the
    same, clipped to the box, as in RoCL), `clean`, or `gaussian` (0.001 times a normal, as in TRADES). `batch_norm` is
    the mode of the batch norms while climbing: `train` is official AdvCL and AP-DPE, `eval` everything else.
    """

    steps: int = Field(default=5, ge=0)
    step: Step = "eps/4"
    init: Literal["random", "clipped", "clean", "gaussian"] = "random"
    batch_norm: Literal["train", "eval"] = "eval"

    def size(self, threat: Threat) -> float:
        """The step in pixel units."""
        if self.step.startswith("eps/"):
            return float(threat.eps / Fraction(self.step.removeprefix("eps/")))
        return float(Fraction(self.step))

    def start(self, origin: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """The point to climb from, (n, ...) like `origin`."""
        if self.init in ("random", "clipped"):
            start = threat.random_start(origin, draws)
            return start if self.init == "random" else threat.project(start, origin)
        if self.init == "clean":
            return origin.clone()
        cube = 2 * draws.uniform(len(origin), origin[0].numel()).to(origin.device) - 1
        gauss = 2**0.5 * torch.erfinv(cube.clamp(-1 + 1e-6, 1 - 1e-6))
        return origin + 0.001 * gauss.view_as(origin)

    def __call__(self, objective: Objective, origin: Tensor, threat: Threat, net: nn.Module, draws: Draws) -> Tensor:
        """The adversarial images (n, ...), detached, inside ball and box.

        Gradients are taken with respect to the images alone: no parameter's gradient is touched, and the modes of
        `net` come back as they were.
        """
        size = self.size(threat)
        point = self.start(origin, threat, draws)
        training = self.batch_norm == "train"
        with batch_norm_mode(net, training), nullcontext() if training else folded(net):
            for _ in range(self.steps):
                point = climb(objective, point, origin, threat, size)
        return threat.project(point, origin).detach()


def climb(objective: Objective, point: Tensor, origin: Tensor, threat: Threat, size: float) -> Tensor:
    """One projected step from `point` up the objective."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective(point).sum(), point)
    return threat.project(point.detach() + size * threat.steepest(gradient), origin)
