"""The only owner of sampling designs: which images an estimate draws, with which probability (no torch)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from robustcl.models.errors import UserError
from robustcl.models.value import read, value

Floats = NDArray[np.float64]
# Chosen on training images that no classifier had seen, under other classifiers than those of docs/estimate.md.
_CUTS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)  # of the screened, by margin
_BROAD = 0.6  # the share of the budget that is spent evenly, whatever the margin
_SCALE, _FALL, _EARLY = 0.15, 2.0, 2.0  # chances fall as (1 + rank / scale) ** -fall; the first phase is drawn wider


@value
class Phase:
    """Attacks that are run on the same drawn images, and the probability of being drawn in each stratum.

    `drawn` is how many images came to the first of the attacks.
    """

    attacks: tuple[str, ...]
    chances: tuple[float, ...]
    drawn: int = Field(default=0, ge=0)


@value
class Design:
    """What was drawn: strata of the margin that the screening attack left, and the chance of each in every phase.

    Stratum k holds the margins from `edges[k - 1]` on and below `edges[k]`. An image is drawn for a phase where its
    own uniform number lies below its chance: independently of all others, and in a later phase only if it was in the
    earlier ones, whose chances are no smaller. `share` is the percentage of AutoAttack's passes that was asked for.
    """

    screen: str
    share: int
    seed: int
    edges: tuple[float, ...]
    phases: tuple[Phase, ...]
    version: Literal[1] = 1

    @model_validator(mode="after")
    def _sound(self) -> Self:
        count = len(self.edges) + 1
        before = np.ones(count)
        if not self.phases or (np.diff(self.edges) < 0).any():
            raise ValueError("is damaged, expected phases, and edges that rise")
        for phase in self.phases:
            here = np.array(phase.chances)
            if not phase.attacks or len(here) != count or not ((here > 0) & (here <= before)).all():
                raise ValueError(f"chances {here.tolist()} are wrong, expected {count} in (0, 1], in no phase larger")
            before = here
        return self

    def chances(self, phase: int, margins: ArrayLike) -> Floats:
        """(n,) the probability that images of these screen margins are drawn for a phase, counted from 0."""
        held: Floats = np.asarray(self.phases[phase].chances, dtype=np.float64)[strata(margins, self.edges)]
        return held

    @property
    def least(self) -> float:
        """The smallest chance that any image had of all attacks."""
        return min(self.phases[-1].chances)


def read_designs(tables: Any, where: str) -> dict[str, Design]:
    """Judge -> its `Design`, from what `plain` made of them. Errors: `UserError` that names `where`."""
    if not isinstance(tables, Mapping) or not all(isinstance(of, Mapping) for of in tables.values()):
        raise UserError(f"{where}: designs are damaged, expected a table for each judge that is an estimate")
    return {str(judge): read(Design, of, where) for judge, of in tables.items()}


def strata(margins: ArrayLike, edges: Sequence[float]) -> NDArray[np.intp]:
    """(n,) the number of the stratum of each margin."""
    return np.searchsorted(np.asarray(edges, dtype=np.float64), np.asarray(margins, dtype=np.float64), side="right")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Passes on one image: of each phase where nothing breaks it, of the screening there, and all on a broken one."""

    phases: Sequence[float]
    screen: float
    broken: float


def allot(margins: ArrayLike, costs: Costs, share: float) -> tuple[list[float], list[Floats]]:
    """The edges of the strata and, per phase, the chance of each stratum, from nothing but the screen margins (n,).

    `share`, in (0, 1], is the part of what AutoAttack would spend on these images that may be spent, the screening
    included. Images that it broke (a negative margin) are all drawn. The chances fall with the rank of the margin, and
    a part of the budget is spent evenly: breaks that no margin foretells must not hide. Where next to nothing is left
    for drawing, half of the share is spent on it all the same; a share of 1 draws every image.
    """
    held = np.sort(np.asarray(margins, dtype=np.float64))
    left = held[held >= 0]
    at = sorted({int(cut * len(left)) for cut in _CUTS} - {0})
    edges = list(dict.fromkeys([0.0, *(float(left[place]) for place in at if place < len(left))]))
    sizes = np.bincount(strata(left, edges), minlength=len(edges) + 1)[1:].astype(np.float64)
    ranks = (np.cumsum(sizes) - sizes / 2) / max(len(left), 1)
    whole, lost = sum(costs.phases), (len(held) - len(left)) / max(len(left), 1)
    budget = max(share * (whole + lost * costs.broken) - costs.screen - lost * costs.broken, share * whole / 2)
    budget = whole if share >= 1 else budget
    even = min(_BROAD * budget / whole, 1.0)

    def chances(size: float) -> list[Floats]:
        late = np.clip(size * (1 + ranks / _SCALE) ** -_FALL, even, 1.0)
        return [np.minimum(_EARLY**ahead * late, 1.0) for ahead in reversed(range(len(costs.phases)))]

    def price(size: float) -> float:
        each = zip(chances(size), costs.phases, strict=True)
        return float(sum(cost * (of * sizes).sum() for of, cost in each)) / max(len(left), 1)

    low, high = 0.0, (1 + 1 / _SCALE) ** _FALL  # at `high` every chance is 1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if price(middle) <= budget else (low, middle)
    found = chances(high if price(high) <= budget else low)
    return edges, [np.concatenate([[1.0], of]) for of in found]
