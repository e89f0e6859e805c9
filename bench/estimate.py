"""The only owner of the estimated AutoAttack: a screening on every image, then AutoAttack on a random part of them.

Two-phase sampling with the phases drawn from one number per image: see docs/estimate.md.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from robustcl.bench.autoattack.attacks import APGD
from robustcl.bench.autoattack.versions import VERSIONS
from robustcl.bench.design import Costs, Design, Floats, Phase, allot
from robustcl.bench.judge import Attack, Judge
from robustcl.bench.pgd import PGD
from robustcl.models.errors import UserError
from robustcl.models.seeding import derive
from robustcl.models.threat import Norm
from robustcl.models.value import value

NAME, SHARE, LEAST = "aa-estimate", 20, 5
_BROKEN = 25  # passes on an image that the screening broke, where attacks end at a success; measured on training images
_FORM = re.compile(rf"{NAME}(?:-(\d+))?")


@value
class Screen(Attack):
    """An attack whose margins say what is drawn, and which decides nothing: what it breaks is judged by the others."""

    version: ClassVar[int] = 1

    attack: Attack = PGD(steps=10, loss="margin", target="each", targets=3)

    @property
    def name(self) -> str:
        return f"screen-{self.attack.name}"

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.attack.cost(classes, norm)

    def run(self, judge: Judge) -> None:
        self.attack.run(judge)


@value
class Drawn(Attack):
    """An attack that runs on the images that are drawn for a `phase`, counted from 0.

    `share` is the percentage of AutoAttack's passes that the whole estimate may take.
    """

    version: ClassVar[int] = 1

    attack: Attack
    phase: int = Field(ge=0)
    share: int = Field(default=SHARE, ge=LEAST, le=100)

    @property
    def name(self) -> str:
        return self.attack.name

    def __getattr__(self, name: str) -> Any:
        """Who runs it, and what that hangs on (`engine`, `batch`, `keyed`, ...), is the attack's own."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.attack, name)

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return math.ceil(self.attack.cost(classes, norm) * self.share / 100)

    def run(self, judge: Judge) -> None:
        self.attack.run(judge)


def asked_share(name: str) -> int | None:
    """The percentage of AutoAttack's passes that a name such as `aa-estimate-10` asks for; None for another name.

    Errors: `UserError` for a percentage that is none, or that is too small to draw from.
    """
    found = _FORM.fullmatch(name)
    if not found:
        return None
    share = int(found[1] or SHARE)
    if not LEAST <= share <= 100:
        raise UserError(f"attacks: '{name}' asks for {share} % of the passes, expected {LEAST} to 100")
    return share


def estimated(share: int, classes: int, **run: Any) -> list[Attack]:
    """The attacks of an estimate: the screening, then AutoAttack `standard`, as drawn; `run` is as in `VERSIONS`."""
    members = VERSIONS["autoattack"](classes, **run)
    return [Screen(), *(Drawn(attack=one, phase=int(not isinstance(one, APGD)), share=share) for one in members)]


def is_estimate(attacks: Sequence[Attack]) -> bool:
    """Whether these attacks are those of an estimate."""
    return any(isinstance(attack, Drawn) for attack in attacks)


def refuse(judges: Mapping[str, Sequence[Attack]], where: str) -> None:
    """Errors: `UserError` where a judge is an estimate; `where` says what cannot be done with one."""
    for name, attacks in judges.items():
        if is_estimate(attacks):
            raise UserError(f"{where}: '{name}' draws from all images at once; expected autoattack in its place")


