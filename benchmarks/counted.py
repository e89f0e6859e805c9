"""The only owner of what is counted and not timed: passes, kernels, waits of the host, FLOPs, and their upper bounds.

`python -m benchmarks.counted` prints every count beside its bound; `--regenerate` writes the bounds anew. They are kept
by tests/test_counted.py: a count has no noise, so that one above its bound is a change for the worse.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.versions import standard
from robustcl.bench.judge import Attack, Counted, Judge
from robustcl.bench.pgd import PGD
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Targets, build_net, named
from robustcl.reports.writers import grid

BOUNDS = Path(__file__).with_suffix(".json")
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
METHODS = ("advcl", "acl", "rocl")

Counts = dict[str, float]


class Tally(TorchDispatchMode):
    """Counts what reaches the dispatcher inside it: `kernels`, `flops`, and `waits`, whose result the host reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = self.waits = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation. Views launch nothing and are not counted; an index by a mask asks for its size."""
        name = func._schema.name.removeprefix("aten::")
        self.kernels += not func.is_view
        masks = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        self.waits += masks or name in WAITS
        made = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=made)
        return made


class Fixed(nn.Module):
    """The nearest class mean of scikit-learn's digits as a linear classifier; copies share the passes they count."""

    passes = 0

    def __init__(self) -> None:
        super().__init__()
        x, y = digits()
        means = torch.stack([x[y == label].mean(0).flatten() for label in range(10)])
        self.linear = nn.Linear(64, 10)
        with torch.no_grad():
            self.linear.weight.copy_(means)
            self.linear.bias.copy_(means.square().sum(1) / -2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10); one pass per image, and one more where its gradient is asked."""
        Fixed.passes += len(images)
        logits: Tensor = self.linear(images.flatten(1))
        if logits.requires_grad:
            logits.register_hook(_more)
        return logits


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images).float().div(16)[:, None], torch.from_numpy(found.target).long()


def passes(engine: str, eps: str, images: int = 40) -> int:
    """Passes that AutoAttack `standard` takes at a tenth of its steps, as the network itself counts them."""
    x, y = right(images)
    before = Fixed.passes
    for attack in short_standard(engine):
        found = judged(attack, x, y, eps)
        x, y = x[found.step < 0], y[found.step < 0]
        if not len(y):
            break
    return Fixed.passes - before


def right(images: int) -> tuple[Tensor, Tensor]:
    """The first so many images that the fixed classifier gets right."""
    x, y = digits()
    with torch.no_grad():
        rows = (Fixed()(x).argmax(1) == y).nonzero()[:images, 0]
    return x[rows], y[rows]


def short_standard(engine: str) -> list[Attack]:
    """AutoAttack `standard` with a tenth of its steps."""
    names = ["queries" if isinstance(attack, Square) else "steps" for attack in standard(10, engine=engine)]
    attacks = zip(standard(10, engine=engine), names, strict=True)
    return [with_steps(attack, name, getattr(attack, name) // 10) for attack, name in attacks]


def with_steps(attack: Any, name: str, number: int) -> Any:
    """The attack with so many steps."""
    return replace(attack, **{name: number})


def judged(attack: Attack, x: Tensor, y: Tensor, eps: str) -> Judge:
    """The judge of a run of this attack."""
    judge = Judge(Counted(Fixed()), x, y, range(len(y)), threat=Threat(eps), seed=0, batch=len(y), classes=10)
    with torch.no_grad():
        attack.run(judge)
    return judge


def per_step(attack: Any, name: str, steps: tuple[int, int]) -> tuple[float, float]:
    """Kernels and waits of one step on images that nothing breaks: of a longer run less a shorter one, per step."""
    x, y = right(4)
    found = []
    for number in steps:
        with Tally() as tally:
            judged(with_steps(attack, name, number), x, y, "1/100000")
        found.append((tally.kernels, tally.waits))
    apart = steps[1] - steps[0]
    return (found[1][0] - found[0][0]) / apart, (found[1][1] - found[0][1]) / apart


def training(method: str, width: int, batch: int = 8) -> tuple[float, float, float]:
    """One step of a method's training: its cost in forwards of an image, its kernels and its waits.

    It is what an epoch of three steps takes more than one of two: what an epoch takes once is in neither.
    """
    encoder = Encoder(ResNet(width=width), (3, 32, 32), seed=0).eval()
    with Tally() as one, torch.no_grad():
        encoder(torch.zeros(batch, 3, 32, 32))
    less, more = (_epoch(method, width, batch, steps) for steps in (2, 3))
    units = (more.flops - less.flops) / one.flops
    return units, more.kernels - less.kernels, more.waits - less.waits


def _epoch(method: str, width: int, batch: int, steps: int) -> Tally:
    n = batch * steps
    pixels = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = Images((255 * pixels).to(torch.uint8), torch.arange(n) % 2, classes=2, name="counted")
    made = named(method, {"training": {"epochs": 1, "batch": batch}})
    pseudo = {2: torch.arange(n) % 2}
    encoder = Encoder(ResNet(width=width), (3, 32, 32), routes=made.routes, seed=0)
    net = build_net(made, encoder, Targets(classes=2, pseudo=pseudo), 0, {})
    tally = Tally()
    with tally:
        fit(made, net, images, Run(seed=0, threat=Threat("8/255"), pseudo=pseudo))
    return tally


def counts() -> Counts:
    """Every count by name."""
    found: Counts = {}
    for eps in ("1/16", "1/4"):
        for engine in ("fast", "replay", "reference"):
            found[f"passes of AutoAttack at {eps}, {engine}"] = passes(engine, eps)
    steps: dict[str, tuple[Any, str, tuple[int, int]]] = {
        "apgd-ce": (APGD(engine="fast"), "steps", (20, 40)),
        "apgd-t": (APGD(engine="fast", loss="targeted", targets=1), "steps", (20, 40)),
        "fab-t": (FAB(engine="fast", targets=1), "steps", (20, 40)),
        "square": (Square(engine="fast"), "queries", (100, 200)),
        "pgd": (PGD(), "steps", (10, 20)),
    }
    for name, asked in steps.items():
        found[f"kernels per step of {name}"], found[f"waits per step of {name}"] = per_step(*asked)
    for method in METHODS:
        units, kernels, waits = training(method, width=16, batch=4)
        found[f"forwards of an image per step of {method}"] = round(units, 3)
        found[f"kernels per step of {method}"] = kernels
        found[f"waits per step of {method}"] = waits
    return found


def bounds() -> Counts:
    """The committed upper bounds."""
    known: Counts = json.loads(BOUNDS.read_text(encoding="utf-8"))
    return known


def worse(found: Counts, bound: Counts) -> list[str]:
    """One line for each count above its bound, or without one.

    Passes may be a hundredth more: on another processor the last bits of a number turn an image or two.
    """
    lines = []
    for name, number in found.items():
        if name not in bound:
            lines.append(f"{name}: {number:g}, expected a bound in {BOUNDS.name}")
        elif number > bound[name] * (1.01 if name.startswith("passes") else 1):
            lines.append(f"{name}: {number:g}, expected at most {bound[name]:g}")
    return lines


def main() -> None:
    """Print every count beside its bound, and write the bounds where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counted", description="Counts beside their bounds.")
    parser.add_argument("--regenerate", action="store_true", help=f"make these counts the bounds in {BOUNDS.name}")
    found = counts()
    if parser.parse_args().regenerate:
        BOUNDS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    known = bounds()
    print(
        grid(["count", "found", "bound"], [[name, f"{of:g}", f"{known.get(name, 0):g}"] for name, of in found.items()])
    )
    for line in worse(found, known):
        print(line)


def _more(gradient: Tensor) -> None:
    Fixed.passes += len(gradient)


if __name__ == "__main__":
    main()
