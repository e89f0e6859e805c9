"""The only owner of what judging a given classifier is: a case, its key, its stages and its cell of the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcl.bench import reliability
from robustcl.bench.attacks import Attack, identity
from robustcl.bench.budget import blocks
from robustcl.bench.estimate import refuse
from robustcl.bench.evaluate import Trial
from robustcl.bench.fingerprint import fingerprints
from robustcl.bench.given import Given
from robustcl.bench.pace import most
from robustcl.bench.store import Stage
from robustcl.models.threat import Threat
from robustcl.models.value import plain
from robustcl.pretraining.images import Images

SCHEME = "as given"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One given classifier under one threat. `row` and `data` are their names for people; `batch` is how many images
    are attacked at a time, and with a `budget` (seconds, infinite for who stops by something else) the size of a block.

    `smaller` is the case of the next smaller radius of a sweep: what was broken there is broken here, at no cost (see
    `sweep`). `save` is the file for the adversarial images; `workers` share the batches (see `evaluate.Trial`).
    """

    given: Given
    row: str
    images: Images
    data: str
    threat: Threat
    judges: Mapping[str, Sequence[Attack]]
    seed: int = 0
    batch: int = 256
    budget: float | None = None
    smaller: "Case | None" = None
    save: Path | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        if self.budget:
            refuse(self.judges, "evaluate: no blocks, as with a budget or a sequential check")

    @property
    def part(self) -> dict[str, Any]:
        """All that its numbers depend on."""
        return {
            "weights": self.given.weights,
            "data": self.images.fingerprint,
            "images": len(self.images),
            "threat": plain(self.threat),
            "judges": {name: [identity(attack) for attack in attacks] for name, attacks in self.judges.items()},
            "seed": self.seed,
            "blocks of": self.batch if self.budget else None,
            "smaller eps": self.smaller_radii,
        }

    @property
    def trial(self) -> Trial:
        """What judges it."""
        return Trial(threat=self.threat, judges=self.judges, seed=self.seed, batch=self.batch, label=self.given.weights)

    @property
    def smaller_radii(self) -> list[str]:
        """The radii of the sweep before this one, from the smallest."""
        return [*self.smaller.smaller_radii, str(self.smaller.threat.eps)] if self.smaller else []

    @property
    def label(self) -> str:
        """What people read while it runs."""
        return f"evaluate {self.row} at {self.threat.eps}"

    @property
    def stages(self) -> list[Stage]:
        """The work: one stage, or one per block."""
        if not self.budget:
            return [Stage(kind="evaluate", part=self.part, label=self.label)]
        count = -(-len(self.images) // self.batch)
        parts = [{**self.part, "block": number} for number in range(count)]
        return [
            Stage(kind="block", part=part, label=f"{self.label}, block {number} of {count}")
            for number, part in enumerate(parts, 1)
        ]

    @property
    def cost(self) -> dict[str, int]:
        """The most passes that each stage can take."""
        sizes = [len(self.images)] if not self.budget else [len(part) for part in blocks(self.images, self.batch)]
        classes = self.images.classes
        sized = zip(self.stages, sizes, strict=True)
        found = {stage.key: most(self.judges, classes, n, self.threat.norm) for stage, n in sized}
        found[self.stages[-1].key] += reliability.cost(len(self.images))
        return found


def cell(case: Case, stage: Stage, told: str = "", *, headline: bool = True) -> dict[str, Any]:
    """The cell of a case whose records the stage holds; `told` is more of its protocol."""
    return {
        "encoder": case.row,
        "method": case.given.architecture,
        "scheme": SCHEME,
        "data": case.data,
        "classes": case.images.classes,
        "norm": case.threat.norm,
        "eps": str(case.threat.eps),
        "headline": headline,
        "judges": {name: [attack.name for attack in attacks] for name, attacks in case.judges.items()},
        "fingerprints": fingerprints(case.judges, case.threat, case.seed, case.images.classes),
        "seeds": {"judge": case.seed},
        "protocol": ", ".join(filter(None, [SCHEME, told])),
        "part": case.part,
        "stage": stage.key,
    }
