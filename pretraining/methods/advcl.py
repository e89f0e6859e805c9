"""AdvCL (Fan et al., NeurIPS 2021): four views, three routes, two perturbations, pseudo-supervision over several K."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.heads import linear, projector
from robustcl.models.routing import Replay, batch_norm_mode
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.frequency import high_frequency, low_frequency
from robustcl.pretraining.losses import sup_con
from robustcl.pretraining.method import Batch, Facts, Method, Net, Targets, Training, Views
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
TEMPTED = {"x+d": "origin", "t1+d": "x1", "t2+d": "x2"}  # a perturbed view and the view that its ball is around
CLEAN = {"t1": "x1", "t2": "x2", "low": "low", "high": "high"}
View = Literal["x+d", "t1+d", "t2+d", "t1", "t2", "low", "high"]


def _table4(*views: View) -> dict[str, tuple[View, ...]]:
    return {"contrasted": views}


@value
class AdvCL(Method):
    """Min over weights of contrast(tau1(x), tau2(x), x + d, x_high) + weight * cross-entropy(x + d_ce, clusters).

    `contrasted` are the views of the contrast: `x+d` is the perturbed weak view, `t1+d` and `t2+d` are perturbed
    augmented ones (climbed together), the others are clean. `weighting` is `official` (the released code: contrast
    scaled by T / 0.07), `paper` (its equation 5: the sum over all m (m - 1) ordered positive pairs) or `mean`; `weight`
    is lambda, 0.2 in the code and not stated in the paper; 0 leaves the pseudo-supervision out. `radius` of the low-
    and high-frequency views is in pixels; None is a quarter of the side, which is the paper's 8 at 32 pixels.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Fan et al., NeurIPS 2021"
    cite: ClassVar[str] = "fan2021advcl"
    # The rows of tables 4 and 5 of the paper, and the cell that it left out. Table 4's rows keep pseudo-supervision:
    # its last row is the full method.
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "no-high": _table4("x+d", "t1", "t2"),
        "no-pseudo": {"weight": 0},
        "neither": {**_table4("x+d", "t1", "t2"), "weight": 0},
        "low": _table4("x+d", "t1", "t2", "low"),
        "low-high": _table4("x+d", "t1", "t2", "low", "high"),
        "tau-one": _table4("t1+d", "t2"),
        "tau-both": _table4("t1+d", "t2+d"),
        "tau-both-clean": _table4("t1+d", "t2+d", "t1", "t2"),
        "eval-attack": {"ascent": {"batch_norm": "eval"}},
    }

    training: Training = RECIPE
    strong: RecipeField = recipe("advcl")
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=5, step="eps/4", batch_norm="train")
    contrasted: tuple[View, ...] = ("x+d", "t1", "t2", "high")
    temperature: float = Field(default=0.5, gt=0)
    weighting: Literal["official", "paper", "mean"] = "official"
    weight: float = Field(default=0.2, ge=0)
    radius: float | None = Field(default=None, ge=0)
    route: Literal["normal", "pgd", "pgd_ce"] = "pgd"

    @model_validator(mode="after")
    def _possible(self) -> "AdvCL":
        if len(set(self.contrasted)) != len(self.contrasted) or len(self.contrasted) < 2:
            raise ValueError(f"contrasted {list(self.contrasted)}, expected at least two views, each once")
        if not self.attacked:
            raise ValueError(f"contrasted has no perturbed view, expected one of {', '.join(TEMPTED)}")
        if self.route not in self.facts.routes:
            raise ValueError(f"route '{self.route}' is not trained, expected one of {', '.join(self.facts.routes)}")
        return self

    @property
    def attacked(self) -> tuple[str, ...]:
        """The perturbed views of the contrast."""
        return tuple(view for view in self.contrasted if view in TEMPTED)

    @property
    def clean(self) -> tuple[str, ...]:
        """The clean views of the contrast, by their names among the `views`."""
        return tuple(CLEAN[view] for view in self.contrasted if view in CLEAN)

    @property
    def facts(self) -> Facts:
        clean, attacks, steps = len(self.clean), len(self.attacked), self.ascent.steps
        # A tau-level pair climbs together: both are forwarded, and both receive a gradient.
        climb = 2 * steps * (attacks + bool(self.weight))
        again = clean if self.ascent.batch_norm == "eval" else 0
        used = {"normal": clean > 0, "pgd": True, "pgd_ce": self.weight > 0}
        return Facts(
            units=climb + again + 3 * (clean + attacks + bool(self.weight)),
            routes=tuple(route for route, trained in used.items() if trained),
            deploy=self.route,
            perturbs=" and ".join(view.removesuffix("+d") for view in self.attacked) + (", x" if self.weight else ""),
            maximises=f"SupCon over {len(self.contrasted)} views" + ("; CE(clusters)" if self.weight else ""),
            supervision="pseudo" if self.weight else "none",
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        # Official heads that no loss reads (a predictor and a class head) are left out.
        made: dict[str, nn.Module] = {"projector": projector(width, 512, 128, layers=2)}
        if self.weight:
            made |= {f"clusters_{k}": linear(width, k) for k in sorted(targets.pseudo)}
        return made

    def views(self, batch: Batch) -> Views:
        g = batch.draws("views")
        views = {"x1": apply(self.strong, batch.images, g), "x2": apply(self.strong, batch.images, g)}
        views["origin"] = apply(self.weak, batch.images, g)
        # Of the weakly augmented, unattacked image, and not clamped, as in the released code.
        radius = batch.images.shape[-1] / 4 if self.radius is None else self.radius
        if "high" in self.contrasted:
            views["high"] = high_frequency(views["origin"], radius)
        if "low" in self.contrasted:
            views["low"] = low_frequency(views["origin"], radius)
        return views

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        return self.attack(net, views, batch, lambda z: sup_con(z, self.temperature))

    def attack(self, net: Net, views: Views, batch: Batch, contrast: Callable[[Sequence[Tensor]], Tensor]) -> Views:
        """Both attacks of official AdvCL, the first one up `contrast` of (perturbed, clean) projections.

        One joint sign step there equals two ascents here, since each perturbation has a term of its own.

        The clean views do not depend on the perturbation: they are forwarded once, with the graph that the loss needs.
        The running statistics of the encoder are replayed as official AdvCL moves them; those of the projector's batch
        norm, which shares all routes and is dropped after pretraining, are not.
        """
        training = self.ascent.batch_norm == "train"
        found: Views = {}
        if training:
            found |= self._clean(net, views, self.ascent.steps)
            fixed = [found[f"z_{name}"].detach() for name in self.clean]
        else:  # the forwards of the loss come after the attack, which sees the statistics as they were
            with torch.no_grad(), batch_norm_mode(net, False):
                fixed = [net(views[name], "projector", "normal") for name in self.clean]

        def climbed(x: Tensor) -> Tensor:
            return contrast([*self.project(net, x), *fixed])

        origins = torch.cat([views[TEMPTED[view]] for view in self.attacked])
        found["x_cl"] = self.ascent(climbed, origins, batch.ball, net, batch.draws("contrast"))
        if self.weight:
            found["x_ce"] = self.ascent(
                lambda x: self.clusters(net, x, batch, "sum"), views["origin"], batch.ball, net, batch.draws("clusters")
            )
        if not training:
            found |= self._clean(net, views, 0)
        return views | found

    def _clean(self, net: Net, views: Views, repeated: int) -> Views:
        """The projections of the clean views, with their graph; the statistics move as if forwarded `repeated` more."""
        statistics = Replay(net.encoder, "normal")
        found = {f"z_{name}": net(views[name], "projector", "normal") for name in self.clean}
        statistics.repeat(len(self.clean), repeated)
        return found

    def project(self, net: Net, x: Tensor) -> list[Tensor]:
        """The projections of the perturbed views, which lie one below the other in `x`; each has its own statistics."""
        return [net(part, "projector", "pgd") for part in x.chunk(len(self.attacked))]

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        contrast = sup_con(self.projections(net, views), self.temperature, self.scale)
        return {"contrast": contrast} | self.pseudo(net, views, batch)

    def projections(self, net: Net, views: Views) -> list[Tensor]:
        """Those of the perturbed views, then those of the clean ones."""
        return [*self.project(net, views["x_cl"]), *(views[f"z_{name}"] for name in self.clean)]

    @property
    def scale(self) -> float:
        """What the mean over all ordered pairs of views is multiplied by."""
        m = len(self.contrasted)
        return {"official": self.temperature / BASE_TEMPERATURE, "paper": m * (m - 1), "mean": 1.0}[self.weighting]

    def pseudo(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The weighted term of the pseudo-supervision, unless it is left out."""
        return {"pseudo": self.weight * self.clusters(net, views["x_ce"], batch)} if self.weight else {}

    def clusters(self, net: Net, x: Tensor, batch: Batch, over: Literal["mean", "sum"] = "mean") -> Tensor:
        """The mean over K of the cross-entropy on the cluster labels, `over` the images; label -1 is ignored.

        The attack takes the sum, as the released code: each K then weighs the same wherever labels are missing.
        """
        features = net.encoder(x, "pgd_ce")
        each = [
            labelled(net.heads[f"clusters_{k}"](features), labels, over) for k, labels in sorted(batch.pseudo.items())
        ]
        return torch.stack(each).mean()


def labelled(logits: Tensor, labels: Tensor, over: Literal["mean", "sum"] = "mean") -> Tensor:
    """The cross-entropy of those images that have a label (not -1), a scalar; 0 where none has one."""
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total if over == "sum" else total / (labels >= 0).sum().clamp(min=1)
