"""The only owner of the network as an attack sees it: a frozen copy, batch norm folded, channels last, one precision.

It answers like the network itself up to rounding, and what is found on it counts only where the network itself, in
float32, is wrong too: whoever searches with it has to ask (see `bench/judge.py`).
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from robustcl.models.errors import UserError

Precision = Literal["float32", "tf32", "bfloat16"]
Answers = Callable[[Tensor], Tensor]
_TOLERANCE = 1e-4  # of how far logits lie apart: folding rounds otherwise, anything beyond that is another network


class Lean:
    """`model` for searching: images (n, ...) in [0, 1] to float32 logits (n, classes), and to gradients of the images.

    `example` are a few images that show how the model is built; where a copy does not answer like the model (it draws,
    it counts its calls, it cannot be copied), the model itself is taken. `tf32` and `bfloat16` round the search alone.
    Errors: `UserError` for tf32 away from CUDA.
    """

    def __init__(self, model: Answers, example: Tensor, precision: Precision = "float32") -> None:
        if precision == "tf32" and example.device.type != "cuda":
            raise UserError(f"attack: precision 'tf32' on {example.device.type}, expected a CUDA device, or 'bfloat16'")
        self.precision, self.device = precision, example.device.type
        found = lighter(model, example) if isinstance(model, nn.Module) else None
        self.model, self.copied = found or model, found is not None
        self.last = found is not None and _channels_last(found, example)  # the order of an image in memory

    def answers(self, images: Tensor) -> Tensor:
        """The logits (n, classes), without a graph."""
        with torch.no_grad(), self._rounding():
            return self._forward(images)

    def gradient(self, images: Tensor, losses: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, classes), losses (n,) and the gradient of their sum with respect to the images alone, detached.

        Where an image has no gradient, it is zero and not an error.
        """
        points = images.detach().requires_grad_()
        with torch.enable_grad(), self._rounding():
            logits = self._forward(points)
            each = losses(logits)
            if each.requires_grad:
                (found,) = torch.autograd.grad(each.sum(), points, allow_unused=True)
            else:
                found = None
        return logits.detach(), each.detach(), torch.zeros_like(images) if found is None else found

    def laid_out(self, images: Tensor) -> Tensor:
        """The same images in the order that the model answers fastest in."""
        if images.dim() != 4:
            return images
        return images.contiguous(memory_format=torch.channels_last if self.last else torch.contiguous_format)

    def pullback(self, images: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Logits (n, classes), and what gives the gradient of their sum with weights (n, classes), time and again.

        Where an image has no gradient, it is zero and not an error.
        """
        points = images.detach().requires_grad_()
        with torch.enable_grad(), self._rounding():
            logits = self._forward(points)

        def pull(weights: Tensor) -> Tensor:
            found = None
            if logits.requires_grad:
                with self._rounding():
                    (found,) = torch.autograd.grad(logits, points, weights, retain_graph=True, allow_unused=True)
            return torch.zeros_like(images) if found is None else found

        return logits.detach(), pull

    def _rounding(self) -> AbstractContextManager[None]:
        """What is not tf32 rounds as whoever searches does: judging is strict, and to say so again takes a while."""
        return rounding("tf32") if self.precision == "tf32" else nullcontext()

    def _forward(self, images: Tensor) -> Tensor:
        images = self.laid_out(images)
        if self.precision != "bfloat16":
            return self.model(images).float()
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.model(images)
        return logits.float()


@contextmanager
def rounding(precision: Precision) -> Iterator[None]:
    """How float32 is multiplied inside the block: strictly, or on CUDA with `tf32` in 10 bits, which is torch's default
    for convolutions. Forward and backward have to lie in one block.

    A CPU multiplies in bfloat16 where somebody has set `torch.set_float32_matmul_precision("medium")`, and in no block.
    """
    wanted = ("high", True, "tf32") if precision == "tf32" else ("highest", False, "ieee")
    before = _rounded()
    _round(wanted[:2], [wanted[2]] * len(before[1]))
    try:
        yield
    finally:
        _round(*before)


def _rounded() -> tuple[Any, list[str]]:
    """What torch's older flags say, where they can be read, and its newer ones."""
    old = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            old.append(read())
        except RuntimeError:  # somebody has set the newer flags, and torch refuses to say this in its older terms
            old.append(None)
    return old, [part.fp32_precision for part in _parts()]


def _round(old: Any, new: Sequence[str]) -> None:
    matmul, convolutions = old
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
    for part, held in zip(_parts(), new, strict=True):
        part.fp32_precision = held


def _parts() -> list[Any]:
    """Where torch 2.9 and later say it, operation by operation; nothing before."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return []
    places: list[Any] = [torch.backends.cudnn, torch.backends.mkldnn]
    return [torch.backends.cuda.matmul, places[1].matmul, *(getattr(p, op) for p in places for op in ("conv", "rnn"))]


def lighter(model: nn.Module, example: Tensor) -> nn.Module | None:
    """A frozen copy in eval mode, its batch norms folded; None where it answers otherwise."""
    with torch.no_grad(), torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
        try:
            held = copy.deepcopy(model)
        except Exception:  # what holds a lock, a hook's closure or a graph cannot be copied, and need not be
            return None
        if not set(held.modules()).isdisjoint(model.modules()):  # a copy of its own making, and no copy
            return None
        _freeze(held)
        expected = model(example)
        pairs = _pairs(held, example)
        _fold(held, pairs)
        if not _near(held, example, expected):  # an answer that goes past its norm as well: fold what can be folded
            _freeze(held := copy.deepcopy(model))
            for pair in pairs:
                before = [(name, held.get_submodule(name)) for name in pair]
                _fold(held, [pair])
                if not _near(held, example, expected):
                    for name, layer in before:
                        _replace(held, name, layer)
        return held if _near(held, example, expected) else None


def _freeze(model: nn.Module) -> None:
    model.eval()
    for p in model.parameters():  # one by one, since a scripted module has no flag for all
        p.requires_grad_(False)


def _channels_last(model: nn.Module, example: Tensor) -> bool:
    """Put the model into this order, where its images have channels and it answers the same in it."""
    if example.dim() != 4:
        return False
    with torch.no_grad(), torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
        expected = model(example)
        with contextlib.suppress(RuntimeError):  # a view of what is no longer in one piece, a weight of five dimensions
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if _near(model, example.contiguous(memory_format=torch.channels_last), expected):
                return True
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return False


def _near(model: nn.Module, example: Tensor, expected: Tensor) -> bool:
    found = model(example)
    near = _TOLERANCE * (expected.amax(1) - expected.amin(1)).max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= near)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """The names of layers and of the batch norms that are given what they answer, both called once in one forward."""
    calls: dict[nn.Module, int] = {}
    answered: list[tuple[nn.Module, Tensor]] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def see(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if not isinstance(layer, _BatchNorm):
            answered.append((layer, answer))
        elif layer.running_mean is not None:
            pairs.extend((before, layer) for before, held in answered if held is given[0])

    names = {part: name for name, part in model.named_modules() if _foldable(part) or isinstance(part, _BatchNorm)}
    hooks = [part.register_forward_hook(see) for part in names]
    model(example)
    for hook in hooks:
        hook.remove()
    return [(names[layer], names[norm]) for layer, norm in pairs if calls[layer] == calls[norm] == 1]


def _fold(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    for name, follower in pairs:
        layer, norm = model.get_submodule(name), model.get_submodule(follower)
        _replace(model, name, _FUSE[type(layer)](layer, norm))
        _replace(model, follower, nn.Identity())


_FUSE: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: fuse_conv_bn_eval,
    nn.Linear: fuse_linear_bn_eval,
}


def _foldable(layer: nn.Module) -> bool:
    """Not where a hook makes the weight anew from others in every forward (pruning, weight or spectral norm)."""
    return type(layer) in _FUSE and "weight" in layer._parameters


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    parent = model.get_submodule(above)
    if isinstance(parent, nn.ModuleDict | nn.Sequential | nn.ModuleList):
        parent._modules[last] = layer
    else:
        setattr(parent, last, layer)
