"""Layers and the batch norms behind them answer as one inside the block, and leave no trace of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from robustcl.models.architectures.resnet import ResNet
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.architectures.wideresnet import WideResNet
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.folding import folded, pairs
from robustcl.models.heads import projector
from robustcl.models.routing import batch_norm_mode, branch
from robustcl.pretraining.method import Net

TINY = Tiny(width=4)
CASES = [(ResNet(width=4), 0), (ResNet(depth=50, width=4), 0), (WideResNet(widen=1), 13), (TINY, 0)]


class Norms(TorchDispatchMode):
    """Counts batch norms as they are computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket is torch.ops.aten.native_batch_norm
        return func(*args, **(kwargs or {}))


def net(architecture: Any = TINY) -> tuple[Net, Tensor]:
    """A net of two routes in float64 that begins with statistics and weights of its own everywhere, and images."""
    torch.manual_seed(0)
    encoder = Encoder(architecture, (3, 16, 16), routes=("normal", "pgd"))
    made = Net(encoder, {"projector": projector(encoder.width, 8, 8, 3, "all")}).double()
    branch(made.heads, encoder.switch)
    for name, held in [*made.named_parameters(), *made.named_buffers()]:
        if held.is_floating_point() and held.dim() == 1:
            low, high = (-0.1, 0.1) if name.endswith(("bias", "mean")) else (0.8, 1.2)
            nn.init.uniform_(held, low, high)
    return made.train(), torch.rand(5, 3, 16, 16, dtype=torch.float64)


def answer(made: Net, images: Tensor, route: str) -> tuple[Tensor, Tensor]:
    """The projections and the gradient of the images."""
    points = images.clone().requires_grad_()
    found = made(points, "projector", route)
    return found, torch.autograd.grad(found.square().sum(), points)[0]


@pytest.mark.parametrize("route", ["normal", "pgd"])
@pytest.mark.parametrize(("architecture", "left"), CASES)
def test_answers_and_gradients_are_the_same_and_the_norms_are_gone(architecture: Any, left: int, route: str) -> None:
    made, images = net(architecture)
    before = {name: held.clone() for name, held in made.state_dict().items()}
    with batch_norm_mode(made, False):
        expected = answer(made, images, route)
        with folded(made), Norms() as seen:
            found = answer(made, images, route)
        again = answer(made, images, route)
    assert seen.count == left  # a norm behind a sum stays
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(one, two) for one, two in zip(again, expected, strict=True))
    assert all(torch.equal(held, before[name]) for name, held in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_the_routes_have_folds_of_their_own_in_one_block() -> None:
    made, images = net()
    with batch_norm_mode(made, False), torch.no_grad():
        expected = {route: made(images, "projector", route) for route in ("normal", "pgd")}
        with folded(made):
            found = [(route, made(images, "projector", route)) for route in ("normal", "pgd", "normal")]
    assert not torch.allclose(expected["normal"], expected["pgd"])
    for route, answered in found:
        torch.testing.assert_close(answered, expected[route], rtol=1e-9, atol=1e-12)


def test_norms_in_train_mode_stay_as_they_are() -> None:
    made, images = net()
    count = len(pairs(made))
    assert count == 9  # a stem, two blocks with a shortcut, a projector
    other, _ = net()
    with folded(made), Norms() as seen:
        found = made(images, "projector", "pgd")
    assert seen.count == count
    assert torch.equal(found, other(images, "projector", "pgd"))
    assert all(torch.equal(one, two) for one, two in zip(made.buffers(), other.buffers(), strict=True))


def test_blocks_nest_and_an_error_leaves_nothing_behind() -> None:
    made, images = net()
    made.eval()
    expected = made(images, "projector").detach()
    with folded(made), Norms() as seen:
        with folded(made.encoder):
            made(images, "projector")
        made(images, "projector")
    assert seen.count == 0
    with pytest.raises(UserError, match="no route"), folded(made):
        made(images, "projector", "no route")
    assert torch.equal(made(images, "projector"), expected)
    assert not any("forward" in vars(part) for part in made.modules())


def test_each_block_folds_the_weights_of_its_time() -> None:
    made, images = net()
    made.eval()
    with folded(made):
        before = made(images, "projector")
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.5)
    with folded(made):
        after = made(images, "projector")
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, made(images, "projector"), rtol=1e-9, atol=1e-12)
    assert not after.requires_grad


def test_in_autocast_it_is_folded_in_float32_and_rounded_once() -> None:
    made, images = net(ResNet(width=4))
    made, images = made.float().eval(), images.float()
    exact = made(images, "projector")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = made(images, "projector")
        with folded(made):
            found = made(images, "projector")
    assert found.dtype == torch.bfloat16
    apart, plainly = ((one.float() - exact).abs().max() for one in (found, plain))
    assert apart < 2 * plainly
    assert apart < 0.05 * exact.abs().max()


def test_a_layer_without_its_norm_behind_it_is_no_pair() -> None:
    free = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    assert pairs(free) == []
    assert len(pairs(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))) == 1


class Centred(nn.Conv2d):
    """A convolution of its own kind."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Doubled(nn.BatchNorm2d):
    """A batch norm of its own kind."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Around(nn.Sequential):
    """A sequence that goes past its norm."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self[0](x)
        normed: Tensor = self[1](y)
        return y + normed


def odd(kind: str) -> nn.Module:
    """What looks like a layer and its batch norm and is more than that."""
    conv, norm, other = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    if kind == "hook":
        conv.register_forward_hook(lambda layer, given, answer: 2 * answer)
    if kind == "hook of the norm":
        norm.register_forward_pre_hook(lambda layer, given: (given[0] + 1,))
    made: dict[str, nn.Module] = {
        "layer": nn.Sequential(Centred(3, 3, 3), norm),
        "norm": nn.Sequential(conv, Doubled(3)),
        "sequence": Around(conv, norm),
        "layer twice": nn.Sequential(conv, norm, conv, other),
        "layer elsewhere": nn.Sequential(conv, nn.ReLU(), conv, norm),
        "norm twice": nn.Sequential(conv, norm, nn.Conv2d(3, 3, 3), norm),
        "norm elsewhere": nn.Sequential(conv, norm, nn.ReLU(), norm),
        "hook": nn.Sequential(conv, norm),
        "hook of the norm": nn.Sequential(conv, norm),
        "rows": nn.Sequential(nn.Flatten(2), nn.Linear(36, 3), nn.BatchNorm1d(3)),
        "synchronised": nn.Sequential(conv, nn.SyncBatchNorm(3)),
    }
    return made[kind]


LAYERS = ["layer", "layer twice", "layer elsewhere", "hook", "rows"]
NORMS = ["norm", "norm twice", "norm elsewhere", "hook of the norm", "synchronised"]


@pytest.mark.parametrize("kind", [*LAYERS, *NORMS, "sequence"])
def test_what_looks_like_a_pair_and_is_none_answers_as_ever(kind: str) -> None:
    torch.manual_seed(0)
    model, x = odd(kind).double().eval(), torch.rand(2, 3, 6, 6).double()
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            part.running_mean.uniform_(-0.5, 0.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    with torch.no_grad():
        expected = model(x)
        with folded(model):
            torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x), expected)
