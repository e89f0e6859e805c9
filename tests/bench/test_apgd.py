"""Auto-PGD of our engine: the package's verdicts image by image, draws per image, and searches that round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection

from robustcl.bench.autoattack.apgd import dlr, dlr_targeted
from robustcl.bench.autoattack.attacks import APGD
from robustcl.bench.autoattack.ball import l1_change
from robustcl.bench.autoattack.search import Search
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Norm, Threat
from tests.bench.engines import digits, random, records, same, threat

BATCH = 11  # does not divide the images


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "ce", "steps": 50, "restarts": 1},
        {"loss": "dlr", "steps": 40, "restarts": 2},
        {"loss": "targeted", "steps": 40, "targets": 3, "restarts": 2},
    ],
    ids=lambda fields: fields["loss"],
)
def test_with_the_packages_draws_not_one_verdict_differs(norm: Norm, fields: dict[str, Any]) -> None:
    model, images = digits()
    released = records(model, images, APGD(engine="reference", batch=BATCH, **fields), threat(norm))
    replayed = records(model, images, APGD(engine="replay", batch=BATCH, **fields), threat(norm))
    same(replayed, released)
    assert replayed["passes"].sum() < released["passes"].sum()


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_l1_without_the_larger_balls(loss: Any) -> None:
    model, images = digits()
    fields = {"loss": loss, "steps": 50, "restarts": 1, "shrinking": False, "batch": BATCH}
    released, replayed = (
        records(model, images, APGD(engine=engine, **fields), threat("l1")) for engine in ("reference", "replay")
    )
    same(replayed, released)


@pytest.mark.parametrize(
    ("classes", "loss", "eps"),
    [(2, "ce", "1/20"), (3, "dlr", "1/40"), (4, "targeted", "1/40"), (1000, "targeted", "1/100")],
)
def test_few_and_many_classes(classes: int, loss: Any, eps: str) -> None:
    model, images = random(classes)
    fields = {"loss": loss, "steps": 10, "batch": 7}
    released, replayed = (
        records(model, images, APGD(engine=engine, **fields), threat("linf", eps)) for engine in ("reference", "replay")
    )
    same(replayed, released)


def test_gradients_over_several_samples() -> None:
    model, images = digits(n=16)
    fields: dict[str, Any] = {"steps": 10, "samples": 3, "batch": 5}
    released, replayed = (
        records(model, images, APGD(engine=engine, **fields), threat("linf")) for engine in ("reference", "replay")
    )
    same(replayed, released)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_draws_are_the_images_own(norm: Norm) -> None:
    model, images = digits(n=24)
    attack = APGD(steps=12, restarts=2, engine="fast")
    whole = records(model, images, attack, threat(norm))
    parts = records(model, images, attack, threat(norm), batch=7)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = records(model, images.take(order), attack, threat(norm)).sort_index()
    for other in (parts, mixed):
        assert whole[["answer", "right", "step", "passes"]].equals(other[["answer", "right", "step", "passes"]])
        assert whole["margin"].to_numpy() == pytest.approx(other["margin"].to_numpy(), abs=1e-4)
    again = records(model, images, attack, threat(norm), seed=1)
    assert whole["margin"].tolist() != again["margin"].tolist()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_break_is_one_of_the_model_itself_whatever_the_search_rounds(norm: Norm, tmp_path: Path) -> None:
    model, images = digits()
    attack = APGD(steps=30, precision="bfloat16", engine="fast")
    file = tmp_path / "points.npz"
    found = judge(model, images, Trial(threat=threat(norm), judges={"it": [attack]}, save=file))
    right = found.groupby("image")["right"].last()
    exact = records(model, images, APGD(steps=30, engine="fast"), threat(norm))
    assert abs(int(right.sum()) - int(exact["right"].sum())) <= 3
    assert 0 < right.sum() < len(images)


def test_looking_seldom_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = digits()
    attack = APGD(steps=35, loss="targeted", targets=3, engine="fast")
    often = records(model, images, attack, threat("linf"))
    before = Search.__init__

    def seldom(self: Search, *given: Any) -> None:
        before(self, *given)
        self.every = 10

    monkeypatch.setattr(Search, "__init__", seldom)
    rarely = records(model, images, attack, threat("linf"))
    assert often["right"].tolist() == rarely["right"].tolist()
    assert often["passes"].sum() < rarely["passes"].sum()


def test_passes_are_those_that_are_made() -> None:
    model, images = digits()
    found = records(model, images, APGD(steps=20, engine="fast"), threat("linf"))
    broken = found[~found["right"]]
    assert found[found["right"]]["passes"].unique().tolist() == [2 * 21 + 1]
    # Two a step, from the start on, and a verdict for every point that the search got wrong.
    assert (broken["passes"] == 2 * (broken["step"] + 1) + 1).mean() > 0.9
    assert (broken["passes"] >= 2 * (broken["step"] + 1) + 1).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shrinking", [False, True])
def test_all_may_break_at_any_step(norm: Norm, shrinking: bool) -> None:
    model, images = random(10)
    seen = set()
    for number in range(len(images)):  # alone, so that with it nobody is left
        alone = images.take(torch.tensor([number]))
        for wide in (1, 4, 40):
            eps = str(wide * threat(norm).eps / 4)
            attack = APGD(steps=10, restarts=1, shrinking=shrinking)
            seen |= set(records(model, alone, attack, threat(norm, eps)).query("not right")["step"])
    assert {0, 1} <= seen


def test_no_radius_changes_nothing() -> None:
    model, images = digits(n=8)
    found = records(model, images, APGD(steps=5, engine="fast"), Threat(0))
    assert found["right"].all()
    assert found["distance"].max() == 0


@pytest.mark.parametrize("shrinking", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nobody_may_be_left_at_any_step(norm: Norm, shrinking: bool) -> None:
    """Every single image, so that the last one leaves at every kind of step: at the start, between and at a look."""
    model, images = digits()
    for row in range(0, len(images), 3):
        found = records(model, images.take(slice(row, row + 1)), APGD(steps=12, shrinking=shrinking), threat(norm))
        assert len(found) <= 1


def test_losses_are_the_packages() -> None:
    logits = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
    labels, goals = torch.arange(40) % 7, torch.arange(3, 43) % 7
    engine = APGDAttack(None, eps=0.1)
    torch.testing.assert_close(dlr(logits, labels), engine.dlr_loss(logits, labels))
    other = APGDAttack_targeted(None, eps=0.1)
    other.y_target = goals
    torch.testing.assert_close(dlr_targeted(logits, labels, goals), other.dlr_loss_targeted(logits, labels))


@pytest.mark.parametrize(
    ("pixels", "scale", "radius"), [(64, 1.0, 1.25), (64, 0.01, 1.25), (3072, 0.5, 12), (5, 3.0, 0.3)]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_l1_projection(pixels: int, scale: float, radius: float, sparse: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, pixels, generator=g)
    x[:, ::3] = x[:, ::3].round()  # pixels at the edge of the box
    change = torch.randn(20, pixels, generator=g) * scale
    if sparse:
        change[:, : pixels * 3 // 4] = 0
    found = l1_change(x, change, radius)
    assert (x + found).min() >= 0
    assert (x + found).max() <= 1
    assert (found.abs().sum(1) <= radius * (1 + 5e-6)).all()
    # Optimal: one amount is taken off every pixel that is neither at 0 nor at the box.
    room = torch.where(change > 0, 1 - x, x)
    free = (found != 0) & (found.abs() < room - 1e-6)
    taken = torch.where(free, change.abs() - found.abs(), torch.nan)
    spread = taken.nan_to_num(-1e9).amax(1) - taken.nan_to_num(1e9).amin(1)
    assert (spread[free.any(1)] < 1e-5).all()
    assert torch.allclose(found, change + L1_projection(x, change, radius), atol=3e-5)


def test_engines_that_are_not() -> None:
    with pytest.raises(UserError, match="unknown engine 'quick', expected one of fast, replay, reference"):
        APGD(engine="quick")
    with pytest.raises(UserError, match="batch 8 with the engine 'fast 1', which draws per image"):
        APGD(engine="fast", batch=8)
    with pytest.raises(UserError, match="expected float32 with the engine 'pyautoattack"):
        APGD(engine="reference", precision="bfloat16")
