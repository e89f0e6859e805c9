"""The only owner of the probe `frequency`: images with their low- and their high-frequency parts at some radii."""

from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from robustcl.bench.probe import Arrays, Probe, Reads, Subject, placed
from robustcl.models.value import value
from robustcl.pretraining.frequency import high_frequency, low_frequency
from robustcl.pretraining.images import Images

_SHARES = (1 / 8, 1 / 4, 3 / 8)  # of the image's side; a quarter is AdvCL's 8 of 32


@value
class Frequency(Probe):
    """The two parts of AdvCL's eq. 8 at every radius of `radii` (default: 1/8, 1/4 and 3/8 of the image's side).

    Arrays: `image` (n,) and `label` (n,), `clean` (n, c, h, w) in [0, 1], `radius` (r,), `low` and `high`
    (r, n, c, h, w), which add up to `clean`; `high` is negative in places.
    """

    version: ClassVar[int] = 1

    images: int = Field(default=4, ge=1)
    radii: tuple[float, ...] = ()

    @field_validator("radii")
    @classmethod
    def _above(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= radius < np.inf for radius in radii):
            raise ValueError(f"{list(radii)} is wrong, expected numbers of at least 0")
        return radii

    @property
    def reads(self) -> Reads:
        return "images"

    def passes(self, images: Images) -> int:
        return 0

    def run(self, subject: Subject) -> Arrays:
        part = subject.images.sample(self.images).to("cpu")
        clean, side = part.floats(slice(None)), max(part.shape[1:])
        radii = self.radii or tuple(share * side for share in _SHARES)
        parts = {"low": low_frequency, "high": high_frequency}
        views = {name: np.stack([of(clean, radius).numpy() for radius in radii]) for name, of in parts.items()}
        return {**placed(part), "clean": clean.numpy(), "radius": np.array(radii, dtype=np.float32), **views}
