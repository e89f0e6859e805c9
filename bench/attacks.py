"""The only owner of what an attack is: the `Attack` form, the `Judge` it may ask, PGD, and names of attacks."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustcl.models.errors import NumberError, UserError, nearest
from robustcl.models.seeding import ImageDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import plain, value
from robustcl.pretraining.ascent import Ascent, Step

Plain = Callable[[nn.Module, Tensor, Tensor, Threat, torch.Generator], Tensor]
"""Any attack of somebody else's: (model, x, y, threat, generator) -> x_adv."""


class Counted(nn.Module):
    """A model that counts forward-equivalents: one per image forwarded, one more per image whose gradient is asked."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits (n, classes)."""
        logits = self.model(x)
        self.passes += len(x)
        if isinstance(logits, Tensor) and logits.requires_grad:  # anything else is refused by who asked
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.passes += len(gradient)


class Judge:
    """Decides for one attack on the images that are still right; the attack proposes, the float32 model answers.

    `x` (n, ...) in [0, 1], `y` (n,), `images` (n,) positions in the official split. For every image it holds the worst
    answer seen: the one with the smallest margin.
    """

    def __init__(
        self,
        model: Counted,
        x: Tensor,
        y: Tensor,
        images: Sequence[int],
        *,
        threat: Threat,
        seed: int,
        batch: int,
        classes: int,
        finished: Callable[[Tensor], None] = lambda rows: None,
    ) -> None:
        self.model, self.x, self.y, self.images = model, x, y, list(images)
        self.threat, self.seed, self.batch, self.classes, self.finished = threat, seed, batch, classes, finished
        n = len(y)
        self.answer = y.clone()
        self.margin = torch.full((n,), torch.inf, device=y.device)
        self.distance = torch.zeros(n, device=y.device)
        self.step = torch.full((n,), -1, dtype=torch.int64, device=y.device)
        self.passes = torch.zeros(n, dtype=torch.int64, device=y.device)
        self.done = torch.zeros(n, dtype=torch.bool, device=y.device)

    def batches(self) -> Iterator[Tensor]:
        """Rows in batches that do not depend on what is done already; batches that are done are left out."""
        for rows in torch.arange(len(self.y), device=self.y.device).split(self.batch):
            if not self.done[rows].all():
                yield rows

    def confirm(self, adversarial: Tensor, rows: Tensor, step: int) -> Tensor:
        """Project these images, let the float32 model answer and keep what is broken: (len(rows),) bool.

        Errors: `NumberError` where the model answers NaN.
        """
        x, y = self.x[rows], self.y[rows]
        point = self.threat.project(adversarial.detach().float(), x)
        with torch.no_grad():
            logits = self.model(point).float()
        if not torch.isfinite(logits).all():
            bad = int((~torch.isfinite(logits)).any(1).nonzero()[0])
            raise NumberError(f"model: the answer to image {self.images[int(rows[bad])]} under attack is not finite")
        answer, margin = logits.argmax(1), margins(logits, y)
        broken: Tensor = answer != y
        # The first break stays; before it the smallest margin; an answer that breaks always beats one that does not.
        worse = (self.step[rows] < 0) & (broken | (margin < self.margin[rows]))
        kept = rows[worse]
        self.answer[kept], self.margin[kept] = answer[worse], margin[worse]
        self.distance[kept] = self.threat.distance(point, x)[worse]
        self.step[rows[worse & broken]] = step
        return broken

    def charge(self, passes: int, rows: Tensor) -> None:
        """Book so many passes on these rows, evenly; the first rows bear the remainder."""
        share, rest = divmod(passes, len(rows))
        self.passes[rows] += share
        self.passes[rows[:rest]] += 1

    def finish(self, rows: Tensor) -> None:
        """These rows are through with the attack: what is known of them is kept."""
        self.done[rows] = True
        self.finished(rows)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) the label's logit minus the best other one."""
    own = logits.gather(1, labels[:, None])[:, 0]
    gap: Tensor = own - logits.scatter(1, labels[:, None], -torch.inf).max(1).values
    return gap


@value
class Attack(ABC):
    """An attack as a value; `run` asks the judge. `version` is raised when a change moves answers."""

    version: ClassVar[int]

    @property
    @abstractmethod
    def name(self) -> str:
        """What the records call it."""

    @abstractmethod
    def cost(self, classes: int) -> int:
        """Forward-equivalents for an image that it cannot break."""

    @abstractmethod
    def run(self, judge: Judge) -> None:
        """Attack every batch of the judge, confirm what was found, charge the passes, finish the batch."""


