"""The only owner of the benchmark of views: AdvCL's strong view, beside torchvision on PIL images and kornia.

Each side makes one view per image from 8-bit pixels, with parameters per image: a crop of 20 % to 100 % of the area
resized to 32x32, a flip, colour jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, and grayscale with 0.2.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.ratio import Candidates, Ratio, compared, interleave
from robustcl.pretraining.images import Images
from robustcl.pretraining.views import apply, recipe

BATCH, SIDE = 512, 32
PIL, KORNIA = "torchvision on PIL images", "kornia AugmentationSequential"
WHAT = "AdvCL's strong view, batch of 512"


def compare(rounds: int) -> list[Ratio]:
    """The lines of goal 10, ours as it is and compiled."""
    return _compare(rounds, compiled=True)


def quick() -> list[Ratio]:
    """One round, without compiling, which takes half a minute."""
    return _compare(1, compiled=False)


def _compare(rounds: int, compiled: bool) -> list[Ratio]:
    images = pixels()
    times = interleave({**ours(images, compiled), **theirs(images)}, rounds)
    lines = [
        Ratio(number=10, what=WHAT, peer=PIL, goal=3, note=_note("torchvision")),
        Ratio(number=10, what=WHAT, peer=KORNIA, goal=1.3, note=_note("kornia")),
    ]
    fused = [
        replace(line, metric="CPU time, ours compiled", goal=goal) for line, goal in zip(lines, (8, 3), strict=True)
    ]
    return compared(lines, times, "ours") + (compared(fused, times, "ours compiled") if compiled else [])


def pixels() -> Images:
    """Smooth random colour images of 8 bits."""
    coarse = torch.rand(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.zeros(BATCH, dtype=torch.int64)
    return Images((255 * smooth).round().to(torch.uint8), labels, classes=1, name="smooth")


def ours(images: Images, compiled: bool) -> Candidates:
    """Our view of the whole batch, with `compiled` also as fused kernels; the round that is not counted compiles."""
    source = torch.Generator().manual_seed(0)

    def view(fused: bool) -> Callable[[], Tensor]:
        return lambda: apply(recipe("advcl"), images.floats(slice(None)), source, compiled=fused)

    return {"ours": view(False), **({"ours compiled": view(True)} if compiled else {})}


def theirs(images: Images) -> Candidates:
    """The views of the peers that are there."""
    made: dict[str, Callable[[], object]] = {}
    if peers.installed("torchvision"):
        made[PIL] = _pil(images)
    if peers.installed("kornia"):
        made[KORNIA] = _kornia(images)
    return made


def _pil(images: Images) -> Callable[[], Tensor]:
    """Image by image, as official code does in its data loader: PIL to a tensor, and a batch of those."""
    transforms = peers.peer("torchvision.transforms")
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, scale=(0.2, 1)),
            transforms.RandomHorizontalFlip(),
            jitter,
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )
    image = peers.peer("PIL.Image")
    arrays = images.pixels.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    opened = [image.fromarray(array) for array in arrays]  # the data set hands PIL images out: not in the time
    return lambda: torch.stack([chain(one) for one in opened])


def _kornia(images: Images) -> Callable[[], Tensor]:
    """The batch at once, with parameters per image."""
    augment = peers.peer("kornia.augmentation")
    chain = augment.AugmentationSequential(
        augment.RandomResizedCrop((SIDE, SIDE), scale=(0.2, 1)),
        augment.RandomHorizontalFlip(),
        augment.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augment.RandomGrayscale(p=0.2),
    )

    def view() -> Tensor:
        with torch.no_grad():
            made: Tensor = chain(images.floats(slice(None)))
        return made

    return view


def _note(name: str) -> str:
    return "" if peers.installed(name) else peers.absent(name)
