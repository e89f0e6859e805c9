"""The only owner of what `robustcl.evaluate` answers: one model under one threat, image by image."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustcl.bench.design import Design
from robustcl.bench.findings import UNCHECKED, Reliability
from robustcl.models.errors import UserError
from robustcl.reports.estimate import Estimate, estimates
from robustcl.reports.frame import CLEAN, Judges
from robustcl.reports.statistics import wilson
from robustcl.reports.table import ESTIMATED, attack_text, heading, percent
from robustcl.reports.trust import Notes, against, text_of, with_small_n
from robustcl.reports.verdicts import judged
from robustcl.reports.writers import grid

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The verdicts on n images, in the order in which the images were given.

    `records` are the rows of one model (see `frame`), in any order; `order` (n,) holds the `image` of every given
    image; `threat` and `protocol` are text for people; `judges` maps a judge to its attacks, `fingerprints` to the
    text that says them whole. `checked` is what the checks found (None: they did not run). `designs` says of the judges
    that are estimates how they drew their images.
    Errors: `UserError` where the records are not of these images or lack a judge.
    """

    records: pd.DataFrame = field(repr=False)
    order: Sequence[int] = field(repr=False)
    threat: str
    judges: Judges
    protocol: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict, repr=False)
    checked: Reliability | None = field(default=None, repr=False)
    designs: Mapping[str, Design] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lost = set(self.judges) - set(self._answers) - set(self.estimates)
        if lost:
            raise UserError(f"records: nothing of judge '{min(lost)}', expected a row per image and attack")

    @property
    def clean(self) -> Bools:
        """Whether the clean answer is right, (n,)."""
        return self._answers[CLEAN]

    @property
    def robust(self) -> dict[str, Bools]:
        """Judge -> whether the image is robustly right under it, (n,); an estimate says nothing of single images."""
        return {judge: right for judge, right in self._answers.items() if judge != CLEAN}

    @property
    def worst(self) -> Bools:
        """Whether the image is right clean and under every judge that is no estimate, (n,).

        Errors: `UserError` where estimates alone were asked for, which have no verdict per image.
        """
        if self.designs and not self.robust:
            raise UserError(
                f"worst: {', '.join(self.designs)} has no verdict per image, expected another judge beside it"
            )
        return np.asarray(np.logical_and.reduce(list(self._answers.values())))

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Judge -> what it estimates, of the judges that drew a part of the images."""
        return estimates(self.records, self.judges, self.designs)

    @property
    def reliability(self) -> Reliability | None:
        """What speaks for and against the numbers: the checks' findings, and whether n is too small; None unchecked."""
        return with_small_n(self.checked, len(self.order)) if self.checked else None

    @cached_property
    def _answers(self) -> dict[str, Bools]:
        answers = judged(self.records, self.judges)
        images = pd.Index(np.asarray(self.order))
        known = answers[CLEAN].index
        if not images.is_unique or len(images) != len(known) or not images.isin(known).all():
            raise UserError(f"records: {len(known)} images, expected exactly the {len(images)} that were given")
        return {judge: right.loc[images].to_numpy(dtype=bool) for judge, right in answers.items()}

    def __str__(self) -> str:
        """The table as Markdown between its caption and its notes: SA and a column per judge, with 95 % intervals."""
        columns = dict(self._answers)
        if len(self.robust) > 1:
            columns["worst"] = self.worst
        notes, text = Notes(), text_of(self.checked)
        cells = [self._cell(judge, right, notes, text) for judge, right in columns.items()]
        cells += [self._estimated(judge, of, notes, text) for judge, of in self.estimates.items()]
        attacks = [f"{heading(judge)}: {told}" for judge, told in self.fingerprints.items()]
        verdict = self.reliability.verdict if self.reliability else UNCHECKED
        parts = [f"{self.threat}, n = {len(self.order)} images", "accuracy in percent with 95 % Wilson intervals"]
        parts += attacks or [attack_text(self.judges)]
        parts += [ESTIMATED] if self.estimates else []
        parts += [self.protocol, f"reliability: {verdict}"]
        caption = textwrap.fill("; ".join(part for part in parts if part) + ".", 100)
        below = [textwrap.fill(note, 100) for note in notes.lines()]
        table = grid([heading(judge) for judge in [*columns, *self.estimates]], [cells], names=0)
        return "\n\n".join([caption, table, *(["\n".join(below)] if below else [])])

    def _cell(self, judge: str, right: Bools, notes: Notes, text: str) -> str:
        n, k = len(right), int(right.sum())
        low, high = wilson(k, n)
        share = percent(k / n if n else float("nan"), float(low), float(high))
        mark = notes.mark(heading(judge), against(text, judge, n))
        return f"{share} {mark}".strip()

    def _estimated(self, judge: str, of: Estimate, notes: Notes, text: str) -> str:
        mark = notes.mark(heading(judge), against(text, judge, of.n))
        return f"{percent(of.accuracy, *of.world(), of_set=of.limits())} {mark}".strip()
