"""The only owner of the verdict: what an attack may ask, and the float32 model that answers; the `Attack` form."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustcl.models.errors import NumberError, UserError
from robustcl.models.lean import Lean, Precision
from robustcl.models.seeding import derive
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import value

Model = Callable[[Tensor], Tensor]
COLUMNS = ("answer", "margin", "distance", "step", "passes")


class Counted(nn.Module):
    """A model that counts forward-equivalents: one per image forwarded, one more per image whose gradient is asked."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.passes = model, 0
        self._lean: dict[Precision, Lean] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits (n, classes); where the image has no gradient, it is zero and not an error."""
        logits = self.model(x)
        if torch.is_grad_enabled() and x.requires_grad and isinstance(logits, Tensor) and logits.dim() == 2:
            logits = logits + 0 * x.flatten(1).sum(1, keepdim=True)
        self.passes += len(x)
        if isinstance(logits, Tensor) and logits.requires_grad:  # anything else is refused by who asked
            logits.register_hook(self._backward)
        return logits

    def lean(self, example: Tensor, precision: Precision) -> Lean:
        """The model as an attack searches on it, made once; its passes are not counted here."""
        if precision not in self._lean:
            self._lean[precision] = Lean(self.model, example, precision)
        return self._lean[precision]

    def _backward(self, gradient: Tensor) -> None:
        self.passes += len(gradient)


class Judge:
    """Decides for one attack on the images that are still right; the attack proposes, the float32 model answers.

    `x` (n, ...) in [0, 1], `y` (n,), `images` (n,) positions in the official split. For every image it holds the worst
    answer seen: the one with the smallest margin. `outside` (n,) says how far the proposals left the ball before they
    were projected, in the norm of the threat; `point` (n, ...) holds the worst point where `keep_points` asks for it.
    With a `shard` (i, count) it gives out each count-th batch alone, from the i-th on; where batches have to be claimed,
    `claim` holds one for as long as it is attacked, and says whether it is to be.
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
        keep_points: bool = False,
        finished: Callable[[Tensor], None] = lambda rows: None,
    ) -> None:
        self.model, self.x, self.y, self.images = model, x, y, list(images)
        self.threat, self.seed, self.batch, self.classes, self.finished = threat, seed, batch, classes, finished
        n = len(y)
        self.answer = y.clone()
        self.margin = torch.full((n,), torch.inf, device=y.device)
        self.distance = torch.zeros(n, device=y.device)
        self.outside = torch.zeros(n, device=y.device)
        self.step = torch.full((n,), -1, dtype=torch.int64, device=y.device)
        self.passes = torch.zeros(n, dtype=torch.int64, device=y.device)
        self.done = torch.zeros(n, dtype=torch.bool, device=y.device)
        self.point = x.clone() if keep_points else None
        self.shard = (0, 1)
        self.at_once: int | None = None  # images of a batch, where the memory ended on more: see `memory.run`
        self.began = model.passes  # at the start of the batch that is under way
        self.claim: Callable[[Tensor], AbstractContextManager[bool]] = lambda rows: nullcontext(enter_result=True)

    @property
    def held(self) -> dict[str, Tensor]:
        """What is known of every image, by name: what a restart has to bring back."""
        points = {} if self.point is None else {"point": self.point}
        return {**{column: getattr(self, column) for column in COLUMNS}, "outside": self.outside, **points}

    def lean(self, precision: Precision = "float32") -> Lean:
        """The model as an attack searches on it; what is found there counts where `confirm` says so."""
        return self.model.lean(self.x[:2], precision)

    def batches(self, size: int | None = None) -> Iterator[Tensor]:
        """Rows in batches that do not depend on what is done already; batches that are done are left out.

        A model that draws numbers finds the global generator in a state that depends on the batch alone, so that its
        answers are the same in every run, restarted or not.
        """
        first, count = self.shard
        for batch in torch.arange(len(self.y), device=self.y.device).split(size or self.batch)[first::count]:
            if self.done[batch].all():
                continue
            with self.claim(batch) as ours:
                for rows in batch.split(self.at_once or len(batch)) if ours else ():
                    if not self.done[rows].all():
                        self._begin(rows)
                        seed_globally(self.y.device, self.seed, "batch", self.images[int(rows[0])])
                        yield rows

    def _begin(self, rows: Tensor) -> None:
        """Forget what an attempt that came to no end has left of these rows."""
        self.began = self.model.passes
        self.answer[rows], self.margin[rows] = self.y[rows], torch.inf
        self.distance[rows] = self.outside[rows] = 0
        self.step[rows], self.passes[rows] = -1, 0
        if self.point is not None:
            self.point[rows] = self.x[rows]

    def confirm(self, adversarial: Tensor, rows: Tensor, step: int | Tensor) -> Tensor:
        """Project these images, let the float32 model answer and keep what is broken: (len(rows),) bool.

        `step` is where the attack stands, one number or one per row. A pixel that is no number proposes nothing: it is
        that of the image. Errors: `NumberError` where the model answers NaN.
        """
        x, y = self.x[rows], self.y[rows]
        raw = adversarial.detach().float()
        raw = torch.where(raw.isfinite(), raw, x)
        point = self.threat.project(raw, x).contiguous()  # whatever order the attack works in, the answer is the same
        excess = (self.threat.distance(raw, x) - float(self.threat.eps)).clamp_min(0)
        self.outside[rows] = torch.maximum(self.outside[rows], excess)
        with torch.no_grad():
            logits = self.model(point).float()
        if not torch.isfinite(logits).all():
            bad = int((~torch.isfinite(logits)).any(1).nonzero()[0])
            raise NumberError(f"model: the answer to image {self.images[int(rows[bad])]} under attack is not finite")
        answer, margin = logits.argmax(1), margins(logits, y)
        broken: Tensor = answer != y
        # The first break stays; before it the smallest margin; an answer that breaks always beats one that does not.
        worse = (self.step[rows] < 0) & (broken | (margin < self.margin[rows]))
        kept, steps = rows[worse], torch.as_tensor(step, device=rows.device).expand(len(rows))
        self.answer[kept], self.margin[kept] = answer[worse], margin[worse]
        self.distance[kept] = self.threat.distance(point, x)[worse]
        if self.point is not None:
            self.point[kept] = point[worse]
        self.step[rows[worse & broken]] = steps[worse & broken]
        return broken

    def book(self, rows: Tensor, each: int) -> None:
        """Book so many passes of the lean model on each of these rows; the model itself counts its own."""
        self.passes[rows] += each
        self.model.passes += each * len(rows)

    def charge(self, passes: int, rows: Tensor) -> None:
        """Book so many passes on these rows, evenly; the first rows bear the remainder."""
        share, rest = divmod(passes, len(rows))
        self.passes[rows] += share
        self.passes[rows[:rest]] += 1

    def finish(self, rows: Tensor) -> None:
        """These rows are through with the attack: what is known of them is kept."""
        self.done[rows] = True
        self.finished(rows)


