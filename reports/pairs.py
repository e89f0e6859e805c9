"""The only owner of which differences between encoders are resolved: paired on the same images, corrected for many."""

import json
from itertools import combinations

import numpy as np
import pandas as pd

from robustcl.models.errors import UserError, unknown
from robustcl.reports.answers import Records, heard
from robustcl.reports.seeds import attack, seed_columns
from robustcl.reports.statistics import Floats, holm, mcnemar, paired
from robustcl.reports.verdicts import verdicts


def pairs(records: Records, scheme: str, judge: str, level: float = 0.05) -> pd.DataFrame:
    """Every two encoders of a `frame` under one scheme and judge (`clean`, `pgd-20`, `corruptions`), the better first.

    Columns: better, worse, difference (of the accuracies, a share), only_better and only_worse (images on which one is
    right alone, or more often than the other), p, holm (corrected over all pairs) and resolved (holm at most `level`).
    Ordered by the accuracy of the better, then of the worse. With one seed each, p is the exact McNemar test's; where
    an encoder has several, or images have shares (corruptions), the means of the images are compared with the paired
    t-test. Either speaks of these encoders on images like these: not of other seeds. Errors: `UserError` for a scheme
    or judge that the records do not hold, for more than one table, for other images, and for attacks that differ.
    """
    shown = heard(records).headline
    if any(judge in of.estimates for of in shown.heard):
        raise UserError(f"pairs: '{judge}' is an estimate, without a verdict per image, expected such as autoattack")
    answers = verdicts(shown, shares=True)
    for key, name in (("scheme", scheme), ("judge", judge)):
        known = [str(held) for held in answers[key].unique()]
        if name not in known:
            raise unknown("pairs", key, name, known)
    return compare(answers[(answers["scheme"] == scheme) & (answers["judge"] == judge)], judge, level)


def compare(answers: pd.DataFrame, judge: str, level: float = 0.05) -> pd.DataFrame:
    """The `pairs` of the `verdicts` of one scheme and this judge, taken as shares."""
    part = answers.drop_duplicates(["encoder", "stage", "image"])
    _check(part, judge)
    right = part.pivot_table(index="image", columns="encoder", values="right", aggfunc="mean", observed=True)
    if right.isna().any(axis=None):
        raise UserError("pairs: encoders judged on different images, expected the same ones")
    order = right.mean().sort_values(ascending=False, kind="stable").index
    answers_of = {str(row): right[row].to_numpy() for row in order}
    single = {row: bool(np.isin(held, (0, 1)).all()) for row, held in answers_of.items()}
    rows = [
        (one, other, *_pair(answers_of[one], answers_of[other], single[one] and single[other]))
        for one, other in combinations(answers_of, 2)
    ]
    found = pd.DataFrame(rows, columns=["better", "worse", "difference", "only_better", "only_worse", "p"])
    found["holm"] = holm(found["p"])
    return found.assign(resolved=found["holm"] <= level)


def _check(part: pd.DataFrame, judge: str) -> None:
    """Refuse what is not comparable image by image."""
    tables = part[["data", "norm", "eps"]].drop_duplicates()
    if len(tables) > 1 or part.duplicated(["encoder", "image", *seed_columns(part)]).any():
        raise UserError("pairs: more than one data set or threat, expected the records of one table")
    seeds = part.groupby(["encoder", "image"], observed=True).size().groupby("encoder", observed=True).nunique()
    if (seeds > 1).any():
        raise UserError("pairs: seeds judged on different images, expected the same ones")
    attacks = {attack(str(json.loads(text).get(judge, ""))) for text in part["fingerprints"].unique()}
    if len(attacks) > 1:
        told = " and ".join(sorted(of or "an attack without a fingerprint" for of in attacks))
        raise UserError(f"pairs: '{judge}' is not one attack here but {told}, expected one fingerprint")


def _pair(one: Floats, other: Floats, single: bool) -> tuple[float, int, int, float]:
    """The difference of two encoders, how many images each is better on, and p; `single` where answers are 0 or 1."""
    p = mcnemar(one.astype(bool), other.astype(bool)) if single else paired(one, other)
    return float(one.mean() - other.mean()), int((one > other).sum()), int((other > one).sum()), p
