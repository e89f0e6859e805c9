"""The only owner of the probe `examples`: a few images before and after an attack, with what the model answers."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from robustcl.bench.judge import frozen, global_draws
from robustcl.bench.probe import Arrays, NetworkProbe, Reads, Subject, attacked, placed
from robustcl.models.value import value
from robustcl.pretraining.images import Images

Array = NDArray[Any]


@value
class Examples(NetworkProbe):
    """The same few test images for every classifier of a scheme, attacked within the suite's threat.

    The adversarial image is the one at which the judge saw it worst: projected, and answered in float32. Of an image
    that is wrong as it is, nothing is attacked, and it is the image itself. Arrays: `image` (n,) and `label` (n,),
    `clean` and `adversarial` (n, c, h, w) in [0, 1], `before` and `after` (n,) answers, `sure_before` and `sure_after`
    (n,) their softmax, `broken` (n,).
    """

    version: ClassVar[int] = 1
    given: ClassVar[bool] = True

    scheme: str = "SLF"
    images: int = Field(default=6, ge=1)
    attack: str = "pgd-20"

    @property
    def reads(self) -> Reads:
        return "classifier"

    @property
    def attacked(self) -> str:
        return self.attack

    def passes(self, images: Images) -> int:
        return 3 * min(self.images, len(images))

    def run(self, subject: Subject) -> Arrays:
        part = subject.images.sample(self.images)
        clean, (found, broken) = part.floats(slice(None)), attacked(subject, part)
        before, sure_before = _answers(subject, clean)
        after, sure_after = _answers(subject, found)
        return {
            **placed(part),
            "clean": clean.cpu().numpy(),
            "adversarial": found.cpu().numpy(),
            "before": before,
            "after": after,
            "sure_before": sure_before,
            "sure_after": sure_after,
            "broken": broken.numpy(),
        }


def _answers(subject: Subject, pixels: Tensor) -> tuple[Array, Array]:
    """What the classifier answers to `pixels`, and its softmax there: (n,) each."""
    assert subject.classifier is not None
    with torch.no_grad(), frozen(subject.classifier), global_draws(pixels.device, subject.seed, "examples"):
        sure, answer = subject.classifier(pixels).float().softmax(1).max(1)
    return answer.cpu().numpy().astype(np.int16), sure.cpu().numpy()
