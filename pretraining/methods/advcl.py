"""AdvCL (Fan et al., NeurIPS 2021): four views, three routes, two perturbations, pseudo-supervision over several K."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.heads import linear, projector
from robustcl.models.routing import Replay, batch_norm_mode
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.frequency import high_frequency
from robustcl.pretraining.losses import sup_con
from robustcl.pretraining.method import Batch, Method, Net, Targets, Training, Views
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import RecipeField, apply, recipe

# Official: floor lr * 0.1^3, evaluated at epoch + 1; the loop there runs 1002 epochs, here exactly as many as stated.
RECIPE = Training(
    epochs=1000,
    batch=512,
    optimiser=Optimiser(name="sgd", lr=0.5, momentum=0.9, weight_decay=1e-4),
    schedule=Cosine(floor=5e-4, warmup=10, warmup_from=0.01, per="epoch", shift=1),
)
BASE_TEMPERATURE = 0.07


@value
class AdvCL(Method):
    """Min over weights of contrast(tau1(x), tau2(x), x + d, x_high) + weight * cross-entropy(x + d_ce, clusters).

    `weighting` is `official` (the released code: contrast scaled by T / 0.07) or `paper` (its equation 5: the sum over
    all m (m - 1) ordered positive pairs); `weight` is lambda, 0.2 in the code and not stated in the paper. `radius` of
    the high-frequency view is in pixels; None is a quarter of the side, which is the paper's 8 at 32 pixels.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Fan et al., NeurIPS 2021"
    routes: ClassVar[tuple[str, ...]] = ("normal", "pgd", "pgd_ce")

    training: Training = RECIPE
    strong: RecipeField = recipe("advcl")
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=5, step="eps/4", batch_norm="train")
    temperature: float = Field(default=0.5, gt=0)
    weighting: Literal["official", "paper"] = "official"
    weight: float = Field(default=0.2, ge=0)
    high: bool = True
    radius: float | None = Field(default=None, ge=0)
    route: Literal["normal", "pgd", "pgd_ce"] = "pgd"

    @property
    def deploy(self) -> str:
        return self.route

    @property
    def adversarial(self) -> bool:
        return True

    @property
    def supervision(self) -> Literal["none", "labels", "pseudo"]:
        return "pseudo" if self.weight else "none"

    @property
    def freezes(self) -> bool:
        return False

    @property
    def clean(self) -> tuple[str, ...]:
        """The views that are not attacked."""
        return ("x1", "x2", "high") if self.high else ("x1", "x2")

    @property
    def units(self) -> float:
        clean, attacks = len(self.clean), 2 if self.weight else 1
        again = clean if self.ascent.batch_norm == "eval" else 0
        return clean + again + attacks * (2 * self.ascent.steps + 1) + 2 * (clean + attacks)

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        # Official heads that no loss reads (a predictor and a class head) are left out.
        made: dict[str, nn.Module] = {"projector": projector(width, 512, 128, layers=2)}
        if self.weight:
            made |= {f"clusters_{k}": linear(width, k) for k in sorted(targets.pseudo)}
        return made

    def views(self, batch: Batch) -> Views:
        g = batch.generator("views")
        views = {"x1": apply(self.strong, batch.images, g), "x2": apply(self.strong, batch.images, g)}
        views["origin"] = apply(self.weak, batch.images, g)
        if self.high:  # of the weakly augmented, unattacked image, and not clamped, as in the released code
            side = batch.images.shape[-1]
            views["high"] = high_frequency(views["origin"], side / 4 if self.radius is None else self.radius)
        return views

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        """Both attacks of official AdvCL; one joint sign step there equals two ascents, each has a term of its own.

        The clean views do not depend on the perturbation: they are forwarded once, with the graph that the loss needs.
        The running statistics of the encoder are replayed as official AdvCL moves them; those of the projector's batch
        norm, which shares all routes and is dropped after pretraining, are not.
        """
        training = self.ascent.batch_norm == "train"
        statistics = Replay(net.encoder, "normal")
        found: Views = {}
        for name in self.clean:
            found[f"z_{name}"] = net(views[name], "projector", "normal")
            statistics.mark()
        if training:
            statistics.repeat(self.ascent.steps)
            fixed = [found[f"z_{name}"].detach() for name in self.clean]
        else:
            with torch.no_grad(), batch_norm_mode(net, False):
                fixed = [net(views[name], "projector", "normal") for name in self.clean]

        def contrast(x: Tensor) -> Tensor:
            return sup_con([net(x, "projector", "pgd"), *fixed], self.temperature)

        found["x_cl"] = self.ascent(contrast, views["origin"], batch.ball, net, batch.draws("contrast"))
        if self.weight:
            found["x_ce"] = self.ascent(
                lambda x: self.clusters(net, x, batch, "sum"), views["origin"], batch.ball, net, batch.draws("clusters")
            )
        return views | found

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        z = [net(views["x_cl"], "projector", "pgd"), *(views[f"z_{name}"] for name in self.clean)]
        scale = self.temperature / BASE_TEMPERATURE if self.weighting == "official" else len(z) * (len(z) - 1)
        terms = {"contrast": sup_con(z, self.temperature, scale)}
        if self.weight:
            terms["pseudo"] = self.weight * self.clusters(net, views["x_ce"], batch)
        return terms

    def clusters(self, net: Net, x: Tensor, batch: Batch, over: Literal["mean", "sum"] = "mean") -> Tensor:
        """The mean over K of the cross-entropy on the cluster labels, `over` the images; label -1 is ignored.

        The attack takes the sum, as the released code: each K then weighs the same wherever labels are missing.
        """
        features = net.encoder(x, "pgd_ce")
        each = [
            F.cross_entropy(net.heads[f"clusters_{k}"](features), labels, ignore_index=-1, reduction=over)
            for k, labels in sorted(batch.pseudo.items())
        ]
        return torch.stack(each).mean()

    def after_step(self, net: Net, batch: Batch) -> None:
        pass
