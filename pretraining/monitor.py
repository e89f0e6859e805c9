"""The only owner of watching a run while it trains: nearest neighbours on held-out training images, now and then."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.encoder import Encoder
from robustcl.models.errors import NumberError, UserError
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import merge, plain, value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images

CLIMB = Ascent(steps=10, step="eps/4")
PIECE = 512  # images that are forwarded at once: a matter of memory


def _over(given: object) -> object:
    """What a table leaves out of the ascent is the monitor's default, not that of `Ascent`."""
    return merge(plain(CLIMB), given) if isinstance(given, Mapping) else given


@value
class Monitor:
    """What is measured every `every` epochs and after the last one, for people to watch; nothing is chosen by it.

    One training image in `hold_out` is left out of the training, and at most `images` of those, always the same ones,
    are asked for their class: the `k` nearest un-augmented training images (cosine of the features) vote with the
    weight exp(cosine / `temperature`), as in Wu et al., CVPR 2018. Their true labels are read here alone, and only to
    watch. `ascent` attacks the vote of the whole bank, in eval mode.
    """

    every: PositiveInt
    hold_out: int = Field(default=10, ge=2)
    k: PositiveInt = 20
    temperature: float = Field(default=0.1, gt=0)
    ascent: Annotated[Ascent, BeforeValidator(_over)] = CLIMB
    images: PositiveInt = 512

    @model_validator(mode="after")
    def _still(self) -> "Monitor":
        if self.ascent.batch_norm != "eval":
            raise ValueError("ascent.batch_norm is 'train', which moves the statistics, expected 'eval'")
        return self

    def watch(self, images: Images, threat: Threat | None, seed: int, where: str) -> "Watch":
        """The images of a run, split into those to train on and those to ask.

        Errors: `UserError` where there are too few images to hold one out.
        """
        if len(images) < self.hold_out:
            raise UserError(
                f"{where}: monitor.hold_out is {self.hold_out}, expected at most the number of images, {len(images)}"
            )
        rest, held = images.hold_out(self.hold_out)
        rows = torch.isin(images.index, rest.index).nonzero().flatten().cpu()
        return Watch(monitor=self, bank=rest, held=held.sample(self.images), rows=rows, threat=threat, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A monitor with what it needs in one run: the `bank` that is trained on, and the `held` images that it asks.

    `rows` (n,) is where the bank lies among all images.
    """

    monitor: Monitor
    bank: Images
    held: Images
    rows: Tensor
    threat: Threat | None
    seed: int

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to measure after this epoch (from 1) of all."""
        return epoch % self.monitor.every == 0 or epoch == epochs

    def measure(self, encoder: Encoder, route: str | None, epoch: int) -> dict[str, float]:
        """`knn`, the share of held-out images whose vote is right, and with a threat `robust_knn`, both in [0, 1].

        An image is robustly right where the vote is right before and after the ascent, as everywhere in robustcl. The
        encoder comes back bit for bit as it was: weights, statistics, modes, route, and no gradient on a parameter.
        """
        clean = robust = 0
        draws = BatchDraws(generator(self.seed, "monitor", epoch, device=self.held.pixels.device))
        with unmoved(encoder):
            bank = Bank(_finite(features(encoder, route, self.bank)), self.bank.labels, self.bank.classes)
            for at in range(0, len(self.held), PIECE):
                rows = slice(at, at + PIECE)
                images, labels = self.held.floats(rows), self.held.labels[rows]
                right = self._answer(encoder, route, bank, images) == labels
                clean += int(right.sum())
                if self.threat is not None:
                    climbed = self._climb(encoder, route, bank, images, labels, draws)
                    robust += int((right & (self._answer(encoder, route, bank, climbed) == labels)).sum())
        found = {"knn": clean / len(self.held)}
        return found if self.threat is None else found | {"robust_knn": robust / len(self.held)}

    def _answer(self, encoder: Encoder, route: str | None, bank: "Bank", images: Tensor) -> Tensor:
        with torch.no_grad():
            near = bank.similar(_finite(encoder(images, route)))
        return bank.vote(near, self.monitor.k, self.monitor.temperature).argmax(1)

    def _climb(
        self, encoder: Encoder, route: str | None, bank: "Bank", images: Tensor, labels: Tensor, draws: BatchDraws
    ) -> Tensor:
        assert self.threat is not None

        def objective(x: Tensor) -> Tensor:
            # The k nearest change from step to step; the whole bank votes smoothly.
            logits = bank.logits(bank.similar(encoder(x, route)), self.monitor.temperature)
            return F.cross_entropy(logits, labels, reduction="sum")

        return self.monitor.ascent(objective, images, self.threat, encoder, draws)


class Bank:
    """Features (n, width) with their labels (n,), sorted by class, that votes are taken from."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        order = labels.argsort(stable=True)
        self.features, self.labels = F.normalize(features.float(), dim=1)[order], labels[order]
        self.counts: list[int] = labels.bincount(minlength=classes).tolist()

    def similar(self, features: Tensor) -> Tensor:
        """(q, n) cosines of features (q, width) with the bank's."""
        return F.normalize(features.float(), dim=1) @ self.features.T

    def vote(self, similar: Tensor, k: int, temperature: float) -> Tensor:
        """(q, classes) weights of the `k` nearest of each row of cosines (q, n); a smaller bank votes as a whole."""
        near, place = similar.topk(min(k, similar.shape[1]), dim=1)
        weights = ((near - 1) / temperature).exp()  # less 1, a factor common to all, so that no weight overflows
        # By a product and not by scatter: its sums have one order on every device.
        return (F.one_hot(self.labels[place], len(self.counts)) * weights[:, :, None]).sum(1)

    def logits(self, similar: Tensor, temperature: float) -> Tensor:
        """(q, classes) logarithms of the weights of the whole bank; a class without an image is as far as can be."""
        parts = (similar / temperature).split(self.counts, dim=1)
        far = similar.new_full((len(similar),), -1 / temperature)
        return torch.stack([part.logsumexp(1) if part.shape[1] else far for part in parts], dim=1)


def features(encoder: Encoder, route: str | None, images: Images) -> Tensor:
    """(n, width) features of the un-augmented images, in the mode that the encoder is in."""
    with torch.no_grad():
        pieces = [encoder(images.floats(slice(at, at + PIECE)), route) for at in range(0, len(images), PIECE)]
    return torch.cat(pieces)


def _finite(found: Tensor) -> Tensor:
    """The features. Errors: `NumberError` where they are no numbers, of which the nearest are none either."""
    if not torch.isfinite(found).all():
        raise NumberError("monitor: features are not finite, expected numbers")
    return found


@contextmanager
def unmoved(encoder: Encoder) -> Iterator[None]:
    """The encoder in eval mode inside the block; the mode of every part, and the route, come back after it."""
    modes, active = {part: part.training for part in encoder.modules()}, encoder.switch.active
    encoder.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        encoder.switch.take(active)
