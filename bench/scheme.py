"""The only owner of what a scheme is: a `Method` that makes a classifier of an encoder, and which epoch it chooses."""

from abc import abstractmethod
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from robustcl.models.heads import linear
from robustcl.models.value import value
from robustcl.pretraining.method import Method, Targets
from robustcl.pretraining.optim import Automatic
from robustcl.pretraining.selection import PGD20

PACKAGE = "robustcl.bench.schemes"
Choice = Literal["last", "best_val"]


@value
class Scheme(Method):
    """How an encoder, on the one route that is deployed, becomes a classifier; one file per kind in `bench/schemes`.

    `selection` says which weights are judged: those of the `last` epoch, those of the best one on held-out training
    images (`best_val`), or both. One training image in `validation` is held out where an epoch is chosen (5,000 of
    50,000). Where both are asked for, one run on the `rest` gives both, or with `last_on = "all"` the last epoch comes
    from a run on all images and the best one from another.
    """

    selection: tuple[Choice, ...] = ("last",)
    validation: int = Field(default=10, ge=2)
    last_on: Literal["all", "rest"] = "rest"

    @model_validator(mode="after")
    def _some(self) -> "Scheme":
        if not self.selection or len(set(self.selection)) < len(self.selection):
            raise ValueError(f"selection: {list(self.selection)}, expected 'last', 'best_val' or both, each once")
        return self

    @property
    @abstractmethod
    def words(self) -> str:
        """What it trains on what, in a few words."""

    @property
    def held(self) -> int | None:
        """5 where every fifth training image is held out, to choose an epoch or for a rate that follows; or None."""
        follows = isinstance(self.training.schedule, Automatic)
        return self.validation if "best_val" in self.selection or follows else None

    @property
    def attacked(self) -> bool:
        """Whether what is held out is attacked, so that the threat is a part of the training.

        A scheme that sees clean images alone chooses by clean accuracy: it knows no threat, and one classifier serves
        all radii. AutoLoRa's rate follows PGD-20 in every scheme, as released.
        """
        return self.held is not None and (self.adversarial or isinstance(self.training.schedule, Automatic))

    @property
    def runs(self) -> "list[Scheme]":
        """The runs of training that it takes, each with what is selected from it."""
        if self.last_on == "rest" or len(self.selection) == 1:
            return [self]
        return [replace(self, selection=(choice,)) for choice in self.selection]

    def asked(self, n: int) -> int:
        """How many of `n` training images are held out and asked after every epoch."""
        return n // self.held if self.held else 0

    def trained(self, n: int) -> int:
        """How many of `n` training images are trained on; a monitor holds out some of its own."""
        rest, monitor = n - self.asked(n), self.training.monitor
        return rest - rest // monitor.hold_out if monitor else rest

    def passes(self, n: int) -> int:
        """Forward-equivalents of a run on `n` training images, those held out included."""
        each = 2 + 2 * PGD20.steps if self.attacked else 1
        return round(self.training.epochs * (self.trained(n) * self.units + self.asked(n) * each))


def classes(width: int, targets: Targets) -> dict[str, nn.Module]:
    """The head of every scheme. It starts at zero, so that no seed enters there."""
    return {"classes": linear(width, targets.classes, zero=True)}
