"""The only owner of what a records file says of itself: threat, fingerprints, protocol and reliability."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from robustcl.bench.estimate import designs
from robustcl.bench.evaluate import Trial
from robustcl.bench.findings import Finding
from robustcl.bench.fingerprint import fingerprints
from robustcl.bench.judge import Model
from robustcl.bench.reliability import check
from robustcl.bench.store import Stage
from robustcl.models.value import plain
from robustcl.pretraining.images import Images


def about(
    stage: Stage, model: Model, images: Images, trial: Trial, records: pd.DataFrame, doubts: Sequence[Finding] = ()
) -> dict[str, Any]:
    """What is written beside the `records` that the stage's trial made of the model on the images, checks included.

    `doubts` are what was found before it was judged.
    """
    found = check(model, images, trial, records)
    drawn = designs(records, trial.judges, images.classes, trial.threat.norm, trial.seed)
    return {
        "threat": plain(trial.threat),
        "fingerprints": fingerprints(trial.judges, trial.threat, trial.seed, images.classes),
        "protocol": history(stage),
        "reliability": plain(found.beside(doubts)),
        **({"designs": {name: plain(design) for name, design in drawn.items()}} if drawn else {}),
    }


def history(stage: Stage) -> dict[str, Any]:
    """Everything in the key of a stage, and in those of the stages that it builds on."""
    parents = {role: history(parent) for role, parent in stage.parents.items()}
    return {"kind": stage.kind, "part": stage.part, "parents": parents}
