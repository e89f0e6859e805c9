"""The only owner of batch norms in eval mode that answer together with the layer before them, inside a block.

It is for networks whose weights move from step to step, such as the one that an attack of training sees: nothing is
copied, and an entry costs a few operations per layer. A network that stays as it is has `robustcl.models.lean`.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustcl.models.routing import RoutedBatchNorm

Layer = nn.Conv2d | nn.Linear
Norm = _BatchNorm | RoutedBatchNorm
_NORMS = (_BatchNorm, nn.SyncBatchNorm, RoutedBatchNorm)


def pairs(module: nn.Module) -> list[tuple[Layer, Norm]]:
    """Each layer below `module` with the batch norm that alone receives its answer.

    They are neighbours in a sequence, or a block says so in `FOLDS`, by the names of its parts. What has a forward or
    hooks of its own, or stands at several places, is left as it is.
    """
    places = Counter(part for _, part in module.named_modules(remove_duplicate=False))
    found: list[tuple[Layer, Norm]] = []
    for part in module.modules():
        inside = list(part) if isinstance(part, nn.Sequential) and _as_written(part, nn.Sequential) else []
        named = [(getattr(part, layer), getattr(part, norm)) for layer, norm in getattr(part, "FOLDS", ())]
        for layer, norm in [*itertools.pairwise(inside), *named]:
            plain = _as_written(layer, nn.Conv2d, nn.Linear) and _as_written(norm, *_NORMS)
            if plain and places[layer] == places[norm] == 1 and not _hooked(layer) and not _hooked(norm):
                found.append((layer, norm))
    return found


def _as_written(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it answers as one of these does."""
    return any(isinstance(part, kind) and type(part).forward is kind.forward for kind in kinds)


def _hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


@contextmanager
def folded(module: nn.Module) -> Iterator[None]:
    """Inside the block a layer and the eval-mode batch norm behind it are one layer; answers move by rounding alone.

    No weight below `module` may move inside the block, and none of the folded ones gets a gradient: it is for gradients
    with respect to images, and for frozen networks. Batch norms in train mode stay as they are. Blocks may be nested.
    """
    taken = [Folded(layer, norm) for layer, norm in pairs(module) if "forward" not in vars(layer)]
    try:
        for pair in taken:
            pair.enter()
        yield
    finally:
        for pair in taken:
            pair.leave()


class Folded:
    """One layer and its batch norm, whose `forward` is that of both while they are entered, for each route in use."""

    def __init__(self, layer: Layer, norm: Norm) -> None:
        self.layer, self.norm = layer, norm
        self.plain: tuple[Callable[[Tensor], Tensor], ...] = (layer.forward, norm.forward)
        self.held: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # branch -> weight and bias, made when first asked for

    def enter(self) -> None:
        """Take the place of both."""
        vars(self.layer)["forward"], vars(self.norm)["forward"] = self._answer, self._pass

    def leave(self) -> None:
        """Give it back."""
        del vars(self.layer)["forward"], vars(self.norm)["forward"]

    def _answer(self, x: Tensor) -> Tensor:
        branch = _branch(self.norm)
        across = isinstance(self.layer, nn.Linear) and x.dim() != 2  # its answer is normed along another dimension
        if across or branch.training or branch.running_mean is None:
            return self.plain[0](x)
        if branch not in self.held:
            self.held[branch] = fold(self.layer, branch, x)
        weight, bias = self.held[branch]
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        out: Tensor = self.layer._conv_forward(x, weight, bias)
        return out

    def _pass(self, x: Tensor) -> Tensor:
        return x if _branch(self.norm) in self.held else self.plain[1](x)


def fold(layer: Layer, norm: _BatchNorm, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that answers as both; in the precision that autocast computes `like` in, if on."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = (variance + norm.eps).rsqrt_()
        if norm.weight is not None:
            scale *= norm.weight
        weight = layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))
        bias = (mean if layer.bias is None else mean - layer.bias) * -scale
        bias = bias if norm.bias is None else bias + norm.bias
    kind: Any = like.device.type
    if torch.is_autocast_enabled(kind):  # once, and not in every forward
        return weight.to(torch.get_autocast_dtype(kind)), bias.to(torch.get_autocast_dtype(kind))
    return weight, bias


def _branch(norm: Norm) -> _BatchNorm:
    found = norm.branches[norm.switch.active] if isinstance(norm, RoutedBatchNorm) else norm
    assert isinstance(found, _BatchNorm)
    return found
