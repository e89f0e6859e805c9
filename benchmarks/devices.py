"""The only owner of the benchmark of two processes beside one: the same training, and the same judging.

What is told is the CPU time of the busier process, which is the time that two free cores would take but for waiting on
each other, and the time on the clock, which means something on a machine that does nothing else. To train, a pair of
processes is started once, `python -m benchmarks.devices RANK FOLDER`, and takes turns with this one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from benchmarks.ratio import Ratio
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Attack, Judge
from robustcl.bench.pgd import PGD
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.heads import linear
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import value
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Targets, build_net, named

NETWORK, BATCH = ResNet(width=16), 64
METHODS = {"simclr": 4, "advcl": 1}  # steps of a round
Spent = tuple[float, float]
"""Seconds of CPU time of the busiest process, and on the clock."""


def compare(rounds: int) -> list[Ratio]:
    """One line of each kind for judging and for every method; the first round warms up."""
    lines = _lines("PGD-20 of 128 images", [_judging() for _ in range(rounds + 1)][1:])
    with _pair() as asked:
        for method, steps in METHODS.items():
            spent = [(_clocked(lambda method=method: train(method)), asked(method)) for _ in range(rounds + 1)]  # type: ignore[misc]
            lines += _lines(f"{method}, {steps} steps of {BATCH} images", spent[1:])
    return lines


def train(method: str) -> None:
    """A few steps, alone or together with the other process."""
    n = METHODS[method] * BATCH
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    chosen = named(method, {"training": {"epochs": 1, "batch": BATCH}})
    pseudo = {2: torch.arange(n) % 2}
    network = Encoder(NETWORK, (3, 32, 32), routes=chosen.routes)
    net = build_net(chosen, network, Targets(classes=2, pseudo=pseudo), 0)
    images = Images(pixels, torch.zeros(n, dtype=torch.int64), classes=2, name="noise")
    fit(chosen, net, images, Run(seed=0, threat=Threat("8/255"), pseudo=pseudo))


@value
class Clocked(Attack):
    """An attack that writes the CPU time of its process into a folder."""

    version: ClassVar[int] = 1

    attack: PGD
    folder: Path

    @property
    def name(self) -> str:
        return self.attack.name

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.attack.cost(classes, norm)

    def run(self, judge: Judge) -> None:
        began = time.process_time()
        self.attack.run(judge)
        (self.folder / str(os.getpid())).write_text(str(time.process_time() - began))


def _judging() -> tuple[Spent, Spent]:
    """One and two processes on images that nothing breaks, so that both have the same to do."""
    network = Encoder(NETWORK, (3, 32, 32))
    model = Classifier(network, linear(network.width, 10)).eval()
    pixels = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = Images(pixels, model(pixels).argmax(1), classes=10, name="noise")

    def spent(workers: int) -> Spent:
        with tempfile.TemporaryDirectory() as folder:
            attack = Clocked(attack=PGD(), folder=Path(folder))
            trial = Trial(threat=Threat("1/100000"), judges={"pgd": [attack]}, batch=32)
            cpu, clock = _clocked(lambda: judge(model, images, replace(trial, workers=workers)))
            forks = [float(path.read_text()) for path in Path(folder).iterdir() if path.name != str(os.getpid())]
            return cpu + max(forks, default=0.0), clock

    return spent(1), spent(2)


def _lines(what: str, spent: list[tuple[Spent, Spent]]) -> list[Ratio]:
    """The lines of one and two processes, round by round."""
    load = os.getloadavg()[0]
    clock = f"time on the clock, at a load of {load:.1f} on {os.cpu_count()} cores"
    return [
        Ratio(
            number=None,
            what=f"two processes: {what}",
            peer="one process",
            metric=metric,
            ratios=tuple(one[place] / two[place] for one, two in spent),
        )
        for place, metric in enumerate(("CPU time of the busier process", clock))
    ]


def _clocked(work: Callable[[], object]) -> Spent:
    began, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began, time.perf_counter() - clock


@contextmanager
def _pair() -> Iterator[Callable[[str], Spent]]:
    """Two processes that train together whatever they are asked to."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.devices"]
        started = [
            subprocess.Popen(
                [*command, str(rank), folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parent.parent,
            )
            for rank in range(2)
        ]

        def asked(method: str) -> Spent:
            for process in started:
                print(method, file=process.stdin, flush=True)
            answers: list[Any] = [json.loads(process.stdout.readline()) for process in started if process.stdout]
            return max(cpu for cpu, _ in answers), max(clock for _, clock in answers)

        try:
            yield asked
        finally:
            for process in started:
                process.kill()
                process.communicate()


def _serve(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    for line in sys.stdin:
        print(json.dumps(_clocked(lambda line=line: train(line.strip()))), flush=True)  # type: ignore[misc]


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