@value
class PGD(Attack):
    """Projected gradient descent (Madry et al., ICLR 2018) on the cross-entropy, from uniform random starts.

    An image is out at the first iterate that breaks it; published PGD-20 often judges the last iterate alone, which
    can only be higher. `verdict = "last"` does that, for comparison.
    """

    version: ClassVar[int] = 1

    steps: int = Field(default=20, ge=0)
    step: Step = "eps/4"
    restarts: int = Field(default=1, ge=1)
    verdict: Literal["first", "last"] = "first"

    @property
    def name(self) -> str:
        return f"pgd-{self.steps}"

    def cost(self, classes: int) -> int:
        return self.restarts * (2 * self.steps + 1)

    def run(self, judge: Judge) -> None:
        for rows in judge.batches():
            left = rows
            for restart in range(self.restarts):
                left = self._climb(judge, left, restart)
            judge.finish(rows)

    def _climb(self, judge: Judge, rows: Tensor, restart: int) -> Tensor:
        """One run from a random start over these rows; the rows that are still right."""
        if not len(rows):
            return rows
        ascent, threat = Ascent(steps=self.steps, step=self.step), judge.threat
        draws = ImageDraws([judge.images[int(row)] for row in rows], judge.seed, "pgd", restart)
        size, point = ascent.size(threat), ascent.start(judge.x[rows], threat, draws)
        for step in range(self.steps):
            before = judge.model.passes
            logits, gradient = _gradient(judge.model, point, judge.y[rows])
            judge.charge(judge.model.passes - before, rows)
            claimed = logits.argmax(1) != judge.y[rows]
            if step and self.verdict == "first" and claimed.any():
                stays = torch.ones_like(claimed)
                stays[claimed] = ~self._confirm(judge, point[claimed], rows[claimed], step)
                point, gradient, rows = point[stays], gradient[stays], rows[stays]
            if not len(rows):
                return rows
            point = threat.project(point + size * threat.steepest(gradient), judge.x[rows])
        return rows[~self._confirm(judge, point, rows, self.steps)]

    def _confirm(self, judge: Judge, point: Tensor, rows: Tensor, step: int) -> Tensor:
        before = judge.model.passes
        broken = judge.confirm(point, rows, step)
        judge.charge(judge.model.passes - before, rows)
        return broken


def _gradient(model: nn.Module, point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the summed cross-entropy with respect to the images alone."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
    return logits.detach(), gradient


@value
class Wrapped(Attack):
    """A plain callable as an attack; it is called once per batch, and what it returns is judged like anything else."""

    version: ClassVar[int] = 1

    function: Any

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def cost(self, classes: int) -> int:
        return 1

    def run(self, judge: Judge) -> None:
        for number, rows in enumerate(judge.batches()):
            before = judge.model.passes
            source = generator(judge.seed, self.name, number)
            x, y = judge.x[rows].clone(), judge.y[rows].clone()
            devices = [x.device] if x.device.type == "cuda" else []
            # Judging runs without gradients and keyed; an attack of somebody else's expects torch's defaults, and may
            # draw from the global generator, which must not move.
            with torch.enable_grad(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(source.initial_seed())
                found = self.function(judge.model, x, y, judge.threat, source)
            if not isinstance(found, Tensor) or found.shape != x.shape:
                raise UserError(f"attack {self.name}: did not return images of shape {tuple(x.shape)}")
            judge.confirm(found, rows, 1)
            judge.charge(judge.model.passes - before, rows)
            judge.finish(rows)


def identity(attack: Attack) -> dict[str, Any]:
    """What tells this attack from another in a key: its kind, version and fields."""
    kind = {"kind": type(attack).__name__, "version": attack.version}
    if isinstance(attack, Wrapped):
        code = inspect.getsource(attack.function) if inspect.isfunction(attack.function) else repr(attack.function)
        return {**kind, "name": attack.name, "code": code}
    return {**kind, **plain(attack)}


def judges(names: Sequence[str | Attack | Plain], classes: int, batch: int) -> dict[str, list[Attack]]:
    """The judges for a list of names, attacks and callables: each name with its attacks in order.

    Names: `pgd-<steps>`, `autoattack`, or one of its four members. `batch` is the reference batch of AutoAttack.
    """
    if isinstance(names, str):
        raise UserError(f"attacks: '{names}' is one text, expected a list such as ['{names}']")
    found: dict[str, list[Attack]] = {}
    for asked in names:
        if isinstance(asked, str):
            name, bench = asked, _named(asked, classes, batch)
        elif isinstance(asked, Attack):
            name, bench = asked.name, [asked]
        elif callable(asked):
            wrapped = Wrapped(function=asked)
            name, bench = wrapped.name, [wrapped]
        else:
            raise UserError(f"attacks: {asked!r} is not an attack, expected a name, an Attack or a callable")
        if name in found:
            raise UserError(f"attacks: two are named '{name}', expected distinct names; judge the other one apart")
        found[name] = bench
    if not found or "clean" in found:
        raise UserError(f"attacks: {list(found)}, expected at least one attack and none named 'clean'")
    return found


def _named(name: str, classes: int, batch: int) -> list[Attack]:
    from robustcl.bench.autoattack.reference import MEMBERS, standard

    if steps := re.fullmatch(r"pgd-(\d+)", name):
        return [PGD(steps=int(steps[1]))]
    if name == "autoattack":
        return list(standard(classes, batch))
    if name in MEMBERS:
        return [member for member in standard(classes, batch) if member.name == name]
    known = ["pgd-20", "autoattack", *MEMBERS]
    raise UserError(
        f"attacks: unknown attack '{name}', expected one of pgd-<steps>, {', '.join(known[1:])}{nearest(name, known)}"
    )
