"""The only owner of AutoAttack's attacks as values: what their fields mean, what they cost, what they are called."""

from typing import ClassVar, Literal

from pydantic import Field

from robustcl.bench.autoattack import apgd, fab, reference, square
from robustcl.bench.autoattack.engine import Member
from robustcl.bench.autoattack.search import searches
from robustcl.bench.judge import Judge
from robustcl.models.threat import Norm
from robustcl.models.value import value

_LOSSES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "targeted": "apgd-t"}


@value
class APGD(Member):
    """Auto-PGD (Croce and Hein, ICML 2020) on the cross-entropy, the DLR loss or the targeted DLR loss.

    DLR needs three classes and targeted DLR four. `targets` are the likeliest other classes, at most all of them.
    `samples` gradients are averaged per step. `shrinking` (l1 alone, at least three steps) goes over balls of three and
    two times the radius first (Croce and Hein, ICML 2021). None is what AutoAttack `standard` takes: 1 restart,
    9 targets, no shrinking; in l1 5 restarts on the cross-entropy, 5 targets, shrinking.
    """

    version: ClassVar[int] = 2

    loss: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = Field(default=100, ge=3)
    restarts: int | None = Field(default=None, ge=1)
    targets: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1, ge=1)
    shrinking: bool | None = None

    @property
    def name(self) -> str:
        draws = f"-eot{self.samples}" if self.samples > 1 else ""
        return _name(_LOSSES[self.loss], self.steps, 100, self.restarts) + draws

    @property
    def least_classes(self) -> int:
        """How many classes the loss needs."""
        return {"ce": 2, "dlr": 3, "targeted": 4}[self.loss]

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        restarts, targets, shrinking = self.settings(classes, norm)
        evaluations = self.steps + (3 if shrinking else 1)
        ranking = int(self.loss == "targeted")
        if self.referenced:  # it ranks before every run, and asks for clean answers before all of them
            return targets * restarts * (2 * self.samples * evaluations + ranking) + 2
        return targets * restarts * 2 * self.samples * evaluations + ranking + 1

    def run(self, judge: Judge) -> None:
        restarts, targets, shrinking = self.settings(judge.classes, judge.threat.norm)
        if not self.referenced:
            plan = apgd.Plan(
                loss=self.loss,
                steps=self.steps,
                restarts=restarts,
                targets=targets,
                samples=self.samples,
                shrinking=shrinking,
            )
            for search in searches(self, judge):
                apgd.attack(search, plan)
                search.finish(self.steps)
            return
        given = {"n_iter": self.steps, "n_restarts": restarts, "eot_iter": self.samples, "use_largereps": shrinking}
        kind = {"n_target_classes": targets} if self.loss == "targeted" else {"loss": self.loss}
        reference.attack(judge, "apgd-t" if self.loss == "targeted" else "apgd", self.steps, {**kind, **given})

    def settings(self, classes: int, norm: Norm) -> tuple[int, int, bool]:
        """What it runs with: restarts, targets (1 where there are none) and whether the ball shrinks."""
        restarts = self.restarts or (5 if norm == "l1" and self.loss == "ce" else 1)
        targets = min(self.targets or (5 if norm == "l1" else 9), classes - 1) if self.loss == "targeted" else 1
        return restarts, targets, norm == "l1" if self.shrinking is None else self.shrinking and norm == "l1"


@value
class FAB(Member):
    """FAB (Croce and Hein, ICML 2020): the nearest adversarial image; towards targets, or over all classes at once.

    Untargeted, a step asks for a gradient per class; our engine for one less, those of the differences to the label.
    """

    version: ClassVar[int] = 2

    targeted: bool = True
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    targets: int = Field(default=9, ge=1)

    @property
    def name(self) -> str:
        return _name("fab-t" if self.targeted else "fab", self.steps, 100, self.restarts)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        runs = self.restarts * (min(self.targets, classes - 1) if self.targeted else 1)
        if self.referenced:
            per_step, around = (3, 3) if self.targeted else (classes + 2, 2)
            return runs * (per_step * self.steps + around) + 2
        return runs * (3 if self.targeted else classes + 1) * self.steps + int(self.targeted) + 1

    def run(self, judge: Judge) -> None:
        targets = min(self.targets, judge.classes - 1)
        if not self.referenced:
            plan = fab.Plan(targeted=self.targeted, steps=self.steps, restarts=self.restarts, targets=targets)
            for search in searches(self, judge):
                fab.attack(search, plan)
                search.finish(self.steps)
            return
        given = {"n_iter": self.steps, "n_restarts": self.restarts, "n_target_classes": targets}
        reference.attack(judge, "fab", self.steps, {"targeted": self.targeted, **given})


@value
class Square(Member):
    """Square (Andriushchenko et al., ECCV 2020): random search without gradients."""

    version: ClassVar[int] = 2

    queries: int = Field(default=5000, ge=1)
    restarts: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        return _name("square", self.queries, 5000, self.restarts)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.restarts * (self.queries + (2 if self.referenced else 1)) + (2 if self.referenced else 1)

    def run(self, judge: Judge) -> None:
        square.check(judge, self.name)
        if not self.referenced:
            plan = square.Plan(queries=self.queries, restarts=self.restarts)
            for search in searches(self, judge):
                square.attack(search, plan)
                search.finish(self.queries)
            return
        given = {"n_queries": self.queries, "n_restarts": self.restarts, "p_init": 0.8, "resc_schedule": False}
        reference.attack(judge, "square", self.queries, given)


def _name(base: str, number: int, released: int, restarts: int | None) -> str:
    """The released name, and whatever is not as released in `standard`."""
    again = restarts if restarts and restarts > 1 else None
    return base if number == released and not again else f"{base}-{number}" + (f"x{again}" if again else "")
