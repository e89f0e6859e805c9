"""The only owner of what a fast attack works with: a cohort of images, the lean model, draws, who is left."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from robustcl.bench.autoattack.draws import Keyed, Replay, Source
from robustcl.bench.autoattack.engine import Member
from robustcl.bench.judge import Judge
from robustcl.models.lean import Lean
from robustcl.models.threat import Threat

_PATIENCE = 10  # steps between two looks at who is broken where a look makes an accelerator wait


@dataclasses.dataclass
class Rows:
    """Tensors with a row per image, by name; what an attack holds of the images that it still climbs with."""

    def keep(self, stays: Tensor) -> None:
        """Only the rows that `stays` (n,) names."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name)[stays])


class Search:
    """One cohort of images under one fast attack. Points are sought on the lean model; the judge decides in float32.

    `x` (n, ...), `y` (n,); `right` (n,) bool are the images that nothing has broken yet, `point` (n, ...) the worst
    points that were found for them, which are judged at the end. Places `at` count within the cohort. Passes are booked
    as they happen: one per image forwarded, one more per image whose gradient is asked.
    """

    def __init__(self, judge: Judge, rows: Tensor, model: Lean, source: Source) -> None:
        self.judge, self.rows, self.model, self.source = judge, rows, model, source
        self.x, self.y = judge.x[rows], judge.y[rows]
        self.point = self.x.clone()
        self.right = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        self.every = 1 if rows.device.type == "cpu" else _PATIENCE

    @property
    def threat(self) -> Threat:
        """The ball."""
        return self.judge.threat

    @property
    def left(self) -> Tensor:
        """(m,) places of the images that are still right, ascending."""
        return self.right.nonzero()[:, 0]

    @functools.cached_property
    def ranking(self) -> Tensor:
        """(n, classes) the classes of each clean image, the likeliest first, as the package sorts them."""
        self.book(torch.arange(len(self.rows), device=self.rows.device), 1)
        with torch.no_grad():
            logits: Tensor = self.judge.model(self.x).float()
        return logits.sort(dim=1)[1].flip(1)

    def answers(self, at: Tensor, points: Tensor) -> Tensor:
        """(m, classes) logits of the lean model at `points` (m, ...)."""
        self.book(at, 1)
        return self.model.answers(points)

    def gradient(
        self, at: Tensor, points: Tensor, losses: Callable[[Tensor], Tensor], samples: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (m, classes) and losses (m,) of the last sample, and the gradient (m, ...) averaged over all."""
        self.book(at, 2 * samples)
        logits, each, total = self.model.gradient(points, losses)
        for _ in range(samples - 1):
            logits, each, gradient = self.model.gradient(points, losses)
            total = total + gradient
        total = total.nan_to_num_(0, 0, 0)  # no number, no direction
        return logits, each, total / samples if samples > 1 else total

    def pullback(self, at: Tensor, points: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Logits (m, classes), and what gives the gradient (m, ...) of their sum with weights (m, classes)."""
        self.book(at, 1)
        logits, pull = self.model.pullback(points)

        def booked(weights: Tensor) -> Tensor:
            self.book(at, 1)
            return pull(weights).nan_to_num_(0, 0, 0)

        return logits, booked

    def rows_of(self, images: Tensor) -> Tensor:
        """Images (m, ...) as rows (m, d), in the order in which the lean model holds them in memory."""
        return (images.movedim(1, -1) if self.model.last else images).flatten(1)

    def images_of(self, rows: Tensor) -> Tensor:
        """Images (m, ...) of such rows."""
        shape = self.x.shape[1:]
        if not self.model.last:
            return rows.view(-1, *shape)
        return rows.view(-1, *shape[1:], shape[0]).movedim(-1, 1)

    def confirm(self, at: Tensor, points: Tensor, step: int | Tensor) -> Tensor:
        """(m,) bool: which of these points the judge's own float32 model gets wrong, once projected."""
        broken = self.judge.confirm(points, self.rows[at], step)
        self.book(at, 1)
        self.right[at[broken]] = False
        return broken

    def finish(self, step: int) -> None:
        """Through with the cohort: what is still right is judged at the worst point that was found, at `step`."""
        if len(self.left):
            self.confirm(self.left, self.point[self.left], step)
        self.judge.finish(self.rows)

    def book(self, at: Tensor, passes: int | Tensor) -> None:
        """So many passes for each of these images, or one number per image."""
        self.judge.passes[self.rows[at]] += passes


class Claims:
    """Points that the lean model gets wrong, until the judge is asked about them.

    On a CPU it is asked at every step, so that an image leaves at its first success. Where a look at the device makes
    it wait, it is asked every `Search.every` steps, about the last such point of each image.
    """

    def __init__(self, search: Search, points: Tensor) -> None:
        self.search, self.points = search, points
        self.made = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        self.step = torch.zeros(len(points), dtype=torch.int64, device=points.device)

    def settle(self, at: Tensor, points: Tensor, wrong: Tensor, step: int, *, last: bool = False) -> Tensor | None:
        """Note `points` (m, ...) where `wrong` (m,); (m,) bool, what stays, or None where all do or nobody was asked.

        `last` asks whatever the step. What does not stay is forgotten here, and has to be by the caller.
        """
        if self.search.every > 1:
            self.points = torch.where(wrong.view(-1, *[1] * (points.dim() - 1)), points, self.points)
            self.step = torch.where(wrong, step, self.step)
            self.made = self.made | wrong
            if (step + 1) % self.search.every and not last:
                return None
        else:
            self.points, self.made = points, wrong
        claimed = self.made.nonzero()[:, 0]
        if not len(claimed):
            return None
        steps = self.step[claimed] if self.search.every > 1 else step
        broken = self.search.confirm(at[claimed], self.points[claimed], steps)
        self.made = torch.zeros_like(self.made)
        stays = torch.ones_like(self.made)
        stays[claimed[broken]] = False
        if self.search.every > 1:
            self.points, self.made, self.step = self.points[stays], self.made[stays], self.step[stays]
        return stays


def searches(attack: Member, judge: Judge) -> Iterator[Search]:
    """A search per cohort of the judge's images that are not done; nothing at radius 0 but the images themselves.

    With the package's draws, a cohort is made of whole batches of the package.
    """
    if not len(judge.y):
        return
    model = judge.lean(attack.precision)
    size = judge.batch if attack.batch is None else max(1, judge.batch // attack.batch) * attack.batch
    for rows in judge.batches(size):
        images = [judge.images[int(row)] for row in rows]
        device, seed = rows.device, judge.seed
        source: Source
        if attack.batch is None:
            source = Keyed(images, device, seed, attack.name)
        else:
            source = Replay(images, device, seed, attack.batch)
        search = Search(judge, rows, model, source)
        if not judge.threat.eps:
            search.confirm(search.left, search.x, 0)
            judge.finish(rows)
            continue
        yield search
