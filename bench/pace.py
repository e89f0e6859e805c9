"""The only owner of how long work will take: a measured pass, counted passes, and stages on so many devices."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from robustcl.bench.judge import Attack
from robustcl.bench.store import Stage
from robustcl.models.threat import Norm

_BATCH = 64  # images of the measured pass, at most


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds per image of a forward pass, and of a forward with the gradient of its input."""

    forward: float
    gradient: float

    def seconds(self, passes: int) -> float:
        """At most so long for so many forward-equivalents, of which a gradient is one and a forward one."""
        return passes * max(self.forward, self.gradient / 2)

    def fastest(self, passes: int) -> float:
        """At least so long for so many forward-equivalents."""
        return passes * min(self.forward, self.gradient / 2)

    def least(self, images: int, judges: int) -> float:
        """At least so long for judging: a clean pass over the images, and per judge one gradient that breaks all."""
        return images * (self.forward + judges * self.gradient)


def measure(model: Callable[[Tensor], Tensor], images: Tensor) -> Pace:
    """The pace of a model in eval mode on real images (n, channels, height, width) on its device, up to 64 of them.

    The first pass is not counted: it pays for what is set up once.
    """
    x = images[:_BATCH]
    model(x[:1].detach())
    with torch.no_grad():
        forward = _timed(lambda: model(x))

    def climb() -> Tensor:
        point = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            # A model that cuts its gradient is judged all the same; it is then as fast as its forward.
            return torch.autograd.grad(logits.sum(), point)[0] if logits.requires_grad else logits

    return Pace(forward=forward / len(x), gradient=_timed(climb) / len(x))


def most(judges: Mapping[str, Sequence[Attack]], classes: int, images: int, norm: Norm = "linf") -> int:
    """The passes of judging where nothing breaks: a clean one, and what every attack then takes."""
    return images * (1 + sum(attack.cost(classes, norm) for attacks in judges.values() for attack in attacks))


def flops(model: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """The floating-point operations of a forward pass of one image, a multiplication and an addition being two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(images[:1].detach())
    return int(counted.get_total_flops())


def wall(stages: Sequence[Stage], seconds: Mapping[str, float], devices: int) -> float:
    """How long stages take, by the clock, on so many devices with a stage each; `seconds` of work are by key.

    Parents come first in `stages`; those that are not among them are made already. Of the stages that are ready, the
    one on the longest path is next, as where stages run.
    """
    path, children = {stage.key: seconds[stage.key] for stage in stages}, {stage.key: list[Stage]() for stage in stages}
    waits = {stage.key: len(_parents(stage) & path.keys()) for stage in stages}
    for stage in reversed(stages):
        for key in _parents(stage) & path.keys():
            path[key] = max(path[key], seconds[key] + path[stage.key])
            children[key].append(stage)
    ready = sorted((-path[stage.key], stage.key) for stage in stages if not waits[stage.key])
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < devices:
            _, key = heappop(ready)
            heappush(running, (now + seconds[key], key))
        now, done = heappop(running)
        for stage in children[done]:
            waits[stage.key] -= 1
            if not waits[stage.key]:
                heappush(ready, (-path[stage.key], stage.key))
    return now


def _parents(stage: Stage) -> set[str]:
    return {parent.key for parent in stage.parents.values()}


def span(low: float, high: float) -> str:
    """A range of seconds for people: `2 min to 1.4 h`, or one number where both ends read the same."""
    ends = [duration(low), duration(high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def duration(seconds: float) -> str:
    """Seconds for people: `<1 s`, `40 s`, `2.5 min`, `3.2 h`, `2.1 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= (1.5 * size if size > 1 else 1):
            number = f"{seconds / size:.0f}" if unit == "s" else f"{seconds / size:.1f}".removesuffix(".0")
            return f"{number} {unit}"
    return "<1 s"


def _timed(work: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    float(work().sum())  # read back, so that an accelerator has finished
    return time.perf_counter() - began
