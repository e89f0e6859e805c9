"""Tests of the network families: sizes, costs, and equality with independent definitions of the same networks."""

from math import prod, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architecture import PACKAGE, Architecture, Body, read_architecture
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.architectures.wideresnet import WideResNet
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of, names
from robustcl.models.value import plain
from robustcl.models.vision import torchvision


def build(architecture: Architecture, channels: int = 3, seed: int = 0) -> Body:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return architecture.build(channels)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def parameters(body: Body) -> int:
    return sum(p.numel() for p in body.parameters())


def macs(body: Body, *shape: int) -> int:
    """Multiplications of the convolutions for one image."""
    counted: list[int] = []

    def count(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counted.append(out[0].numel() * module.in_channels * prod(module.kernel_size))

    for part in body.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(count)
    with torch.no_grad():
        body.eval()(torch.zeros(1, *shape))
    return sum(counted)


def unsettle(body: Body) -> None:
    """Parameters and statistics of batch norms as after some training, so that each of them matters."""
    g = torch.Generator().manual_seed(2)
    for part in body.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=g)


@pytest.mark.parametrize(
    ("depth", "width", "count"), [(18, 512, 11_168_832), (34, 512, 21_276_992), (50, 2048, 23_500_352)]
)
def test_resnets_have_the_published_number_of_parameters(depth: int, width: int, count: int) -> None:
    # With ten classes: 11,173,962, 21,282,122 and 23,520,842, the sizes of the CIFAR networks of the field.
    body = build(read_architecture({"name": "resnet", "depth": depth}, "test"))
    assert (body.width, parameters(body)) == (width, count)


def test_resnet_18_costs_555_million_multiplications_at_32_pixels() -> None:
    assert macs(build(ResNet()), 3, 32, 32) == 555_417_600


@pytest.mark.parametrize(("stem", "side"), [("3x3", 32), ("3x3-pad2", 34), ("7x7", 8)])
def test_stems_leave_maps_of_the_sizes_of_the_field(stem: str, side: int) -> None:
    body = build(read_architecture({"name": "resnet", "width": 8, "stem": stem}, "test"))
    seen: list[torch.Size] = []
    body.get_submodule("stem").register_forward_hook(lambda module, given, out: seen.append(out.shape))
    with torch.no_grad():
        features = body.eval()(images(2, 3, 32, 32))
    assert seen == [(2, 8, side, side)]
    assert features.shape == (2, 64)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnet_equals_torchvision_with_the_same_weights(depth: int) -> None:
    ours = build(read_architecture({"name": "resnet", "depth": depth, "stem": "7x7"}, "test"))
    unsettle(ours)
    theirs = getattr(torchvision().models, f"resnet{depth}")(num_classes=1)
    theirs.fc = nn.Identity()
    # Both list stem, then block by block conv1, bn1, ..., shortcut.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "count"), [(28, 36_472_784), (34, 46_154_064)])
def test_wide_resnets_have_the_published_number_of_parameters(depth: int, count: int) -> None:
    # With ten classes: 36,479,194 and 46,160,474, the WRN-28-10 and WRN-34-10 of RobustBench and TRADES.
    body = build(read_architecture({"name": "wideresnet", "depth": depth}, "test"))
    assert (body.width, parameters(body)) == (640, count)


def wide_reference(w: dict[str, Tensor], x: Tensor, count: int) -> Tensor:
    """WRN from its paper's figure: the shortcut branches off after the activation where the shape changes."""

    def active(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, weight, bias))

    x = F.conv2d(x, w["stem.weight"], padding=1)
    for stage in range(3):
        for block in range(count):
            at, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            a = active(x, f"{at}.bn1")
            y = F.conv2d(a, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(active(y, f"{at}.bn2"), w[f"{at}.conv2.weight"], padding=1)
            x = y + (x if block else F.conv2d(a, w[f"{at}.shortcut.weight"], stride=stride))
    return F.adaptive_avg_pool2d(active(x, "tail.0"), 1).flatten(1)


def test_wide_resnet_equals_the_papers_figure() -> None:
    body = build(WideResNet(widen=2)).double()
    unsettle(body)
    x = images(2, 3, 16, 16).double()
    with torch.no_grad():
        torch.testing.assert_close(body.eval()(x), wide_reference(body.state_dict(), x, count=4))


def test_tiny_is_within_the_budget_of_the_quick_start() -> None:
    assert macs(build(Tiny(), channels=1), 1, 8, 8) == 133_376
    assert macs(build(Tiny(), channels=3), 3, 8, 8) <= 300_000
    assert macs(build(Tiny(stride=1), channels=1), 1, 8, 8) == 533_504  # what its docstring warns of


def test_tiny_has_a_stage_per_entry() -> None:
    body = build(Tiny(width=4, blocks=(2, 1, 3)), channels=1)
    assert body.width == 16
    counts = [len(list(stage.children())) for stage in body.get_submodule("stages").children()]
    assert counts == [2, 1, 3]


@pytest.mark.parametrize("name", names(PACKAGE))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_family_builds_trains_and_answers_its_width(name: str, channels: int) -> None:
    body = build(read_architecture({"name": name}, "test"), channels)
    x = images(2, channels, 8, 8)
    features = body.train()(x)
    assert features.shape == (2, body.width)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())
    assert body.eval()(images(1, channels, 13, 16)).shape == (1, body.width)


@pytest.mark.parametrize("name", names(PACKAGE))
def test_every_family_starts_at_kaiming_fan_out(name: str) -> None:
    for part in build(read_architecture({"name": name}, "test")).modules():
        if isinstance(part, nn.Conv2d):
            wanted = sqrt(2 / (part.out_channels * prod(part.kernel_size)))
            # Five standard errors of the deviation of so many normal numbers.
            assert float(part.weight.detach().std() / wanted) == pytest.approx(1, abs=5 / sqrt(2 * part.weight.numel()))
            assert part.bias is None
        if isinstance(part, nn.BatchNorm2d):
            assert part.weight.eq(1).all()
            assert part.bias.eq(0).all()


@pytest.mark.parametrize("name", names(PACKAGE))
def test_every_family_is_drawn_from_the_seed(name: str) -> None:
    architecture = read_architecture({"name": name}, "test")
    first, same, other = (build(architecture, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("architecture", [ResNet(depth=50, stem="7x7"), Tiny(blocks=(1, 2)), WideResNet(depth=34)])
def test_a_family_reads_back_from_what_it_is_written_as(architecture: Architecture) -> None:
    table = {"name": name_of(architecture), **plain(architecture)}
    assert read_architecture(table, "test") == architecture


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "resnet", "depth": 20}, "encoder.depth: 20 is wrong, expected 18, 34 or 50"),
        ({"name": "resnet", "stem": "3x3-pad"}, "did you mean '3x3-pad2'?"),
        ({"name": "tiny", "blocks": []}, "encoder.blocks: "),
        ({"name": "tiny", "blocks": [0]}, "encoder.blocks.0: 0 is wrong, expected greater than 0"),
        ({"name": "wideresnet", "wide": 10}, "encoder: unknown key 'wide', expected one of depth, widen"),
    ],
)
def test_a_wrong_size_is_one_line(table: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        read_architecture(table, "encoder")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
