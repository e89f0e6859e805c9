"""FAB of our engine: the package's verdicts image by image, draws per image, and searches that round."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench.autoattack.attacks import FAB
from robustcl.bench.autoattack.search import Search
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.threat import Norm, Threat
from robustcl.pretraining.images import Images
from tests.bench.engines import digits, random, records, same, still, threat

NORMS: list[Norm] = ["linf", "l2", "l1"]
BATCH = 11  # does not divide the images


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("targeted", [True, False])
def test_with_the_packages_draws_not_one_verdict_differs(norm: Norm, targeted: bool, restarts: int) -> None:
    model, images = digits()
    # The second restart is the first one with draws.
    fields: dict[str, Any] = {"targeted": targeted, "steps": 10, "restarts": restarts, "targets": 2, "batch": BATCH}
    released = records(model, images, FAB(engine="reference", **fields), threat(norm))
    replayed = records(model, images, FAB(engine="replay", **fields), threat(norm))
    same(replayed, released)
    assert replayed["passes"].sum() < released["passes"].sum()


RADII: dict[int, tuple[str, str, str]] = {
    2: ("1/20", "1/8", "1/3"),
    3: ("1/50", "1/8", "1/3"),
    1000: ("1/200", "1/50", "1/25"),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("classes", list(RADII))
def test_few_and_many_classes(classes: int, targeted: bool, norm: Norm) -> None:
    model, images = random(classes, n=8 if classes == 1000 else 24)
    fields: dict[str, Any] = {"targeted": targeted, "restarts": 2, "batch": 7, "targets": 2}
    fields["steps"] = 1 if classes == 1000 else 8
    ball = threat(norm, RADII[classes][NORMS.index(norm)])
    released, replayed = (
        records(model, images, FAB(engine=engine, **fields), ball) for engine in ("reference", "replay")
    )
    same(replayed, released)


@pytest.mark.parametrize("norm", NORMS)
def test_draws_are_the_images_own(norm: Norm) -> None:
    model, images = digits(n=24)
    attack = FAB(steps=4, restarts=3, targets=2, engine="fast")
    whole = records(model, images, attack, threat(norm))
    parts = records(model, images, attack, threat(norm), batch=7)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = records(model, images.take(order), attack, threat(norm)).sort_index()
    for other in (parts, mixed):
        assert whole[["answer", "right", "step", "passes"]].equals(other[["answer", "right", "step", "passes"]])
        assert whole["margin"].to_numpy() == pytest.approx(other["margin"].to_numpy(), abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [True, False])
def test_it_goes_where_the_released_code_goes(norm: Norm, targeted: bool) -> None:
    """The points themselves, from clean images and from drawn ones, in a ball in which nothing breaks."""
    model, images = digits(n=20)
    ball = threat(norm, {"linf": "1/100", "l2": "1/100", "l1": "1/20"}[norm])
    paths: dict[str, Tensor] = {}
    for engine in ("reference", "replay"):
        seen: list[Tensor] = []

        def watched(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x.detach().clone())
            answer: Tensor = model(x)
            return answer

        attack = FAB(engine=engine, steps=4, restarts=3, targets=2, targeted=targeted, batch=20)
        found = judge(watched, images, Trial(threat=ball, judges={"it": [attack]}))
        right = images.floats(slice(None))[found[found["judge"] == "clean"]["right"].tolist()]
        assert found[found["judge"] == "it"]["right"].all()
        points = torch.stack([x for x in seen if len(x) == len(right) and not torch.equal(x, right)])
        # Two points a step; a run without draws begins at the images; the package looks again at what a run found.
        after = int(engine == "reference")
        runs = points.split([7 + after, 8 + after, 8 + after] * (2 if targeted else 1))
        paths[engine] = torch.cat([run[: len(run) - after] for run in runs])
    torch.testing.assert_close(paths["replay"], paths["reference"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_break_is_one_of_the_model_itself_whatever_the_search_rounds(
    norm: Norm, precision: Any, tmp_path: Path
) -> None:
    model, images = digits()
    attack = FAB(steps=15, targets=2, precision=precision, engine="fast")
    file = tmp_path / "points.npz"
    found = judge(model, images, Trial(threat=threat(norm), judges={"it": [attack]}, save=file))
    right = found.groupby("image")["right"].last().to_numpy()
    saved = np.load(file)
    points = torch.from_numpy(saved["adversarial"])
    assert still(model, points, images.labels).tolist() == right.tolist() == (~saved["broken"]).tolist()
    assert threat(norm).distance(points, images.floats(slice(None))).max() <= float(threat(norm).eps) * (1 + 1e-5)
    assert (float(points.min()), float(points.max())) == (0, 1)
    exact = records(model, images, dataclasses.replace(attack, precision="float32"), threat(norm))
    assert abs(int(right.sum()) - int(exact["right"].sum())) <= 2
    assert 0 < right.sum() < len(images)


@pytest.mark.parametrize("targeted", [True, False])
def test_looking_seldom_changes_no_verdict(targeted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = digits()
    attack = FAB(steps=13, targets=2, targeted=targeted, engine="fast")
    often = records(model, images, attack, threat("linf"))
    before = Search.__init__

    def seldom(self: Search, *given: Any) -> None:
        before(self, *given)
        self.every = 10

    monkeypatch.setattr(Search, "__init__", seldom)
    rarely = records(model, images, attack, threat("linf"))
    assert often["right"].tolist() == rarely["right"].tolist()
    assert often["passes"].sum() < rarely["passes"].sum()


@pytest.mark.parametrize(("targeted", "step", "around"), [(True, 3, 2), (False, 11, 1)])
def test_passes_are_those_that_are_made(targeted: bool, step: int, around: int) -> None:
    model, images = digits()
    attack = FAB(steps=9, targets=2, targeted=targeted, engine="fast")
    found = records(model, images, attack, threat("linf"))
    right, broken = found[found["right"]], found[~found["right"]]
    runs = 2 if targeted else 1
    assert right["passes"].unique().tolist() == [step * runs * 9 + around]
    assert right["passes"].max() <= attack.cost(10)
    ran = (broken["passes"] - around - step * broken["step"]).to_numpy()
    assert set(ran) <= {0, 9 * step}, "whole runs before, and what it took in the last one"
    assert (broken["step"] == 1).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["view", "reshape", "drawn"])
def test_images_in_any_order_in_memory(channels: int, layout: str) -> None:
    model = Layers(channels, layout).eval()
    pixels = torch.rand(20, channels, 6, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    images = Images(pixels, labels, classes=4, name="random")
    attack = FAB(steps=4, restarts=2, targets=1, engine="reference", batch=9)
    released = records(model, images, attack, threat("linf", "1/50"))
    same(records(model, images, dataclasses.replace(attack, engine="replay"), threat("linf", "1/50")), released)


class Layers(nn.Module):
    """Convolutions whose answer is flattened by one call or another; `drawn` cannot be copied."""

    def __init__(self, channels: int, layout: str) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.conv, self.head = nn.Conv2d(channels, 6, 3), nn.Linear(96, 4)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3, generator=g)
        self.layout = layout
        if layout == "drawn":
            self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x.view(len(x), *x.shape[1:]) - 0.5).relu()
        answer: Tensor = self.head(h.view(len(h), -1) if self.layout == "view" else h.flatten(1))
        return answer


def test_no_radius_and_no_gradient() -> None:
    model, images = digits(n=8)
    found = records(model, images, FAB(steps=3, engine="fast"), Threat(0))
    assert found["right"].all()
    assert found["distance"].max() == 0
    for targeted in (True, False):
        attack = FAB(steps=3, restarts=2, targeted=targeted, engine="fast")
        assert records(Cut(model), images, attack, threat("l1"))["right"].all()


class Cut(nn.Module):
    """A model whose answers know nothing of the images' gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.model(x.detach())
        return answer
