"""The only owner of the benchmark of the high-frequency view, beside the way official AdvCL code takes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratio import Candidates, Ratio, compared, interleave
from robustcl.pretraining.frequency import high_frequency

RADIUS, SIDE = 8, 32
OFFICIAL = "official steps: mask loop, complex FFT, shifts"
GOALS = {64: 5.0, 512: 2.3}
IMAGES = 2048  # of one candidate in one round, in as many calls as the batch needs


def compare(rounds: int) -> list[Ratio]:
    """The lines of goal 11."""
    lines = []
    for batch, goal in GOALS.items():
        line = Ratio(number=11, what=f"high-frequency part, batch of {batch}", peer=OFFICIAL, goal=goal)
        lines += compared([line], interleave(_candidates(batch), rounds), "ours")
    return lines


def published(images: Tensor) -> Tensor:
    """What official code does at each call: a disc made pixel by pixel and repeated for each channel of each image,
    complex transforms, and shifts along every axis, that of the images too, which shift back again.
    """
    side, flat = images.shape[-1], images.flatten(0, 1)
    disc = torch.zeros(side, side)
    for row in range(side):
        for column in range(side):
            away = np.sqrt((row - side / 2) ** 2 + (column - side / 2) ** 2)
            disc[row, column] = 1.0 if away < RADIUS else 0
    kept = 1 - disc.unsqueeze(0).repeat(len(flat), 1, 1)
    spectrum = torch.fft.fftshift(torch.fft.fftn(flat, dim=(-2, -1))) * kept
    part: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum), dim=(-2, -1)).real
    return part.reshape(images.shape)


def _candidates(batch: int) -> Candidates:
    images = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    calls = IMAGES // batch

    def repeated(work: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                work(images)

        return run

    return {"ours": repeated(lambda x: high_frequency(x, RADIUS)), OFFICIAL: repeated(published)}