@value
class Attack(ABC):
    """An attack as a value; `run` asks the judge. `version` is raised when a change moves answers."""

    version: ClassVar[int]

    @property
    @abstractmethod
    def name(self) -> str:
        """What the records call it."""

    @abstractmethod
    def cost(self, classes: int, norm: Norm = "linf") -> int:
        """Forward-equivalents for an image that it cannot break."""

    @abstractmethod
    def run(self, judge: Judge) -> None:
        """Attack every batch of the judge, confirm what was found, charge the passes, finish the batch."""


def untouched(model: Model, images: Tensor) -> Tensor:
    """The model's answer to `images`. Errors: `UserError` for one that writes into them: nobody else could use them."""
    given = images.clone()
    answer = model(given)
    if not torch.equal(given, images):
        raise UserError("model: writes into its images, expected one that leaves them as they are; let it clone them")
    return answer


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) the label's logit minus the best other one."""
    own = logits.gather(1, labels[:, None])[:, 0]
    gap: Tensor = own - logits.scatter(1, labels[:, None], -torch.inf).max(1).values
    return gap


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """The model in eval mode and without weight gradients; every module's own mode and flag come back, and so do its
    buffers, which some models change whenever they answer.

    Errors: `UserError` for parameters that are not float32, in which the verdict is given.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    half = [p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32]
    if half:
        raise UserError(f"model: parameters of type {half[0]}, expected float32, in which the verdict is given")
    modes = {module: module.training for module in model.modules()}
    flags = {p: p.requires_grad for p in model.parameters()}
    held = {buffer: buffer.clone() for buffer in model.buffers()}
    model.eval()
    for p in flags:  # one by one, since a scripted module has no flag for all
        p.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, flag in flags.items():
            p.requires_grad_(flag)
        with torch.no_grad():
            for buffer, before in held.items():
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def global_draws(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Torch's global generators keyed by a purpose, and at the end as they were: for code that draws from nothing else.

    Such code (models that draw, the released AutoAttack) draws per batch, so what it finds depends on the batch size.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_globally(device, seed, *purpose)
        yield


def seed_globally(device: torch.device, seed: int, *purpose: str | int) -> None:
    """Put the global generators of the CPU and of `device` into the state of one purpose."""
    key = derive(seed, *purpose)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)
