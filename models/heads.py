"""The only owner of heads on features: projectors and linear classifiers."""

import itertools
from typing import Literal

from torch import nn

from robustcl.models.errors import UserError

Norm = Literal["hidden", "all", "none"]


def projector(width: int, hidden: int, out: int, layers: int = 2, norm: Norm = "hidden") -> nn.Sequential:
    """A perceptron (n, width) to (n, out) with ReLU between its `layers` linear layers; not normalised at its end.

    `norm` says where a BatchNorm1d follows a linear layer:
    - `hidden`, after all but the last; every layer has a bias. `projector(512, 512, 128)` is AdvCL's.
    - `all`, after the last too; the layers after the first have no bias. `projector(512, 512, 512, 3, "all")` is
      ACL's, and with two layers its short form, which SimCLR takes over from ACL.
    - `none`; every layer has a bias. `projector(512, 2048, 128, norm="none")` is RoCL's.

    Linear layers start at PyTorch's default. Errors: `UserError` where a size or the number of layers is below 1.
    """
    if min(width, hidden, out, layers) < 1:
        raise UserError(f"projector: sizes {width}, {hidden}, {out} and {layers} layers, expected at least 1 each")
    sizes = [width, *[hidden] * (layers - 1), out]
    parts: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
        parts.append(nn.Linear(before, after, bias=norm != "all" or number == 1))
        if norm == "all" or (norm == "hidden" and number < layers):
            parts.append(nn.BatchNorm1d(after))
        if number < layers:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def linear(width: int, classes: int, zero: bool = False) -> nn.Linear:
    """A linear classifier (n, width) to (n, classes), at PyTorch's default start or all `zero`.

    Errors: `UserError` where a size is below 1.
    """
    if min(width, classes) < 1:
        raise UserError(f"classifier: {width} features and {classes} classes, expected at least 1 each")
    head = nn.Linear(width, classes)
    if zero:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return head