class Lottery:
    """Which images each attack of one judge is given; for a judge that is no estimate, all that are still right.

    `images` (n,) are positions in the official split: an image's number depends on the seed and on it alone, so that
    two classifiers judged at one seed share their draws.
    """

    def __init__(self, attacks: Sequence[Attack], images: Sequence[int], classes: int, norm: Norm, seed: int) -> None:
        self.attacks, self.classes, self.norm, self.seed = attacks, classes, norm, seed
        self.active = is_estimate(attacks)
        self.numbers = uniforms(seed, images) if self.active else np.empty(0)
        self.margins = np.full(len(images), np.nan)
        self.design: Design | None = None

    def drawn(self, attack: Attack, right: Tensor) -> Tensor:
        """The rows of `right` that this attack is given."""
        if not isinstance(attack, Drawn):
            return right
        if self.design is None:
            screened = self.margins[np.isfinite(self.margins)]
            self.design = design_of(self.attacks, screened, self.classes, self.norm, self.seed)
        rows = right.numpy()
        return right[torch.from_numpy(self.numbers[rows] < self.design.chances(attack.phase, self.margins[rows]))]

    def left(self, attack: Attack, right: Tensor, rows: Tensor, judge: Judge, broken: Tensor) -> Tensor:
        """Those of `right` that go on, after the attack was through with `rows`, of which `broken` (len(rows),)."""
        if isinstance(attack, Screen):
            self.margins[rows.numpy()] = judge.margin.cpu().numpy()
            return right
        return right[~torch.isin(right, rows[broken])]


def design_of(attacks: Sequence[Attack], margins: Any, classes: int, norm: Norm, seed: int) -> Design:
    """The design of an estimate, from the margins (n,) that its screening left of the images that are right clean."""
    screen = next(attack for attack in attacks if isinstance(attack, Screen))
    drawn = [attack for attack in attacks if isinstance(attack, Drawn)]
    phases = sorted({attack.phase for attack in drawn})
    costs = Costs(
        phases=[sum(one.attack.cost(classes, norm) for one in drawn if one.phase == phase) for phase in phases],
        screen=screen.cost(classes, norm),
        broken=drawn[0].attack.cost(classes, norm) if drawn[0].fixed_batch else _BROKEN,
    )
    share = drawn[0].share
    edges, chances = allot(margins, costs, share / 100)
    held = [
        Phase(attacks=tuple(one.name for one in drawn if one.phase == phase), chances=tuple(of.tolist()))
        for phase, of in zip(phases, chances, strict=True)
    ]
    return Design(screen=screen.name, share=share, seed=seed, edges=tuple(edges), phases=tuple(held))


def designs(
    records: pd.DataFrame, judges: Mapping[str, Sequence[Attack]], classes: int, norm: Norm, seed: int
) -> dict[str, Design]:
    """Judge -> its design, of those that are estimates, as the `records` that they made say it."""
    found = {}
    for name, attacks in judges.items():
        if not is_estimate(attacks):
            continue
        rows = records[records["judge"] == name]
        margins = rows.loc[rows["attack"] == attacks[0].name, "margin"].to_numpy()
        made = design_of(attacks, margins, classes, norm, seed)
        counts = rows["attack"].value_counts()
        phases = [replace(phase, drawn=int(counts.get(phase.attacks[0], 0))) for phase in made.phases]
        found[name] = replace(made, phases=tuple(phases))
    return found


def broken_by(records: pd.DataFrame, name: str, design: Design, attacks: Sequence[str]) -> float:
    """How many images these attacks of an estimate broke of what those before had left, estimated for all images."""
    rows = records[records["judge"] == name]
    margins = rows[rows["attack"] == design.screen].set_index("image")["margin"]
    total = 0.0
    for number, phase in enumerate(design.phases):
        names = [attack for attack in attacks if attack in phase.attacks]
        lost = rows.loc[rows["attack"].isin(names) & ~rows["right"].astype(bool), "image"]
        total += float((1 / design.chances(number, margins.loc[lost])).sum())
    return total


def uniforms(seed: int, images: Iterable[int]) -> Floats:
    """(n,) a number in [0, 1) for every image, always the same one (permanent random numbers; Ohlsson, 1995)."""
    return np.array([derive(seed, "estimate", int(image)) >> 10 for image in images], dtype=np.float64) / 2.0**53
