"""The only owner of what the tests of the fast attacks share: a small trained model, an attack under two engines."""

import functools
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from robustcl.bench.autoattack.engine import Member
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.threat import Norm, Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import network, trained

EPS = {"linf": "1/9", "l2": "3/5", "l1": "5/4"}  # radii at which the model of `digits` loses more than half


@functools.cache
def digits(classes: int = 10, n: int = 40) -> tuple[nn.Module, Images]:
    """A small trained convolutional network and digits that it never saw."""
    model, x, y = trained(classes, n)
    return model, Images(x, y, classes=classes, name="digits")


@functools.cache
def random(classes: int, n: int = 24) -> tuple[nn.Module, Images]:
    """A network of random weights with so many classes, and images labelled as it answers."""
    model = network(classes, 5)
    pixels = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model, Images(pixels, model(pixels).argmax(1), classes=classes, name="random")


def records(model: nn.Module, images: Images, attack: Member, threat: Threat, **trial: Any) -> pd.DataFrame:
    """The rows of one attack, image by image."""
    found = judge(model, images, Trial(threat=threat, judges={"it": [attack]}, **trial))
    rows: pd.DataFrame = found[found["judge"] == "it"].set_index("image")
    return rows


def threat(norm: Norm, eps: str | None = None) -> Threat:
    """A ball of this norm."""
    return Threat(eps or EPS[norm], norm=norm)


def same(replayed: pd.DataFrame, released: pd.DataFrame) -> None:
    """Not one verdict differs, and both outcomes occur."""
    assert 0 < released["right"].sum() < len(released), "both outcomes have to occur"
    assert replayed["right"].tolist() == released["right"].tolist()


def still(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: what the model itself, in float32, still gets right."""
    with torch.no_grad():
        right: Tensor = model(points).argmax(1) == labels
    return right
