"""The only owner of what the fixture `robust_accuracy` does: judge, compare, and fail, skip or pass the test."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from robustcl.api import evaluate
from robustcl.bench.attacks import Attack, Engine, Plain
from robustcl.bench.evaluate import Model
from robustcl.gate import refuse_ci
from robustcl.models.errors import NumberError, UserError, unknown
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.reports.baseline import NO_THREAT, Baseline, Row, read_baseline, write_baseline
from robustcl.reports.check import LEVEL, MARGIN, Check, check_rows
from robustcl.reports.checked import terminal
from robustcl.reports.evaluation import Evaluation
from robustcl.reports.frame import CLEAN
from robustcl.reports.seeds import attack
from robustcl.reports.trust import against, text_of, verdict, why

UNDECIDED = ("skip", "fail", "pass")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What a test is given: `name` is the test's and that of its rows, `baseline` the file they are compared with.

    `alone` says whether no other process may write the file.
    """

    name: str
    baseline: Path | None
    bless: bool = False
    undecided: str = "skip"
    alone: bool = True

    def check(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        threat: Threat | str,
        attacks: Sequence[str | Attack | Plain] = ("pgd-20",),
        margin: float = MARGIN,
        level: float = LEVEL,
        undecided: str | None = None,
        name: str | None = None,
        seed: int = 0,
        batch_size: int = 256,
        engine: str | Engine = "fast",
        index: Tensor | None = None,
    ) -> Check:
        """Fail where the clean or the robust accuracy lost more than `margin` against the baseline, image by image.

        Most is as for `robustcl.evaluate`; a `threat` in text is a radius in linf. `margin` is a share (0.01 is one
        point), `level` the error rate of the check. `undecided` says what becomes of a test that cannot tell: "skip"
        (default; nobody takes it for passed), "fail" or "pass" with a warning; each with the number of images that
        could. With `--robustcl-bless` the rows are written instead, and the test is skipped.
        """
        settings: dict[str, Any] = {"attacks": attacks, "seed": seed, "batch_size": batch_size}
        settings |= {"engine": engine, "index": index}
        try:
            settings["threat"] = Threat(threat) if isinstance(threat, str) else threat
            path, after = self._ready(undecided)
            rows = rows_of_evaluation(evaluate(model, images, labels, **settings), images, labels, name or self.name)
            before = Baseline(rows=rows) if self.bless else _rows(path, rows[0].encoder)
            outcome, trouble = check_rows(rows, before, margin, level), ""
            told = _write(path, rows) if self.bless else terminal(outcome, before)
        except (UserError, NumberError) as error:
            trouble = f"robust_accuracy: {error}"
        if trouble:  # not above, where pytest would show how it came about
            pytest.fail(trouble, pytrace=False)
        if self.bless:
            pytest.skip(told)
        _end(outcome, told, after)
        return outcome

    def _ready(self, undecided: str | None) -> tuple[Path, str]:
        """The file, and what becomes of a test that cannot tell. Errors: `UserError` for what is wrong, at once."""
        chosen = undecided or self.undecided
        if chosen not in UNDECIDED:
            raise unknown("undecided", "outcome", chosen, UNDECIDED)
        if self.baseline is None:
            raise UserError("no baseline, expected --robustcl-baseline FILE, or robustcl_baseline in pytest's settings")
        if self.bless:
            refuse_ci("--robustcl-bless")
            if not self.alone:
                raise UserError("--robustcl-bless: several processes would write one file, expected no -n")
        return self.baseline, chosen


def rows_of_evaluation(found: Evaluation, images: Tensor, labels: Tensor, name: str) -> tuple[Row, ...]:
    """The rows of an evaluation of these images, clean first, under the name of an encoder."""
    norm, eps = found.threat.split()[:2]
    order = np.asarray(found.order, dtype=np.int32)
    by_image = np.argsort(order)
    whole = Images(images.detach(), labels.detach(), classes=int(labels.max()) + 1, name="guard")
    findings = text_of(found.checked)
    made = []
    sure = {judge: found.clean & ~np.isin(order, of.certain) for judge, of in found.estimates.items()}
    for judge, right in {CLEAN: found.clean, **found.robust, **sure}.items():
        held = against(findings, judge, len(order)) if findings else None
        row = Row(
            encoder=name,
            scheme="as given",
            data="images of the test",
            norm=NO_THREAT if judge == CLEAN else norm,
            eps=NO_THREAT if judge == CLEAN else eps,
            judge=judge,
            fingerprint=attack(found.fingerprints.get(judge, "")),
            content=whole.fingerprint,
            reliability=verdict(held),
            why=why(held),
            image=order[by_image],
            label=labels.cpu().numpy().astype(np.int16)[by_image],
            right=right[by_image],
            estimate=found.estimates.get(judge),
        )
        made.append(row)
    return tuple(made)


def _rows(path: Path, name: str) -> Baseline:
    """The rows of this name. Errors: `UserError` where there are none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a baseline; pytest --robustcl-bless writes one")
    whole = read_baseline(path)
    rows = tuple(row for row in whole.rows if row.encoder == name)
    if not rows:
        known = list(dict.fromkeys(row.encoder for row in whole.rows))
        raise UserError(f"{unknown(str(path), 'row', name, known)}; pytest --robustcl-bless adds it")
    return Baseline(rows=rows, about={"suite": f"{path.name}"})


def _write(path: Path, rows: Sequence[Row]) -> str:
    """Put the rows into the file, in the place of those of the same name."""
    name = rows[0].encoder
    others = [row for row in read_baseline(path).rows if row.encoder != name] if path.is_file() else []
    whole = sorted([*others, *rows], key=lambda row: row.encoder)
    write_baseline(path, Baseline(rows=tuple(whole), about={"suite": "pytest"}))
    told = ", ".join(f"{row.judge} {100 * row.accuracy:.1f}" for row in rows)
    return f"blessed {name} into {path}: {told}"


def _end(check: Check, text: str, undecided: str) -> None:
    if check.outcome == "ok":
        return
    if check.outcome == "regression" or undecided == "fail":
        pytest.fail(text, pytrace=False)
    if undecided == "skip":
        pytest.skip(text)
    warnings.warn(pytest.PytestWarning(text), stacklevel=3)
