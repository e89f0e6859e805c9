"""The only owner of transfer: adversarial images are made on a source model and judged on another."""

from typing import Any, ClassVar

from torch import nn

from robustcl.bench.judge import Attack, Counted, Judge, frozen
from robustcl.bench.pgd import PGD
from robustcl.models.checkpoint import fingerprint
from robustcl.models.errors import UserError
from robustcl.models.threat import Norm
from robustcl.models.value import value


@value
class Transfer(Attack):
    """`attack` on the `source` model, within the same threat; its worst point per image is judged on the target.

    `source` is a model as for `evaluate`, raw images in and logits over the same labels out, or in a suite the name of
    an encoder. A point that has only just left its class on the source transfers least, hence the last iterate.
    """

    version: ClassVar[int] = 1

    source: Any
    attack: Attack = PGD(steps=20, verdict="last")

    @property
    def name(self) -> str:
        named = f"{self.source}-" if isinstance(self.source, str) else ""
        return f"transfer-{named}{self.attack.name}"

    @property
    def batch(self) -> int | None:
        """The batch that the attack on the source is bound to, if any."""
        found: int | None = getattr(self.attack, "batch", None)
        return found

    @property
    def source_identity(self) -> str:
        """The name of an encoder of the suite, or the fingerprint of the source's weights.

        Errors: `UserError` for a source that is a plain callable, which nothing tells from another.
        """
        if isinstance(self.source, str):
            return self.source
        if not isinstance(self.source, nn.Module):
            raise UserError(f"transfer: source {self.source!r}, expected a torch module, whose weights tell it apart")
        return fingerprint(self.source)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.attack.cost(classes, norm) + 1

    def run(self, judge: Judge) -> None:
        if not isinstance(self.source, nn.Module):
            raise UserError(f"transfer: source {self.source!r}, expected a torch module")
        source = Counted(self.source)
        with frozen(self.source):
            for rows in judge.batches():
                before = judge.model.passes
                images = [judge.images[int(row)] for row in rows]
                court = Judge(
                    source,
                    judge.x[rows],
                    judge.y[rows],
                    images,
                    threat=judge.threat,
                    seed=judge.seed,
                    batch=len(rows),
                    classes=judge.classes,
                    keep_points=True,
                )
                self._check(source, court)
                self.attack.run(court)
                assert court.point is not None
                judge.confirm(court.point, rows, court.step.clamp_min(0))
                judge.passes[rows] += court.passes
                judge.charge(judge.model.passes - before, rows)
                judge.finish(rows)

    def _check(self, source: Counted, court: Judge) -> None:
        logits = source(court.x[:1])
        if tuple(logits.shape) != (1, court.classes):
            expected = (1, court.classes)
            raise UserError(f"transfer: the source answers of shape {tuple(logits.shape)}, expected {expected}")
