"""The only owner of sweeps over radii: what is broken in a small ball is broken in every larger one."""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction

import pandas as pd

from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Model
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images


def sweep(
    model: Model, images: Images, trial: Trial, radii: Iterable[str | int | Fraction]
) -> dict[Fraction, pd.DataFrame]:
    """Records per radius, ascending, in the norm of the trial's threat, whose own radius counts only if it is named.

    What a judge broke at a radius it has broken at every larger one: the ball only grows. Its row is taken over with
    passes 0, so a robust accuracy never rises with the radius, and the sweep costs less than its parts. The price is
    that a larger radius is attacked only where it matters. With `keep`, each radius keeps a folder of its own.
    Errors: `UserError` for no radius, and for `save`, whose images one radius would share with another.
    """
    threats = sorted({Threat(eps, norm=trial.threat.norm) for eps in radii}, key=lambda threat: threat.eps)
    if not threats:
        raise UserError("sweep: no radius, expected at least one such as '8/255'")
    found: dict[Fraction, pd.DataFrame] = {}
    known = trial.known
    for threat in threats:
        keep = trial.keep / str(threat.eps).replace("/", "_") if trial.keep else None
        known = judge(model, images, dataclasses.replace(trial, threat=threat, known=known, keep=keep))
        found[threat.eps] = known
    return found
