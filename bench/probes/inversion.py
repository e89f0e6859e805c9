"""The only owner of the probe `inversion`: the images that drive one neuron of an encoder to its extremum."""

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from robustcl.bench.probe import Arrays, NetworkProbe, Reads, Subject, placed
from robustcl.models.errors import UserError
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent, Step
from robustcl.pretraining.images import Images


@value
class Inversion(NetworkProbe):
    """Gradient ascent on feature `unit` of the encoder, from test images or from noise, bounded by [0, 1] alone.

    AdvCL (Fan et al., NeurIPS 2021, figure 5), which prints a minimisation and shows a maximisation: `sign` says which.
    Steps of l2 length `step` along the gradient, as Engstrom et al. (2019) invert features; the paper gives no recipe.
    Arrays: `image` (n,) and `label` (n,), -1 where the seed is noise, `start` and `found` (n, c, h, w) in [0, 1],
    `before` and `after` (n,), the activations there.
    """

    version: ClassVar[int] = 1

    unit: int = Field(default=502, ge=0)
    sign: Literal["max", "min"] = "max"
    start: Literal["test", "noise"] = "test"
    images: int = Field(default=4, ge=1)
    steps: int = Field(default=200, ge=1)
    step: Step = "1/4"

    @property
    def reads(self) -> Reads:
        return "encoder"

    def passes(self, images: Images) -> int:
        return min(self.images, len(images)) * 2 * (self.steps + 1)

    def check(self, where: str, images: Images, width: int) -> None:
        if self.unit >= width:
            raise UserError(f"{where}.unit: {self.unit}, the encoder has {width} features, expected 0 to {width - 1}")
        if self.step.startswith("eps/"):
            raise UserError(f"{where}.step: '{self.step}', expected an l2 length such as '1/4': there is no eps here")

    def run(self, subject: Subject) -> Arrays:
        encoder, part = subject.encoder, subject.images.sample(self.images)
        assert encoder is not None
        which, start = placed(part), part.floats(slice(None))
        if self.start == "noise":
            noise = torch.rand(start.shape, generator=generator(subject.seed, "inversion"))
            which, start = {name: np.full_like(numbers, -1) for name, numbers in which.items()}, noise.to(start)

        def activation(pixels: Tensor) -> Tensor:
            features: Tensor = encoder(pixels)
            return features[:, self.unit]

        towards = 1 if self.sign == "max" else -1
        whole = Threat(start[0].numel(), norm="l2")  # larger than the box, which alone is to bound it
        ascent, draws = Ascent(steps=self.steps, step=self.step, init="clean"), BatchDraws(generator(subject.seed))
        found = ascent(lambda pixels: towards * activation(pixels), start, whole, encoder, draws)
        with torch.no_grad():
            numbers = {"before": activation(start), "after": activation(found)}
        pixels = {"start": start, "found": found}
        return which | {name: tensor.cpu().numpy() for name, tensor in (pixels | numbers).items()}
