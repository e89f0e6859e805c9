"""The only owner of robustness-aware coreset selection (RCS): training on the batches that make a network robust.

Xu et al., "Efficient Adversarial Contrastive Learning via Robustness-Aware Coreset Selection", NeurIPS 2023.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor, nn

from robustcl.models.errors import NumberError
from robustcl.models.routing import batch_norm_mode
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import merge, plain, value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images
from robustcl.pretraining.losses import kl

if TYPE_CHECKING:  # a training has a coreset, a method has a training, and a net belongs to a method
    from robustcl.pretraining.method import Net

    Loss = Callable[[Net, int], Tensor]

CLIMB = Ascent(steps=3, step="eps/4")


def _over(given: object) -> object:
    """What a table leaves out of the ascent is the coreset's default, not that of `Ascent`."""
    return merge(plain(CLIMB), given) if isinstance(given, Mapping) else given


@value
class Coreset:
    """After `warmup` epochs on everything, train on a `fraction` of the batches, chosen anew each `every` epochs.

    Chosen are the batches whose gradients make a step that lowers the representational divergence most: the mean
    KL(softmax z(x) || softmax z(x + d)) over `validation` training images, d from `ascent`. No label enters. As in the
    paper (algorithm 2) the search is greedy over whole batches and not over images, and the divergence after a step of
    size `lr` is its first-order Taylor expansion. The gradients of all batches are kept: (batches x parameters x
    4 bytes), 4.4 GB for a ResNet-18 and 98 batches.

    z is the projector's output, or the features of a method without a projector, of x and of x + d by the deployed
    route. The released code is cheaper: gradients of the projector alone, averaged over the rows of each weight. It
    also scales z to its range where the paper has a softmax, sends x by the clean route, and climbs three steps of a
    third of 10/255; here, the paper's form with every trained parameter, and the steps of `ascent`.
    """

    warmup: int = Field(default=100, ge=0)
    every: PositiveInt = 20
    fraction: float = Field(default=0.2, gt=0, le=1)
    ascent: Annotated[Ascent, BeforeValidator(_over)] = CLIMB
    lr: float = Field(default=0.01, gt=0)
    validation: PositiveInt = 512

    @model_validator(mode="after")
    def _still(self) -> "Coreset":
        if self.ascent.batch_norm != "eval":
            raise ValueError("ascent.batch_norm is 'train', expected 'eval'")
        if self.ascent.init == "clean":
            raise ValueError("ascent.init is 'clean', where the divergence has no slope, expected 'random'")
        return self

    def due(self, epoch: int) -> bool:
        """Whether batches are chosen before this epoch (from 0)."""
        return epoch >= self.warmup and (epoch - self.warmup) % self.every == 0

    def count(self, batches: int) -> int:
        """How many of the batches are chosen."""
        return max(1, round(self.fraction * batches))

    def probe(self, images: Images, threat: Threat | None, route: str | None, seed: int, epoch: int) -> "Probe":
        """Where the divergence is measured: a part of the training images, the same one in every epoch."""
        assert threat is not None
        points = images.sample(self.validation).floats(slice(None))
        return Probe(images=points, threat=threat, ascent=self.ascent, route=route, seed=seed, epoch=epoch)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Where the divergence is measured: images (n, channels, height, width) float32 in [0, 1], all forwarded at once.

    Draws are keyed by (seed, "coreset", epoch, step of the search).
    """

    images: Tensor
    threat: Threat
    ascent: Ascent
    route: str | None
    seed: int
    epoch: int

    def divergence(self, net: "Net", step: int) -> Tensor:
        """The divergence at the weights of `net`, a scalar with a graph; batch norms in eval mode."""
        draws = BatchDraws(generator(self.seed, "coreset", self.epoch, step, device=self.images.device))
        with batch_norm_mode(net, False):
            with torch.no_grad():
                fixed = self._represent(net, self.images)
            near = self.ascent(lambda x: kl(fixed, self._represent(net, x)), self.images, self.threat, net, draws)
            return kl(self._represent(net, self.images), self._represent(net, near))

    def _represent(self, net: "Net", images: Tensor) -> Tensor:
        found: Tensor = (
            net(images, "projector", self.route) if "projector" in net.heads else net.encoder(images, self.route)
        )
        return found


def select(coreset: Coreset, net: "Net", parts: Sequence[Tensor], loss: "Loss", probe: Probe) -> Tensor:
    """The rows (m,) int64 of the chosen batches, batch after batch in the order of the choice.

    `parts` are the rows of each batch, and `loss` of a net and the number of a batch is what a step would minimise.
    All happens on a copy of `net`. Errors: `NumberError` where a gradient is not finite.
    """
    moved = copy.deepcopy(net)
    weights = [p for p in moved.parameters() if p.requires_grad]
    gradients = _gradients(moved, weights, len(parts), loss)

    def slope(step: int) -> Tensor:
        return _flat(probe.divergence(moved, step), weights)

    def move(direction: Tensor) -> None:
        moves = direction.split([p.numel() for p in weights])
        with torch.no_grad():
            for p, part in zip(weights, moves, strict=True):
                p.sub_(part.view_as(p), alpha=coreset.lr)

    chosen = greedy(gradients, slope, move, coreset.count(len(parts)))
    return torch.cat([parts[number] for number in chosen])


def greedy(gradients: Tensor, slope: Callable[[int], Tensor], move: Callable[[Tensor], None], count: int) -> list[int]:
    """`count` rows of `gradients` (batches, parameters), each the one with the largest product with the slope there.

    `slope` of the step (from 0) answers (parameters,) at the current weights, `move` steps against a gradient.
    """
    chosen: list[int] = []
    for step in range(count):
        gain = gradients @ slope(step)
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        if step + 1 < count:
            move(gradients[chosen[-1]])
    return chosen


def _gradients(net: "Net", weights: list[nn.Parameter], batches: int, loss: "Loss") -> Tensor:
    """(batches, parameters), each at the very state that `net` is in: statistics that a loss moves are put back."""
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    kept = weights[0].new_empty(batches, sum(p.numel() for p in weights))
    for number in range(batches):
        kept[number] = _flat(loss(net, number), weights)
        for buffer, start in before:
            buffer.copy_(start)
    return kept


def _flat(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """(parameters,) gradient of a scalar; 0 where a weight plays no part."""
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, weights, strict=True)])
    if not torch.isfinite(flat).all():
        raise NumberError("coreset: a gradient is not finite, expected numbers")
    return flat
