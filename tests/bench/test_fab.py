"""FAB of our engine: the package's verdicts image by image, draws per image, and searches that round."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustcl.bench.autoattack.attacks import FAB
from robustcl.bench.autoattack.search import Search
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.threat import Norm, Threat
from tests.bench.engines import digits, random, records, same, still, threat

NORMS: list[Norm] = ["linf", "l2", "l1"]
BATCH = 11  # does not divide the images


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("targeted", [True, False])
def test_with_the_packages_draws_not_one_verdict_differs(norm: Norm, targeted: bool, restarts: int) -> None:
    model, images = digits()
    # The second restart is the first one with draws.
    fields: dict[str, Any] = {"targeted": targeted, "steps": 12, "restarts": restarts, "targets": 3, "batch": BATCH}
    released = records(model, images, FAB(engine="reference", **fields), threat(norm))
    replayed = records(model, images, FAB(engine="replay", **fields), threat(norm))
    same(replayed, released)
    assert replayed["passes"].sum() < released["passes"].sum()


@pytest.mark.parametrize(("targeted", "norm"), [(True, "linf"), (False, "linf"), (True, "l2"), (False, "l1")])
@pytest.mark.parametrize(("classes", "steps"), [(2, 10), (3, 10), (1000, 2)])
def test_few_and_many_classes(classes: int, steps: int, targeted: bool, norm: Norm) -> None:
    model, images = random(classes, n=24 if classes < 1000 else 10)
    ball = Threat(CLASSES[classes, norm], norm=norm)
    fields: dict[str, Any] = {"targeted": targeted, "steps": steps, "restarts": 2, "batch": 7}
    released, replayed = (
        records(model, images, FAB(engine=engine, **fields), ball) for engine in ("reference", "replay")
    )
    same(replayed, released)


CLASSES = {
    (2, "linf"): "1/20",
    (3, "linf"): "1/30",
    (1000, "linf"): "1/100",
    (2, "l2"): "1/5",
    (3, "l2"): "1/8",
    (1000, "l2"): "1/25",
    (2, "l1"): "1/2",
    (3, "l1"): "1/3",
    (1000, "l1"): "1/10",
}
