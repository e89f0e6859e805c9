"""The only owner of the probe `thumbnails`: some of the judged images as they are, for pages that show them."""

from typing import ClassVar

import torch
from pydantic import Field

from robustcl.bench.data import resized
from robustcl.bench.probe import Arrays, Probe, Reads, Subject, placed
from robustcl.models.value import value
from robustcl.pretraining.images import Images


@value
class Thumbnails(Probe):
    """A fixed random part of the judged images, all where there are fewer; images above `side` pixels are made smaller.

    Arrays: `image` (n,) int32 positions in the official split, `label` (n,) int16, `pixels` (n, c, h, w) uint8. In the
    plan of every suite; no network, no pass.
    """

    version: ClassVar[int] = 1

    images: int = Field(default=1000, ge=1)
    side: int = Field(default=64, ge=8)

    @property
    def reads(self) -> Reads:
        return "images"

    def passes(self, images: Images) -> int:
        return 0

    def run(self, subject: Subject) -> Arrays:
        part = subject.images.sample(self.images).to("cpu")
        pixels = part.pixels
        if pixels.dtype != torch.uint8:
            pixels = (pixels * 255).round().to(torch.uint8)
        if max(pixels.shape[-2:]) > self.side:
            pixels = resized(pixels, self.side)
        return {**placed(part), "pixels": pixels.numpy()}
