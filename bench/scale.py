"""The only owner of what a suite comes to at the paper's scale: its plan on as many images, which need not be there."""

from collections.abc import Sequence

import torch

from robustcl.bench.data import DataSet, Splits
from robustcl.bench.library import Library
from robustcl.bench.pace import flops, wall
from robustcl.bench.plan import Plan, plan
from robustcl.bench.spec import read_suite
from robustcl.bench.suite import Suite
from robustcl.bench.tables import find_suite, merged, suites
from robustcl.models.encoder import Encoder, Shape
from robustcl.models.plugin import name_of
from robustcl.pretraining.images import Images

MINI = "-mini"
SHAPE: Shape = (3, 32, 32)
_CIFAR = (50_000, 10_000, 0)  # training images, test images, and those without labels
_SIZES = {"stl10": (5_000, 8_000, 100_000)}

# Floating-point operations a second that one large GPU sustains on networks such as a ResNet-18 of CIFAR: what
# published contrastive pretraining reaches (13e12 to 27e12), and half of the fastest public training (112e12).
SUSTAINED = (15e12, 60e12)


def twin(name: str) -> str | None:
    """The suite at paper scale that a suite is the mini twin of, or that it is itself; None for any other."""
    full = name.removesuffix(MINI)
    return full if full in suites() and f"{full}{MINI}" in suites() else None


def at_scale(name: str) -> tuple[list[Suite], Plan]:
    """The points of a suite at paper scale, and their plan on as many images as CIFAR and STL-10 have, at 32x32.

    The images are black: what is planned, and what it costs, depends on how many there are. The keys are none of a run.
    Errors: `UserError` where the suite needs files of the user's that are not there.
    """
    table = merged(find_suite(name))[0]
    places = [f"sets.{key}" for key in table.get("sets", {})] + [key for key in ("data", "target") if key in table]
    points = read_suite(name, [f"{where}.path=images" for where in places])
    library = Library()
    for data in {data for point in points for data in (point.data, point.target) if data}:
        library.stand_in(data, *_black(data))
    return points, plan(points, library)


def clock(points: Sequence[Suite], made: Plan, devices: int) -> tuple[float, float]:
    """The seconds by the clock of a plan `at_scale` on so many GPUs: the least and the most by what one sustains.

    At most, as nothing breaks for any judge; an estimate from counted operations, of which nothing was measured.
    """
    work = flops(Encoder(points[0].architecture, SHAPE).eval(), torch.zeros(1, *SHAPE))
    low, high = (
        wall(made.stages, {key: passes * work / speed for key, passes in made.cost.items()}, devices)
        for speed in reversed(SUSTAINED)
    )
    return low, high


def _black(data: DataSet) -> tuple[Splits, Images | None]:
    train, test, unlabelled = _SIZES.get(name_of(data), _CIFAR)
    classes = 100 if name_of(data) == "cifar100" else 10
    made = [_images(n, classes, f"{name_of(data)} at scale") for n in (train, test)]
    return Splits(*made), _images(unlabelled, 1, made[0].name) if unlabelled else None


def _images(n: int, classes: int, name: str) -> Images:
    pixels = torch.zeros(n, *SHAPE, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % classes, classes=classes, name=name)
