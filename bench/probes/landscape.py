"""The only owner of the probe `landscape`: the adversarial loss over a plane in the weights of a classifier."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from robustcl.bench.probe import Arrays, NetworkProbe, Reads, Subject
from robustcl.models.errors import UserError
from robustcl.models.seeding import ImageDraws, generator
from robustcl.models.value import value
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images

_BATCH = 256
Array = NDArray[Any]
Weights = Mapping[str, Tensor]


@value
class Landscape(NetworkProbe):
    """The mean adversarial cross-entropy at `points` x `points` weights around those of the classifier.

    Two random directions, filter-normalised (Li et al., NeurIPS 2018): each filter of a direction is as long as the
    classifier's own, biases and batch norms stay. They are drawn by the names of the weights, so encoders of one
    architecture have the same ones before the normalisation. The attack is PGD of `steps` steps of eps/4 from a random
    start that is the same at every point: `recomputed` at every point, or `fixed` as it was at the centre. The batch
    norms' statistics are held. Arrays: `at` (p,), from -`span` to `span`, `loss` (p, p), the first direction by rows.
    """

    version: ClassVar[int] = 1
    given: ClassVar[bool] = True

    scheme: str = "SLF"
    images: int = Field(default=512, ge=1)
    points: int = Field(default=25, ge=3)
    span: float = Field(default=1, gt=0)
    steps: int = Field(default=10, ge=0)
    attack: Literal["recomputed", "fixed"] = "recomputed"

    @property
    def reads(self) -> Reads:
        return "classifier"

    def passes(self, images: Images) -> int:
        n, each = min(self.images, len(images)), self.points**2
        climbs = each if self.attack == "recomputed" else 1
        return n * (2 * self.steps * climbs + each)

    def run(self, subject: Subject) -> Arrays:
        part = subject.images.sample(self.images)
        surface = _Surface(self, subject, part)
        at = np.linspace(-self.span, self.span, self.points)
        rows = []
        for number, first in enumerate(at):
            rows.append(_kept(subject.keep, number, partial(surface.row, float(first), at)))
            subject.report(number + 1, self.points)
        return {"at": at.astype(np.float32), "loss": np.array(rows, dtype=np.float32)}


class _Surface:
    """The loss as a function of two numbers."""

    def __init__(self, probe: Landscape, subject: Subject, part: Images) -> None:
        model, threat = subject.classifier, subject.threat
        if not isinstance(model, nn.Module):
            raise UserError(f"{subject.where}: a classifier without weights, expected a torch module")
        assert threat is not None
        self.model, self.threat, self.part, self.seed = model, threat, part, subject.seed
        self.ascent = Ascent(steps=probe.steps)
        self.weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self.directions = [directions(self.weights, subject.seed, axis) for axis in (0, 1)]
        self.batches = torch.arange(len(part), device=part.labels.device).split(_BATCH)
        self.held = [self._climb(rows, self.weights) for rows in self.batches] if probe.attack == "fixed" else None

    def row(self, first: float, at: Array) -> list[float]:
        """The losses at one place along the first direction, `at` those along the second."""
        return [self.loss(first, float(second)) for second in at]

    def loss(self, first: float, second: float) -> float:
        """The mean adversarial cross-entropy with the weights moved so far along both directions."""
        one, two = self.directions
        moved = {name: weight + first * one[name] + second * two[name] for name, weight in self.weights.items()}
        total = 0.0
        for number, rows in enumerate(self.batches):
            point = self._climb(rows, moved) if self.held is None else self.held[number]
            with torch.no_grad():
                total += float(self._losses(moved, point, rows).double().sum())
        return total / len(self.part)

    def _losses(self, weights: Weights, pixels: Tensor, rows: Tensor) -> Tensor:
        logits = functional_call(self.model, dict(weights), (pixels,))
        return nn.functional.cross_entropy(logits, self.part.labels[rows], reduction="none")

    def _climb(self, rows: Tensor, weights: Weights) -> Tensor:
        draws = ImageDraws(self.part.index[rows].tolist(), self.seed, "landscape")
        clean = self.part.floats(rows)
        return self.ascent(lambda x: self._losses(weights, x, rows), clean, self.threat, self.model, draws)


def directions(weights: Weights, seed: int, axis: int) -> dict[str, Tensor]:
    """A random direction by the names of the weights, each filter (the first dimension) as long as the weights' own."""
    found = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            found[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator(seed, "direction", axis, name)).to(weight)
        sizes = [of.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)) for of in (weight, drawn)]
        found[name] = drawn * sizes[0] / sizes[1].clamp_min(1e-12)
    return found


def _kept(folder: Path | None, number: int, make: Callable[[], list[float]]) -> Array:
    """A row of the surface; a row that an interrupted run left in `folder` is not made again."""
    if folder is None:
        return np.array(make())
    path = folder / f"row-{number:04}.npy"
    if not path.exists():
        part = folder / f"{path.name}.part"
        with part.open("wb") as file:
            np.save(file, np.array(make()))
        part.replace(path)
    return np.asarray(np.load(path, allow_pickle=False))
