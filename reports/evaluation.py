"""The only owner of what `robustcl.evaluate` answers: one model under one threat, image by image."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustcl.models.errors import UserError
from robustcl.reports.frame import CLEAN, Judges, judged
from robustcl.reports.statistics import wilson
from robustcl.reports.table import attack_text, heading, percent
from robustcl.reports.writers import grid

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The verdicts on n images, in the order in which the images were given.

    `records` are the rows of one model (see `frame`), in any order; `order` (n,) holds the `image` of every given
    image; `threat` and `protocol` are text for people; `judges` maps a judge to its attacks.
    Errors: `UserError` where the records are not of these images or lack a judge.
    """

    records: pd.DataFrame = field(repr=False)
    order: Sequence[int] = field(repr=False)
    threat: str
    judges: Judges
    protocol: str = ""

    def __post_init__(self) -> None:
        lost = set(self.judges) - set(self._answers)
        if lost:
            raise UserError(f"records: nothing of judge '{min(lost)}', expected a row per image and attack")

    @property
    def clean(self) -> Bools:
        """Whether the clean answer is right, (n,)."""
        return self._answers[CLEAN]

    @property
    def robust(self) -> dict[str, Bools]:
        """Judge -> whether the image is robustly right under it, (n,)."""
        return {judge: right for judge, right in self._answers.items() if judge != CLEAN}

    @property
    def worst(self) -> Bools:
        """Whether the image is right clean and under every judge, (n,)."""
        return np.asarray(np.logical_and.reduce(list(self._answers.values())))

    @cached_property
    def _answers(self) -> dict[str, Bools]:
        answers = judged(self.records, self.judges)
        images = pd.Index(np.asarray(self.order))
        known = answers[CLEAN].index
        if not images.is_unique or len(images) != len(known) or not images.isin(known).all():
            raise UserError(f"records: {len(known)} images, expected exactly the {len(images)} that were given")
        return {judge: right.loc[images].to_numpy(dtype=bool) for judge, right in answers.items()}

    def __str__(self) -> str:
        """The table as Markdown under its caption: SA and a column per judge, with 95 % Wilson intervals."""
        columns = {heading(judge): right for judge, right in self._answers.items()}
        if len(self.robust) > 1:
            columns["worst"] = self.worst
        n = len(self.order)
        shares = [(int(right.sum()), *wilson(int(right.sum()), n)) for right in columns.values()]
        cells = [percent(right / n if n else float("nan"), float(low), float(high)) for right, low, high in shares]
        parts = [f"{self.threat}, n = {n} images", "accuracy in percent with 95 % Wilson intervals"]
        parts += [part for part in (attack_text(self.judges), self.protocol) if part]
        return f"{textwrap.fill('; '.join(parts) + '.', 100)}\n\n{grid(list(columns), [cells], names=0)}"
