"""Networks and files as the official projects make them, written from their structure and not from robustcl's models.

Key names, branch order, stems and constants are those of the repositories that `robustcl.models.layouts` names. Widths
are small: no official name depends on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEACL = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


class Branches(nn.Module):
    """`bn_list` of AdvCL and ACL."""

    bn_list: nn.ModuleList

    def __init__(self, width: int, count: int, flat: bool = False) -> None:
        super().__init__()
        kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
        self.bn_list = nn.ModuleList([kind(width) for _ in range(count)])


class Normalise(nn.Module):
    """`normalize` of ACL and DeACL: constants as buffers of shape (3,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean[None, :, None, None]) / self.std[None, :, None, None]


def norm(part: nn.Module, x: Tensor, branch: int) -> Tensor:
    chosen = part.bn_list[branch] if isinstance(part, Branches) else part
    answer: Tensor = chosen(x)
    return answer


class Side(nn.Module):
    """`Downsample_multiple`: its parts are called conv and bn."""

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = conv, bn


class Block(nn.Module):
    def __init__(self, into: int, width: int, stride: int, net: "Net") -> None:
        super().__init__()
        self.deep, out = net.depth == 50, width * (4 if net.depth == 50 else 1)
        sizes = [(into, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        if not self.deep:
            sizes = [(into, width, 3, stride), (width, width, 3, 1)]
        for number, (a, b, kernel, step) in enumerate(sizes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", net.norm(b))
        self.count, self.side = len(sizes), net.side
        if stride != 1 or into != out:
            conv, bn = nn.Conv2d(into, out, 1, stride, bias=False), net.norm(out)
            setattr(self, net.side, Side(conv, bn) if net.branches else nn.Sequential(conv, bn))

    def run(self, x: Tensor, branch: int) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = norm(getattr(self, f"bn{number}"), getattr(self, f"conv{number}")(y), branch)
            y = F.relu(y) if number < self.count else y
        side = getattr(self, self.side, None)
        if isinstance(side, Side):
            x = norm(side.bn, side.conv(x), branch)
        elif side is not None:
            x = side(x)
        return F.relu(y + x)


class Net(nn.Module):
    """A ResNet of the field; `branches` 0 is plain batch norm, `side` the name of the shortcut."""

    def __init__(
        self,
        branches: int = 0,
        side: str = "downsample",
        constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        padding: int = 1,
        depth: int = 18,
        large: bool = False,
        width: int = 4,
    ) -> None:
        super().__init__()
        self.branches, self.side, self.depth, self.large = branches, side, depth, large
        if constants:
            self.normalize = Normalise(*constants)
        stem = (7, 2, 3) if large else (3, 1, padding)
        self.conv1 = nn.Conv2d(3, width, *stem, bias=False)
        self.bn1 = self.norm(width)
        into = width
        for stage, count in enumerate((2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)):
            blocks = []
            for number in range(count):
                blocks.append(Block(into, width * 2**stage, 2 if stage and not number else 1, self))
                into = width * 2**stage * (4 if depth == 50 else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out = into

    def norm(self, width: int) -> nn.Module:
        return Branches(width, self.branches) if self.branches else nn.BatchNorm2d(width)

    def features(self, x: Tensor, branch: int = 0) -> Tensor:
        x = self.normalize(x) if hasattr(self, "normalize") else x
        x = F.relu(norm(self.bn1, self.conv1(x), branch))
        x = F.max_pool2d(x, 3, 2, 1) if self.large else x
        for stage in range(1, 5):
            for block in getattr(self, f"layer{stage}"):
                x = block.run(x, branch)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def alive(net: nn.Module, seed: int = 0) -> Any:
    """Statistics, scales and shifts as if trained: every tensor matters, and every branch differs."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.data = torch.randn(part.weight.shape, generator=generator) * part.weight[0].numel() ** -0.5
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            for name in ("weight", "running_var"):
                getattr(part, name).data = 0.5 + torch.rand(part.weight.shape, generator=generator)
            for name in ("bias", "running_mean"):
                getattr(part, name).data = 0.3 * torch.randn(part.weight.shape, generator=generator)
            part.num_batches_tracked = torch.tensor(7)
    return net.eval()


def mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


def under(prefix: str, net: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in net.state_dict().items()}


def advcl() -> tuple[Net, Any]:
    net = Net(branches=3)
    for classes in (2, 10, 50, 100, 500):
        setattr(net, f"fc_{classes:03}", nn.Linear(net.out, classes))
    net.head_ce, net.head_proj, net.head_pred = mlp(net.out, 8, 1000), mlp(net.out, 8, 128), mlp(128, 128, 128)
    alive(net)
    return net, {"model": under("module.", net), "epoch": 1000, "rng_state": torch.get_rng_state()}


def advcl_slf() -> tuple[Net, Any]:
    """The file of AdvCL's linear probe: a plain network with one branch, the head in a state dict of its own."""
    net = Net(side="shortcut")
    net.linear = nn.Linear(net.out, 10)
    net.head_proj, net.head_pred = nn.Sequential(nn.Linear(net.out, 8)), nn.Sequential(nn.Linear(128, 8))
    alive(net)
    head = {"fc.weight": torch.zeros(10, net.out), "fc.bias": torch.zeros(10)}
    return net, {"model": under("", net), "classifier": head, "epoch": 3, "rng_state": torch.get_rng_state()}


def rocl() -> tuple[Net, Any]:
    net = alive(Net(side="shortcut"))
    state = {"epoch": 999, "acc": torch.tensor(1.0), "model": under("module.", net)}
    return net, state | {"optimizer_state": {"param_groups": [{"lr": 0.1}]}, "rng_state": torch.get_rng_state()}


class Projector(nn.Module):
    """`proj_head` of ACL: its batch norms have branches too."""

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.fc3 = nn.Linear(width, width, bias=False)
        self.bn1, self.bn2, self.bn3 = (Branches(width, branches, flat=True) for _ in range(3))


def acl(branches: int = 2, **sizes: Any) -> tuple[Net, Any]:
    net = Net(branches=branches, constants=IMAGENET, **sizes)
    net.fc = Projector(net.out, branches)
    alive(net)
    return net, {"epoch": 1000, "state_dict": under("", net), "optim": {"state": {}, "param_groups": []}}


def acl_converted() -> tuple[Net, Any]:
    """What DynACL's LPAFT saves: one branch, torchvision's names, a linear head."""
    net = Net(constants=IMAGENET)
    net.fc = nn.Linear(net.out, 10)
    return alive(net), {"state_dict": under("", net)}


def dynacl() -> tuple[Net, Any]:
    net, other = acl()[0], acl()[0]
    alive(other, seed=1)
    return net, {"epoch": 1000, "state_dict": under("encoder_q.", other) | under("encoder_k.", net), "optim": {}}


def air() -> tuple[Net, Any]:
    net, file = acl(depth=50)
    file["state_dict"] = {f"module.{name}": tensor for name, tensor in file["state_dict"].items()}
    return net, file


def deacl(**sizes: Any) -> tuple[Net, Any]:
    sizes = sizes or {"constants": DEACL}
    net, teacher = alive(Net(padding=2, **sizes)), alive(Net(padding=2, **sizes), seed=1)
    heads = nn.ModuleDict({name: nn.Linear(net.out, 10) for name in ("classifier", "classifier_adv")})
    return net, {"state_dict": under("backbone.", net) | under("", heads) | under("momentum_backbone.", teacher)}


def solo_learn() -> tuple[Net, Any]:
    net, copy = alive(Net(padding=2)), alive(Net(padding=2), seed=1)
    heads = nn.ModuleDict({name: mlp(net.out, 8, 8) for name in ("projector", "momentum_projector")})
    heads["classifier"] = nn.Linear(net.out, 100)
    queue = {"queue": torch.zeros(2, 8, 16), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return net, {"state_dict": under("backbone.", net) | under("momentum_backbone.", copy) | under("", heads) | queue}


def lightly() -> tuple[Net, Any]:
    """Its CIFAR network, cut into a sequence: conv1, bn1, layer1 to layer4."""
    net = alive(Net(side="shortcut"))
    return net, {
        "state_dict": _cut(net, "conv1 bn1 layer1 layer2 layer3 layer4")
        | under("projection_head.layers.", mlp(32, 8, 8))
    }


def lightly_imagenet() -> tuple[Net, Any]:
    """torchvision's network, cut into a sequence that has the ReLU and the max-pool in it."""
    net = alive(Net(large=True))
    return net, {"state_dict": _cut(net, "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4")}


def _cut(net: Net, children: str) -> dict[str, Tensor]:
    held = under("", net).items()
    parts = {child: number for number, child in enumerate(children.split())}
    return {f"backbone.{parts[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor for name, tensor in held}


def torchvision(**sizes: Any) -> tuple[Net, Any]:
    net = Net(large=True, **sizes)
    net.fc = nn.Linear(net.out, 1000)
    return alive(net), under("", net)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, and what its import has to say."""

    make: Callable[[], tuple[Net, Any]]
    layout: str
    routes: tuple[str, ...] = ("normal",)
    route: str = "normal"
    stem: str = "3x3"
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # what the network itself does not do
    prefix: str = ""
    classes: int | None = None
    depth: int = 18
    asked: dict[str, Any] = field(default_factory=dict)


CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
THREE, TWO = ("normal", "pgd", "pgd_ce"), ("normal", "pgd")
CASES = {
    "advcl": Case(make=advcl, layout="advcl", routes=THREE, route="pgd", prefix="module."),
    "advcl_slf": Case(make=advcl_slf, layout="advcl", routes=("pgd",), route="pgd", classes=10),
    "a_infonce": Case(
        make=advcl, layout="a_infonce", routes=THREE, route="pgd", prefix="module.", asked={"layout": "a_infonce"}
    ),
    "rocl": Case(make=rocl, layout="rocl", prefix="module."),
    "acl": Case(make=acl, layout="acl", routes=TWO, route="pgd"),
    "acl_s2s": Case(make=lambda: acl(1), layout="acl"),
    "acl_stl": Case(make=lambda: acl(large=True), layout="acl", routes=TWO, route="pgd", stem="7x7"),
    "acl_converted": Case(make=acl_converted, layout="acl", routes=("pgd",), route="pgd", classes=10),
    "dynacl": Case(make=dynacl, layout="dynacl", routes=TWO, route="pgd", prefix="encoder_k."),
    "air": Case(make=air, layout="acl", routes=TWO, route="pgd", prefix="module.", depth=50),
    "deacl": Case(make=deacl, layout="deacl", stem="3x3-pad2", prefix="backbone.", classes=10),
    "deacl50": Case(  # torchvision's network, which is given raw images: nothing normalises them
        make=lambda: deacl(depth=50), layout="deacl", stem="3x3-pad2", prefix="backbone.", classes=10, depth=50
    ),
    "solo_learn": Case(
        make=solo_learn, layout="solo_learn", stem="3x3-pad2", constants=CIFAR, prefix="backbone.", classes=100
    ),
    "lightly": Case(make=lightly, layout="lightly", constants=IMAGENET, prefix="backbone."),
    "lightly_imagenet": Case(
        make=lightly_imagenet, layout="lightly", stem="7x7", constants=IMAGENET, prefix="backbone."
    ),
    "torchvision": Case(make=torchvision, layout="torchvision", stem="7x7", constants=IMAGENET, classes=1000),
    "timm34": Case(
        make=lambda: torchvision(depth=34),
        layout="timm",
        stem="7x7",
        constants=IMAGENET,
        classes=1000,
        depth=34,
        asked={"layout": "timm"},
    ),
}
