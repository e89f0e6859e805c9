"""The only owner of the benchmark of AutoAttack standard in linf: our engine beside pyautoattack.

Both attack the same images, attack by attack, each what the one before left right. Passes are forward-equivalents, one
per image forwarded and one more per image whose gradient is asked. `replay` draws what the package draws: its verdicts
have to be the package's, image by image; `fast` draws per image, so its verdicts may differ as two seeds do.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers, subjects
from benchmarks.ratio import Ratio, compared, interleave
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.versions import standard
from robustcl.bench.judge import Attack, Counted, Judge
from robustcl.models.threat import Threat

PEER, SEED = "pyautoattack", 0
NAMES = ("apgd-ce", "apgd-t", "fab-t", "square")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A trained network, what it is attacked with, and what is wanted of passes and of times."""

    name: str
    make: Callable[[], nn.Module]
    training: tuple[str, str, int]  # its file, radius and epochs
    eps: str
    images: int
    passes: float | None = None
    total: float | None = None
    attacks: tuple[float | None, ...] = (None,) * 4


CNN, CLEAN, SMALL = ("cnn", "3/20", 40), ("cnn-clean", "0", 10), ("resnet8", "13/100", 4)
COUNTED = (
    Setting(name="CNN, standard training", make=subjects.cnn, training=CLEAN, eps="3/20", images=100, passes=0.05),
    Setting(name="CNN", make=subjects.cnn, training=CNN, eps="19/100", images=40, passes=0.9),
    Setting(name="CNN", make=subjects.cnn, training=CNN, eps="3/25", images=30, passes=0.975),
)
TIMED = (
    Setting(
        name="CNN",
        make=subjects.cnn,
        training=CNN,
        eps="13/100",
        images=24,
        passes=0.965,
        total=1.7,
        attacks=(2.2, None, 2.0, 1.2),
    ),
    Setting(
        name="ResNet-18 width 8",
        make=lambda: subjects.resnet(8),
        training=SMALL,
        eps="2/25",
        images=6,
        total=1.5,
        attacks=(2.2, None, 2.0, 1.2),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of the four attacks took and found: `right` (n,) bool are the images that are still right."""

    seconds: tuple[float, ...]
    passes: int
    right: Tensor


Step = Callable[[Tensor, Tensor], tuple[int, Tensor]]
"""One attack on the images that are still right: the passes that it spent, and who is right after it."""


def compare(rounds: int) -> list[Ratio]:
    """The lines of goals 1 to 3: passes of five networks, times of two, and what is left of them at width 64."""
    counted = [line for one in COUNTED for line in _lines(one, 1)]
    return counted + [line for one in TIMED for line in _lines(one, rounds)] + _limit(rounds)


def quick() -> list[Ratio]:
    """Passes and verdicts on a few images of the smallest network: the 5,000 queries of Square take their time."""
    return _lines(replace(TIMED[0], images=6, total=None), 1)


def _lines(setting: Setting, rounds: int) -> list[Ratio]:
    if not peers.installed(PEER):
        return [Ratio(number=1, what=setting.name, peer=PEER, note=peers.absent(PEER))]
    model = subjects.robust(setting.training[0], setting.make(), *setting.training[1:]).requires_grad_(False)
    with torch.no_grad():
        right = model(subjects.digits()[1][0]).argmax(1) == subjects.digits()[1][1]
    x, y = (part[: setting.images] for part in subjects.digits()[1])
    clean = right[: setting.images]
    timed = setting.total is not None
    found: dict[str, list[Outcome]] = {name: [] for name in ("replay", "fast", PEER)}

    def candidate(name: str) -> Callable[[], None]:
        steps = _package(model, setting) if name == PEER else _ours(model, setting, name)
        return lambda: found[name].append(_run(steps, x, y, clean))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        candidate("replay")()  # counts need no second run
        if timed:
            interleave({name: candidate(name) for name in ("fast", PEER)}, rounds)
        else:
            candidate(PEER)()
    what = f"{setting.name}, eps {float(Fraction(setting.eps)):g}, {_share(clean)} -> {_share(found[PEER][-1].right)} %"
    counts = [line for engine in ("replay", "fast") if found[engine] for line in _counts(setting, what, engine, found)]
    return counts + (_times(setting, what, found) if timed else [])


def _counts(setting: Setting, what: str, engine: str, found: dict[str, list[Outcome]]) -> list[Ratio]:
    ours, theirs = found[engine][-1], found[PEER][-1]
    differ = int((ours.right != theirs.right).sum())
    said = f"{engine} draws"
    line = Ratio(number=1, what=what, peer=PEER, metric=f"share of passes, {said}", kind="count")
    exact = engine == "replay"
    other = replace(line, number=2, metric=f"verdicts that differ, {said}", goal=0 if exact else None)
    other = replace(other, ratios=(differ,), note=f"of {len(ours.right)}")
    return [replace(line, goal=setting.passes, ratios=(ours.passes / theirs.passes,)), other]


def _times(setting: Setting, what: str, found: dict[str, list[Outcome]]) -> list[Ratio]:
    pairs = list(zip(found["fast"][1:], found[PEER][1:], strict=True))
    whole = tuple(sum(theirs.seconds) / sum(ours.seconds) for ours, theirs in pairs)
    line = Ratio(number=2, what=what, peer=PEER, metric="CPU time", goal=setting.total, ratios=whole)
    parts = [
        replace(
            line,
            number=3,
            metric=f"CPU time of {name}",
            goal=goal,
            ratios=tuple(theirs.seconds[at] / ours.seconds[at] for ours, theirs in pairs),
        )
        for at, (name, goal) in enumerate(zip(NAMES, setting.attacks, strict=True))
    ]
    return [line, *parts]


def _run(steps: list[Step], x: Tensor, y: Tensor, clean: Tensor) -> Outcome:
    right, seconds, passes = clean.clone(), [], 0
    for step in steps:
        rows = right.nonzero().squeeze(1)
        began = time.process_time()
        if len(rows):
            spent, stays = step(x[rows], y[rows])
            right[rows], passes = stays, passes + spent
        seconds.append(max(time.process_time() - began, 1e-6))
    return Outcome(seconds=tuple(seconds), passes=passes, right=right)


def _ours(model: nn.Module, setting: Setting, engine: str) -> list[Step]:
    def step(attack: int) -> Step:
        def run(x: Tensor, y: Tensor) -> tuple[int, Tensor]:
            judge = _judged(standard(10, engine=engine)[attack], model, x, y, setting.eps)
            return int(judge.passes.sum()), judge.step < 0

        return run

    return [step(attack) for attack in range(len(NAMES))]


def _package(model: nn.Module, setting: Setting) -> list[Step]:
    def step(name: str) -> Step:
        def run(x: Tensor, y: Tensor) -> tuple[int, Tensor]:
            counted = Counted(model)
            eps = float(Fraction(setting.eps))
            whole = peers.peer(PEER).AutoAttack(counted, norm="Linf", eps=eps, seed=SEED, version="standard")
            whole.attacks_to_run = [name]
            found, _ = whole.run_standard_evaluation(x, y, batch_size=256)
            with torch.no_grad():
                return counted.passes, model(found).argmax(1) == y

        return run

    return [step(name) for name in NAMES]


def _limit(rounds: int) -> list[Ratio]:
    """What a call costs on ResNet-18 of the usual width: few steps of each attack, at a radius that breaks nothing."""
    model = subjects.resnet(64).requires_grad_(False)
    x = subjects.digits()[1][0][:4]
    with torch.no_grad():
        y = model(x).argmax(1)
    few = {APGD: {"steps": 5, "targets": 1}, FAB: {"steps": 5, "targets": 1}, Square: {"queries": 50}}

    def candidate(engine: str) -> Callable[[], None]:
        attacks: list[Any] = [replace(of, **few[type(of)]) for of in standard(10, engine=engine)]

        def run() -> None:
            for attack in attacks:
                _judged(attack, model, x, y, "1/100000")

        return run

    what = "ResNet-18 width 64, 5 steps, 50 queries, nothing breaks"
    line = Ratio(number=2, what=what, peer="reference", note="of our front end and the package's attacks")
    return compared(
        [line], interleave({"fast": candidate("fast"), "reference": candidate("reference")}, rounds), "fast"
    )


def _judged(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, eps: str) -> Judge:
    judge = Judge(Counted(model), x, y, range(len(y)), threat=Threat(eps), seed=SEED, batch=256, classes=10)
    with torch.no_grad():
        attack.run(judge)
    return judge


def _share(right: Tensor) -> str:
    return f"{100 * float(right.float().mean()):.0f}"
