"""The only owner of the benchmark of PGD-20 on ResNet-18: ours, in float32 and bfloat16, beside libraries of attacks.

Every side takes 20 steps of 2/255 from a random start at 8/255, without leaving early, and answers images: what is
compared is the cost of a step. Ours is `robustcl.bench.pgd.PGD` with the verdict on the last iterate, its verdict in
float32 included.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks import peers, subjects
from benchmarks.ratio import Candidates, Ratio, compared, interleave
from robustcl.bench.judge import Counted, Judge
from robustcl.bench.pgd import PGD
from robustcl.models.lean import Lean
from robustcl.models.seeding import BatchDraws
from robustcl.models.threat import Threat

STEPS, EPS, SIZE = 20, 8 / 255, 2 / 255
GOALS: dict[str, tuple[int, str, dict[int, float]]] = {
    "torchattacks": (4, "torchattacks PGD", {16: 1.5, 64: 1.05}),
    "foolbox": (5, "foolbox LinfPGD", {16: 1.8, 64: 1.5}),
    "art": (6, "adversarial-robustness-toolbox PGD", {16: 1.9, 64: 1.5}),
}
"""Import name -> number of the goal, the peer, and the ratio that is wanted by width."""

Batch = tuple[Tensor, Tensor]
Run = Callable[[], object]


def compare(rounds: int) -> list[Ratio]:
    """The lines of goals 4 to 6."""
    return _compare(rounds, 16, 32) + _compare(rounds, 64, 8)


def quick() -> list[Ratio]:
    """One round at the smaller width."""
    return _compare(1, 16, 16)


def batch(size: int) -> Batch:
    """Images (size, 3, 32, 32) and labels, as drawn."""
    source = torch.Generator().manual_seed(0)
    return torch.rand(size, *subjects.SHAPE, generator=source), torch.randint(10, (size,), generator=source)


def _compare(rounds: int, width: int, size: int) -> list[Ratio]:
    images = batch(size)
    times = interleave({**ours(subjects.resnet(width), images), **theirs(width, images)}, rounds)
    what = f"PGD-20, ResNet-18 width {width}, batch of {size}"
    lines = [
        Ratio(number=number, what=what, peer=peer, goal=goals[width], note=_note(name))
        for name, (number, peer, goals) in GOALS.items()
    ]
    half = [replace(line, metric="CPU time, ours in bfloat16", goal=None) for line in lines]
    return compared(lines, times, "ours") + compared(half, times, "ours in bfloat16")


def ours(model: nn.Module, images: Batch) -> Candidates:
    """Our PGD, and the same steps in bfloat16, whose last iterate is answered in float32 too."""
    x, y = images
    threat, attack, counted = Threat("8/255"), PGD(steps=STEPS, verdict="last"), Counted(model.requires_grad_(False))
    lean = Lean(model, x[:2], "bfloat16")

    def whole() -> None:
        judge = Judge(counted, x, y, range(len(y)), threat=threat, seed=0, batch=len(y), classes=subjects.CLASSES)
        with torch.no_grad():
            attack.run(judge)

    def half() -> Tensor:
        point = threat.random_start(x, BatchDraws(torch.Generator().manual_seed(0)))
        for _ in range(STEPS):
            losses = lean.gradient(point, lambda logits: F.cross_entropy(logits, y, reduction="none"))
            point = threat.project(point + SIZE * threat.steepest(losses[2]), x)
        with torch.no_grad():
            answers: Tensor = model(point)
        return answers

    return {"ours": whole, "ours in bfloat16": half}


def theirs(width: int, images: Batch) -> Candidates:
    """The peers that are there, each with a model of its own: some of them change its modes and flags."""
    makers = {"torchattacks": _torchattacks, "foolbox": _foolbox, "art": _art}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            GOALS[name][1]: make(subjects.resnet(width), images)
            for name, make in makers.items()
            if peers.installed(name)
        }


def _torchattacks(model: nn.Module, images: Batch) -> Run:
    attack = peers.peer("torchattacks").PGD(model, eps=EPS, alpha=SIZE, steps=STEPS, random_start=True)
    return lambda: attack(*images)


def _foolbox(model: nn.Module, images: Batch) -> Run:
    foolbox = peers.peer("foolbox")
    seen = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=STEPS, abs_stepsize=SIZE, random_start=True)
    return lambda: attack.run(seen, images[0], images[1], epsilon=EPS)


def _art(model: nn.Module, images: Batch) -> Run:
    estimators, attacks = peers.peer("art.estimators.classification"), peers.peer("art.attacks.evasion")
    loss, shape = nn.CrossEntropyLoss(), subjects.SHAPE
    seen = estimators.PyTorchClassifier(
        model, loss, input_shape=shape, nb_classes=subjects.CLASSES, clip_values=(0, 1), device_type="cpu"
    )
    attack = attacks.ProjectedGradientDescent(
        seen, eps=EPS, eps_step=SIZE, max_iter=STEPS, num_random_init=1, batch_size=len(images[1]), verbose=False
    )
    arrays = [part.numpy() for part in images]
    return lambda: attack.generate(x=arrays[0], y=arrays[1])


def _note(name: str) -> str:
    return "" if peers.installed(name) else peers.absent(name)
