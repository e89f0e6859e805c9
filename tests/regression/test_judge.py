"""The robust-accuracy regression: today's judge on a stored classifier against the stored answers, image by image."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

from robustcl.models.checkpoint import load_classifier
from robustcl.models.threat import Threat
from tests.regression.regenerate import FOLDER, IMAGES, JUDGES, judged, right, stored_threat

TOLERATED = 1  # per judge: another CPU rounds otherwise, and an image at the edge may fall to the other side


def differences(stored: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Why the gate stays shut, one line per reason; empty where it opens."""
    before, now = right(stored), right(found)
    reasons = []
    if list(before["clean"]) != list(now["clean"]):
        return ["the images are not the stored ones"]
    for name in now:
        moved = [image for image, was in before[name].items() if now[name][image] != was]
        if len(moved) > (0 if name == "clean" else TOLERATED):
            shares = f"{sum(before[name].values())} -> {sum(now[name].values())} of {len(now[name])} right"
            words = ", ".join(f"{image} {'lost' if before[name][image] else 'won'}" for image in moved[:10])
            reasons.append(f"{name}: {len(moved)} images differ ({shares}): {words}")
    return reasons


@pytest.fixture(scope="module")
def stored() -> pd.DataFrame:
    return pd.read_parquet(FOLDER / "records.parquet")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_classifier(FOLDER / "classifier.safetensors")


def test_the_stored_files_can_see_a_change(stored: pd.DataFrame) -> None:
    answers = right(stored)
    assert set(answers) == {"clean", *JUDGES}
    assert all(len(held) == IMAGES for held in answers.values())
    assert 0.2 * IMAGES < sum(answers["autoattack"].values()) < 0.8 * IMAGES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000


def test_the_judge_answers_as_stored(model: nn.Module, stored: pd.DataFrame) -> None:
    reasons = differences(stored, judged(model, stored_threat()))
    assert not reasons, "\n".join(reasons)


def test_a_wrong_eps_is_caught(model: nn.Module, stored: pd.DataFrame) -> None:
    threat = stored_threat()
    weaker = Threat(threat.eps * 4 / 5, norm=threat.norm)
    (reason,) = differences(stored, judged(model, weaker, ("pgd-20",)))
    assert reason.startswith("pgd-20: ")
    assert " won" in reason
    assert not differences(stored, judged(model, threat, ("pgd-20",))), "the right eps passes the same comparison"


def test_perturbed_weights_are_caught(model: nn.Module, stored: pd.DataFrame) -> None:
    other = copy.deepcopy(model)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.15 * p.std().nan_to_num(0) * torch.randn(p.shape, generator=g))
    reasons = differences(stored, judged(other, stored_threat(), ("pgd-20",)))
    assert any(reason.startswith("pgd-20: ") for reason in reasons), reasons


def test_other_images_are_caught(stored: pd.DataFrame) -> None:
    shifted = stored.assign(image=stored["image"] + 1)
    assert differences(stored, shifted) == ["the images are not the stored ones"]
