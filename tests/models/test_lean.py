"""The network as an attack sees it answers like the network itself, and falls back to it where it cannot."""

import operator
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from robustcl.models.architectures.resnet import ResNet
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.architectures.wideresnet import WideResNet
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.lean import Lean, lighter


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def classifier(architecture: Any, side: int = 32) -> tuple[Classifier, Tensor]:
    """A classifier whose statistics are not those of its start, and images."""
    torch.manual_seed(0)
    images = torch.rand(12, 3, side, side)
    made = Classifier(encoder := Encoder(architecture, (3, side, side)), nn.Linear(encoder.width, 10))
    for norm in norms(made):
        norm.momentum = None  # the statistics of these images, and not a tenth of them
    made.train()(images)
    for norm in norms(made):
        nn.init.uniform_(norm.weight, 0.9, 1.1)
        nn.init.uniform_(norm.bias, -0.05, 0.05)
    return made.eval(), images


@pytest.mark.parametrize(
    ("architecture", "left"),
    [(ResNet(width=4), 0), (ResNet(depth=50, width=4), 0), (WideResNet(widen=1), 13), (Tiny(width=4), 0)],
)
def test_it_answers_like_the_network_and_its_norms_are_folded(architecture: Any, left: int) -> None:
    model, images = classifier(architecture)
    before = {name: held.clone() for name, held in model.state_dict().items()}
    lean = Lean(model, images[:2])
    assert lean.copied
    assert isinstance(lean.model, nn.Module)
    assert len(norms(lean.model)) == left  # a norm in front of its convolution cannot be folded
    with torch.no_grad():
        torch.testing.assert_close(lean.answers(images), model(images), rtol=1e-4, atol=1e-4)
    model, images = model.double(), images.double()  # in float32 a rounded ReLU may open or close
    lean = Lean(model, images[:2])
    points = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(points).logsumexp(1).sum(), points)
    logits, losses, gradient = lean.gradient(images, lambda z: z.logsumexp(1))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses, logits.logsumexp(1))
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_bfloat16_is_near_and_answers_in_float32() -> None:
    model, images = classifier(ResNet(width=4))
    exact, rounded = (Lean(model, images[:2], precision).answers(images) for precision in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05 * exact.abs().max()


def test_tf32_needs_cuda() -> None:
    model, images = classifier(Tiny(width=4))
    with pytest.raises(UserError, match="'tf32' on cpu, expected a CUDA device"):
        Lean(model, images, "tf32")


class Shared(nn.Module):
    """A convolution that is called twice, once in front of a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.conv(self.bn(self.conv(x))).mean((2, 3)))
        return answer


class Residual(Shared):
    """A convolution whose answer goes to a batch norm and past it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        answer: Tensor = self.head((y + self.bn(y)).mean((2, 3)))
        return answer


class Drawing(Shared):
    """A model that draws."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = super().forward(x)
        return answer + torch.randn_like(answer)


class Locked(Shared):
    """A model that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def moved(model: Shared) -> Shared:
    """Statistics and a weight that make a fold at a wrong place visible."""
    assert model.bn.running_mean is not None
    assert model.bn.running_var is not None
    model.bn.running_mean.fill_(0.3)
    model.bn.running_var.fill_(2)
    return model.eval()


def pruned(layer: nn.Conv2d) -> None:
    prune.l1_unstructured(layer, "weight", 0.3)


@pytest.mark.parametrize("change", [pruned, torch.nn.utils.spectral_norm])
def test_a_layer_whose_weight_is_made_anew_in_every_forward_keeps_its_norm(change: Any) -> None:
    model, images = (
        nn.Sequential(nn.Conv2d(3, 3, 1), moved(Shared()).bn, nn.Flatten(), nn.Linear(48, 2)).eval(),
        torch.rand(2, 3, 4, 4),
    )
    change(model[0])
    with torch.no_grad():
        expected = model(images)
        found = lighter(model, images)
        assert found is not None
        assert len(norms(found)) == 1
        torch.testing.assert_close(found(images), expected)


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_a_fold_at_a_wrong_place_is_seen_however_small_the_logits(scale: float) -> None:
    class Small(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * scale + 1000 * scale

    found = lighter(moved(Small()).double(), torch.rand(2, 3, 4, 4).double())
    assert found is not None
    assert len(norms(found)) == 1


class Shares(Shared):
    """A model whose copy is itself."""

    def __deepcopy__(self, memo: Any) -> "Shares":
        return self


def test_a_copy_that_shares_its_layers_with_the_model_is_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Shares()).eval()
    assert lighter(model, torch.rand(2, 3, 4, 4)) is None
    assert len(norms(model)) == 2


def test_a_layer_that_is_called_twice_keeps_its_norm() -> None:
    found = lighter(moved(Shared()), torch.rand(2, 3, 4, 4))
    assert found is not None
    assert len(norms(found)) == 1


def test_a_norm_that_its_layer_goes_past_stays_and_the_others_are_folded() -> None:
    both, images = (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), moved(Residual())).eval(),
        torch.rand(2, 3, 4, 4),
    )
    found = lighter(both, images)
    assert found is not None
    assert [name for name, part in found.named_modules() if isinstance(part, nn.BatchNorm2d)] == ["2.bn"]
    torch.testing.assert_close(found(images), both(images))


@pytest.mark.parametrize("kind", [Drawing, Locked])
def test_where_the_copy_would_answer_otherwise_the_model_itself_is_taken(kind: type[Shared]) -> None:
    model, images = moved(kind()), torch.rand(2, 3, 4, 4)
    lean = Lean(model, images)
    assert not lean.copied
    assert lean.model is model
    assert isinstance(model.bn, nn.BatchNorm2d)


class Viewed(nn.Module):
    """A model that takes it for granted how its images, or its features, lie in memory."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.body = nn.Flatten(0, 0) if first else nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.body(x).view(len(x), -1))
        return answer


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_views_its_images_keeps_their_order_in_memory(first: bool) -> None:
    model, images = Viewed(first).eval(), torch.rand(2, 3, 4, 4)
    lean = Lean(model, images)
    assert lean.copied
    assert not lean.last
    torch.testing.assert_close(lean.answers(images), model(images))
    torch.testing.assert_close(lean.answers(images.contiguous(memory_format=torch.channels_last)), model(images))


def test_a_model_with_a_weight_of_five_dimensions_keeps_the_order_of_its_images() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    lean = Lean(model, images := torch.rand(2, 3, 4, 4))
    assert lean.copied
    assert not lean.last
    torch.testing.assert_close(lean.answers(images), model(images))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_of_several_sums_from_one_forward(precision: Any) -> None:
    model, images = classifier(Tiny(width=4))
    lean = Lean(model, images[:2], precision)
    logits, pull = lean.pullback(images)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    for number in (1, 0, 1):
        expected = lean.gradient(images, operator.itemgetter((slice(None), number)))
        torch.testing.assert_close(logits, expected[0])
        weights = torch.zeros_like(logits)
        weights[:, number] = 1
        torch.testing.assert_close(pull(weights), expected[2])


def test_a_callable_and_a_gradient_that_is_cut() -> None:
    lean = Lean(lambda x: x.detach().flatten(1), images := torch.rand(2, 1, 2, 2))
    logits, _, gradient = lean.gradient(images, lambda z: z.sum(1))
    torch.testing.assert_close(logits, images.flatten(1))
    assert gradient.abs().max() == 0
    logits, pull = lean.pullback(images)
    assert pull(torch.ones_like(logits)).abs().max() == 0
