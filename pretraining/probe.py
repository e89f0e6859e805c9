"""The only owner of the probe: whether an encoder from outside knows the images, asked before it is built upon."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.value import value
from robustcl.pretraining.images import Images
from robustcl.pretraining.monitor import PIECE, Bank, features, unmoved

BANK, ASKED = 2000, 500  # images that vote, and that are asked: a minute or two for a ResNet-18 on one core
HOLD_OUT = 5
ABOVE_CHANCE, ABOVE_RANDOM = 1e-6, 1e-3


@value
class Probe:
    """What nearest neighbours knew: of `asked` held-out training images the class of `right` was voted rightly.

    `chance` is the larger of 1/classes and the share of the commonest class among the training images; `p` is the exact
    one-sided binomial probability to be as good by chance. `random_right` is what an untrained encoder of the same
    shape got on the same images, `p_random` the exact one-sided sign test on those of which just one of the two was
    right.
    """

    asked: PositiveInt
    right: int
    chance: float
    p: float
    random_right: int
    p_random: float

    @property
    def above_random(self) -> bool:
        """Whether it is clearly better than an untrained encoder."""
        return self.p_random < ABOVE_RANDOM

    def __str__(self) -> str:
        """A line or two for people."""
        line = (
            f"kNN {self.right / self.asked:.1%} of {self.asked} held-out training images; chance {self.chance:.1%} "
            f"(p = {self.p:.1g}), an untrained encoder {self.random_right / self.asked:.1%} (p = {self.p_random:.1g})"
        )
        if self.above_random:
            return line
        return f"{line}\nwarning: not clearly better than an untrained encoder; are these its weights, stem and data?"


def probe(encoder: Encoder, images: Images, where: str) -> Probe:
    """Ask an encoder of one route, in eval mode, about held-out ones of these training images; test images never.

    The k = 20 nearest of 2,000 images vote with weights exp(cosine / 0.1), as in Wu et al., CVPR 2018. Errors:
    `UserError` unless the votes are right clearly above chance (p < 1e-6), and where the images are too few to tell.
    """
    rest, held = images.hold_out(HOLD_OUT)
    bank, asked = rest.sample(BANK), held.sample(ASKED)
    chance = max(1 / images.classes, float(images.labels.bincount().max()) / len(images))
    if chance ** len(asked) >= ABOVE_CHANCE:
        raise UserError(
            f"{where}: {len(asked)} held-out images are too few to probe it, expected more; set probe = false"
        )
    untrained = Encoder(encoder.architecture, images.shape, routes=encoder.routes).to(encoder.mean.device)
    untrained.mean, untrained.std = encoder.mean, encoder.std
    right, random = (_right(one, bank, asked, where) for one in (encoder, untrained))
    better, worse = int((right & ~random).sum()), int((~right & random).sum())
    found = Probe(
        asked=len(asked),
        right=int(right.sum()),
        chance=chance,
        p=_p(int(right.sum()), len(asked), chance),
        random_right=int(random.sum()),
        p_random=_p(better, better + worse, 0.5) if better + worse else 1.0,
    )
    if found.p >= ABOVE_CHANCE:
        first = str(found).splitlines()[0]
        raise UserError(f"{where}: {first}, expected p below {ABOVE_CHANCE:g}; set probe = false to judge it anyway")
    return found


def passes(images: Images) -> int:
    """The forward passes of a probe."""
    return 2 * (min(ASKED, len(images) // HOLD_OUT) + min(BANK, len(images)))


def _right(encoder: Encoder, bank: Images, asked: Images, where: str) -> Tensor:
    with unmoved(encoder), torch.no_grad():
        near = Bank(features(encoder, None, bank), bank.labels, bank.classes)
        found = features(encoder, None, asked)
        if not torch.isfinite(found).all():
            raise UserError(f"{where}: its features are NaN or infinite, expected numbers")
        votes = [near.vote(near.similar(piece), 20, 0.1).argmax(1) for piece in found.split(PIECE)]
    return torch.cat(votes) == asked.labels


def _p(right: int, n: int, chance: float) -> float:
    from scipy.stats import binomtest  # a second to import, which few commands need

    return float(binomtest(right, n, chance, alternative="greater").pvalue)
