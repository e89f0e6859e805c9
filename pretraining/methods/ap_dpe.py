"""AP-DPE (Chen et al., CVPR 2020): rotation, jigsaw and selfie, attacked together; a term on gradient diversity."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.blocks import initialise
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.heads import linear
from robustcl.models.seeding import generator
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Facts, Method, Net, Prepared, Targets, Training, Views
from robustcl.pretraining.optim import Cosine, Optimiser
from robustcl.pretraining.views import RecipeField, apply, recipe

Task = Literal["rotation", "jigsaw", "selfie"]
GRID, PATCHES, MASKED = 4, 16, 4  # patches along a side, in all, and those that selfie masks
PERMUTATIONS, IDENTITY = 30, 0.1  # beside the identity, and the probability that the identity is forced
ROUTE = "normal"

# The released validation split (a tenth of the training images, which chooses the checkpoint) is left out: here the
# last epoch is deployed, as for every method.
RECIPE = Training(
    epochs=150,
    batch=32,  # README; the default of the released script is 80
    optimiser=Optimiser(name="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4, nesterov=True),
    schedule=Cosine(floor=1e-8, per="iteration"),
)
# Released: the warm-up from .01 to .1 takes 200 iterations and .1 is kept until epoch 0 ends. A warm-up is whole epochs
# here: it climbs through all of epoch 0, which is 352 iterations there, and meets the cosine.
ALONE = {
    "epochs": 100,
    "batch": 128,
    "optimiser": {"lr": 0.1, "weight_decay": 3e-4, "nesterov": False},
    "schedule": {"floor": 1e-6, "warmup": 1, "warmup_from": 0.01},
}
# Released: no warm-up (it is commented out), a floor of 1e-7, and crops with a padding of 2 without flips.
ALONE_SELFIE = {"epochs": 200, "batch": 128, "optimiser": {"lr": 0.1}, "schedule": {"floor": 1e-7}}
SELFIE_CROP = {"ops": [{"name": "pad-crop", "padding": 2}]}


def _alone(task: Task, training: Mapping[str, Any]) -> dict[str, Any]:
    return {"tasks": [task], "diversity": 0, "training": training}


@value
class APDPE(Method, Prepared):
    """Min over weights of the mean clean and adversarial loss of the tasks, plus `diversity` times h by `sign`.

    h is the mean over images of log det(G^T G + 1e-5 I); the columns of G are that image's unit input gradients, one
    per task, at the adversarial inputs. The attack climbs task loss + `diversity` h. `sign` is `released` (the loss
    adds h and so makes gradients alike, against the attack and the paper's words) or `diverse` (it subtracts h).
    `double_softmax` is the released selfie, which scores by a softmax and takes a cross-entropy of it. `layers` are
    those of selfie's attention pooling.

    The published network is a pre-activation ResNet-50. Here it is the suite's encoder: results are to be reported
    as "AP-DPE on our encoder", never as those of the published method.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "Chen et al., CVPR 2020"
    cite: ClassVar[str] = "chen2020apdpe"
    arms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rotation": _alone("rotation", ALONE),
        "jigsaw": _alone("jigsaw", ALONE),
        "selfie": {**_alone("selfie", ALONE_SELFIE), "weak": SELFIE_CROP},
        "diverse": {"sign": "diverse"},
    }

    training: Training = RECIPE
    weak: RecipeField = recipe("weak")
    ascent: Ascent = Ascent(steps=10, step="eps/4", batch_norm="train")
    tasks: tuple[Task, ...] = ("rotation", "jigsaw", "selfie")
    diversity: float = Field(default=0.1, ge=0)
    sign: Literal["released", "diverse"] = "released"
    double_softmax: bool = True
    layers: int = Field(default=13, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> "APDPE":
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks {list(self.tasks)}, expected at least one, each once")
        if self.diversity and len(self.tasks) == 1:
            raise ValueError(f"diversity {self.diversity} of the one task {self.tasks[0]}, expected 0 or more tasks")
        return self

    @property
    def facts(self) -> Facts:
        # Per task and step: a forward, an input gradient and, for the gradient of h, two passes more (back through
        # that gradient's own graph, then through the forward's). The loss: both forwards and backwards, and the
        # adversarial input gradient with a full pass back through it. Heads count nothing; selfie, which stops before
        # the last stage, counts as a whole pass.
        second = bool(self.diversity)
        term = f" + {self.diversity:g} log det" if second else ""
        return Facts(
            units=len(self.tasks) * (self.ascent.steps * (4 if second else 2) + (9 if second else 6)),
            routes=(ROUTE,),
            deploy=ROUTE,
            perturbs=", ".join(self.tasks),
            maximises=f"CE of {'each' if len(self.tasks) > 1 else self.tasks[0]}{term}",
            whole="draws turns and orders over the whole batch and differentiates twice by its images",
        )

    def heads(self, width: int, targets: Targets) -> dict[str, nn.Module]:
        sizes = {"rotation": 4, "jigsaw": 1 + PERMUTATIONS}
        return {task: linear(width, sizes[task]) for task in self.tasks if task in sizes}

    def prepare(self, net: Net, given: Mapping[str, Encoder]) -> dict[str, nn.Module]:
        """Heads that need more than the features' width: they are trained, so nothing lies beside the network.

        Rotation has the encoder's own last stage; beside it jigsaw gets one of its own, freshly drawn. Jigsaw alone
        has the encoder's: the last stage would be left untrained otherwise, as selfie alone leaves it, by design.
        """
        if {"rotation", "jigsaw"} <= set(self.tasks):
            net.heads["jigsaw_top"] = net.encoder.top(ROUTE)
            initialise(net.heads["jigsaw_top"])
        if "selfie" in self.tasks:
            net.heads["selfie"] = AttentionPooling(net.encoder.body.map_width, self.layers)
        return {}

    def before_step(self, net: Net, batch: Batch) -> None:
        """Nothing moves but by the optimiser."""

    def views(self, batch: Batch) -> Views:
        """Per task its images, and in `<task>_answer` what is to be said of them: class numbers or the patches' order.

        All tasks begin from the same weak view, as released. Errors: `UserError` unless the images are squares whose
        side is divisible by 4.
        """
        height, width = batch.images.shape[-2:]
        if height != width or height % GRID:
            raise UserError(f"ap_dpe: images of {height}x{width} pixels, expected squares with a side divisible by 4")
        weak = apply(self.weak, batch.images, batch.generator("views"))
        made = {"rotation": _rotation, "jigsaw": _jigsaw, "selfie": _selfie}
        return {name: entry for task in self.tasks for name, entry in made[task](weak, batch).items()}

    def adversary(self, net: Net, views: Views, batch: Batch) -> Views:
        """All tasks climb together, one below the other: h depends on the inputs of all of them."""

        def objective(x: Tensor) -> Tensor:
            total = self.total(net, x, views)
            return total + self.diversity * self.spread(total, x) if self.diversity else total

        origins = torch.cat([views[task] for task in self.tasks])
        return views | {"adversarial": self.ascent(objective, origins, batch.ball, net, batch.draws("attack"))}

    def loss(self, net: Net, views: Views, batch: Batch) -> dict[str, Tensor]:
        share = 2 * len(self.tasks)
        terms: dict[str, Tensor] = {task: self.task(net, task, views[task], views) / share for task in self.tasks}
        x = views["adversarial"].detach().requires_grad_(bool(self.diversity))
        parts = zip(self.tasks, x.chunk(len(self.tasks)), strict=True)
        attacked = {f"{task}_adversarial": self.task(net, task, part, views) for task, part in parts}
        terms |= {name: term / share for name, term in attacked.items()}
        if self.diversity:
            h = self.spread(torch.stack(list(attacked.values())).sum(), x)
            terms["diversity"] = (1 if self.sign == "released" else -1) * self.diversity * h
        return terms

    def total(self, net: Net, x: Tensor, views: Views) -> Tensor:
        """The sum of the task losses; `x` holds the inputs of the tasks one below the other."""
        parts = zip(self.tasks, x.chunk(len(self.tasks)), strict=True)
        return torch.stack([self.task(net, task, part, views) for task, part in parts]).sum()

    def spread(self, total: Tensor, x: Tensor) -> Tensor:
        """h of the sum of the task losses: each task reads its own part of `x`, so the gradient is theirs in turn."""
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        return log_det(list(gradient.chunk(len(self.tasks))))

    def task(self, net: Net, task: Task, x: Tensor, views: Views) -> Tensor:
        """The loss of one task, a mean over images: a cross-entropy, or selfie's sum of four."""
        answer = views[f"{task}_answer"]
        if task != "selfie":
            return F.cross_entropy(self.logits(net, task, x), answer)
        scores = self.scores(net, x, answer)
        if self.double_softmax:
            # Released: the cross-entropy gets probabilities, so that it can fall no lower than 0.74 (right) per patch
            # and its gradients are small; the paper's wording is the plain one.
            scores = scores.softmax(2)
        wanted = torch.arange(MASKED, device=x.device).repeat(len(x))
        out: Tensor = MASKED * F.cross_entropy(scores.flatten(0, 1), wanted)
        return out

    def logits(self, net: Net, task: Task, x: Tensor) -> Tensor:
        """(n, classes) of rotation or jigsaw."""
        out: Tensor
        if f"{task}_top" in net.heads:
            out = net.heads[task](net.heads[f"{task}_top"](net.encoder.map(x, ROUTE)))
        else:
            out = net(x, task, ROUTE)
        return out

    def scores(self, net: Net, x: Tensor, order: Tensor) -> Tensor:
        """(n, 4, 4): how well each masked patch fits each masked place, both in the order of `order`."""
        # Each patch goes through the trunk by itself, as released: in the map of the whole image a visible place
        # would see the masked patches around it. The batch norms' statistics thus mix images and patches.
        patches = split(x)
        z = net.encoder.map(patches.flatten(0, 1), ROUTE).mean((2, 3)).unflatten(0, patches.shape[:2])
        masked, visible = order[:MASKED], order[MASKED:]
        places = net.heads["selfie"](z[:, visible], masked)
        out: Tensor = places @ z[:, masked].transpose(1, 2)
        return out


class AttentionPooling(nn.Module):
    """Selfie's head (Trinh et al., 2019): visible patches to one vector, to which a masked place's embedding is added.

    As released, the patches carry no places of their own. Without the released dropout of 0.1: its masks would be
    drawn anew in every step of the attack from a generator that no key reaches.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.rows = nn.Parameter(torch.randn(GRID, width))
        self.columns = nn.Parameter(torch.zeros(GRID, width))
        self.layers = nn.Sequential(*[Attention(width) for _ in range(layers)])

    def forward(self, visible: Tensor, places: Tensor) -> Tensor:
        """(n, patches, width) and (m,) places on the grid, row by row, to (n, m, width)."""
        tokens = torch.cat([self.first.expand(len(visible), -1, -1), visible], 1)
        pooled: Tensor = self.layers(tokens)[:, :1]
        return pooled + self.rows[places // GRID] + self.columns[places % GRID]


class Attention(nn.Module):
    """A layer of the Transformer, normalised after each sum, 64 numbers per head as far as the width allows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = next(number for number in range(max(width // 64, 1), 0, -1) if width % number == 0)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) to the same."""
        # The weights are asked for and not read: the fused attention that is taken otherwise has no second derivative.
        x = self.norm1(x + self.attention(x, x, x, need_weights=True)[0])
        out: Tensor = self.norm2(x + self.narrow(F.gelu(self.wide(x), approximate="tanh")))
        return out


def log_det(gradients: list[Tensor]) -> Tensor:
    """h: the mean over images of log det(G^T G + 1e-5 I); the columns of G are the unit `gradients`, (n, ...) each."""
    with torch.autocast(gradients[0].device.type, enabled=False):
        g = torch.stack([gradient.flatten(1) for gradient in gradients], 1)
        # Released: 1e-10 is added to the norm. Within the root it does the same and leaves a second derivative at 0.
        g = g / (g.square().sum(2, keepdim=True) + 1e-20).sqrt()
        gram = g @ g.transpose(1, 2) + 1e-5 * torch.eye(len(gradients), dtype=g.dtype, device=g.device)
        out: Tensor = torch.linalg.slogdet(gram).logabsdet.mean()
    return out


def split(x: Tensor) -> Tensor:
    """The patches of squares (n, c, side, side), row by row: (n, 16, c, side / 4, side / 4)."""
    size = x.shape[-1] // GRID
    parts = x.unflatten(3, (GRID, size)).unflatten(2, (GRID, size))  # (n, c, row, y, column, x)
    patches: Tensor = parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return patches


def join(patches: Tensor) -> Tensor:
    """The images of which these are the patches: the inverse of `split`."""
    parts = patches.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 4, 2, 5)
    images: Tensor = parts.flatten(4, 5).flatten(2, 3)
    return images


def permutations(seed: int) -> Tensor:
    """(31, 16): the run's orders of patches, the identity first."""
    g = generator(seed, "jigsaw permutations")
    drawn = [torch.randperm(PATCHES, generator=g) for _ in range(PERMUTATIONS)]
    return torch.stack([torch.arange(PATCHES), *drawn])


def _rotation(weak: Tensor, batch: Batch) -> Views:
    """Each image turned by its multiple of 90 degrees; each multiple is about a quarter of the batch, as released."""
    g = batch.generator("rotation")
    turns = torch.randperm(4 * (len(weak) // 4 + 1), generator=g, device=g.device)[: len(weak)] % 4
    turned = torch.stack([torch.rot90(weak, k, (2, 3)) for k in range(4)])
    return {"rotation": turned[turns, torch.arange(len(weak), device=weak.device)], "rotation_answer": turns}


def _jigsaw(weak: Tensor, batch: Batch) -> Views:
    """Each image with its patches in one of the run's orders: patch `order[i]` comes to place i."""
    g = batch.generator("jigsaw")
    forced, drawn = torch.rand(2, len(weak), generator=g, device=g.device)
    classes = (drawn * (1 + PERMUTATIONS)).long().clamp_max(PERMUTATIONS)
    classes = torch.where(forced < IDENTITY, 0, classes)
    orders = permutations(batch.seed).to(weak.device)[classes]
    patches = split(weak)[torch.arange(len(weak), device=weak.device)[:, None], orders]
    return {"jigsaw": join(patches), "jigsaw_answer": classes}


def _selfie(weak: Tensor, batch: Batch) -> Views:
    """The images; the first four of the order are masked, the same for the whole batch, as released."""
    g = batch.generator("selfie")
    return {"selfie": weak, "selfie_answer": torch.randperm(PATCHES, generator=g, device=g.device)}
