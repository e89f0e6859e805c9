"""Transfer: made on one model, judged on another."""

import copy
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench.attacks import identity, judges
from robustcl.bench.autoattack.attacks import Square
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.pgd import PGD, fgsm
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from tests.bench.tiny import images_for, network, one_line

THREAT = Threat("1/20")


def records(model: Any, attack: Any, images: Any, **more: Any) -> pd.DataFrame:
    found = judge(model, images, Trial(threat=THREAT, judges={"one": [attack]}, **more))
    return found[found["judge"] == "one"].reset_index(drop=True)


def near(model: nn.Sequential) -> nn.Sequential:
    """A model whose weights are near, as of another seed of the same training."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for number, p in enumerate(other.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return other


def test_from_a_model_to_itself_it_is_the_attack() -> None:
    model = network()
    images = images_for(model, 30, wrong=0)
    for attack in (fgsm(), PGD(steps=6, verdict="last"), Square(queries=50)):
        own, moved = records(model, attack, images), records(model, Transfer(source=model, attack=attack), images)
        assert moved["right"].tolist() == own["right"].tolist()
        assert moved["answer"].tolist() == own["answer"].tolist()
        assert 0 < moved["right"].sum() < 30


def test_from_another_model_it_is_that_models_gradient() -> None:
    model = network()
    source = near(model)
    images = images_for(model, 40, wrong=0)
    found = records(model, Transfer(source=source, attack=fgsm()), images)
    x = images.pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(source(x), images.labels), x)
    moved = (images.pixels + 0.05 * gradient.sign()).clamp(0, 1)
    assert found["answer"].tolist() == model(moved).argmax(1).tolist()
    assert 0 < found["right"].sum() < 40
    assert records(model, fgsm(), images)["right"].sum() < found["right"].sum(), "its own gradient is better"


def test_the_source_stays_as_it_was_and_its_passes_are_counted() -> None:
    model = network()
    source = nn.Sequential(nn.Dropout(0.3), near(model)).train()
    images = images_for(model, 10, wrong=0)
    attack = Transfer(source=source, attack=PGD(steps=4, verdict="last"))
    found = records(model, attack, images)
    assert source.training
    assert all(p.requires_grad and p.grad is None for p in source.parameters())
    assert set(found["passes"]) == {10} == {attack.cost(10)}, "4 steps of 2 and a verdict there, a verdict here"
    pd.testing.assert_frame_equal(found, records(model, attack, images))


def test_batches_do_not_matter() -> None:
    model = network()
    images, attack = images_for(model, 20), Transfer(source=near(model), attack=PGD(steps=4, verdict="last"))
    exact = ["image", "answer", "right", "step", "passes"]
    pd.testing.assert_frame_equal(records(model, attack, images)[exact], records(model, attack, images, batch=3)[exact])


def test_identity_is_the_sources_weights_and_the_attack() -> None:
    model = network()
    asked = [
        Transfer(source=near(model), attack=fgsm()),
        Transfer(source=model, attack=fgsm()),
        Transfer(source=model, attack=PGD(steps=3)),
        Transfer(source="simclr", attack=fgsm()),
    ]
    found = [str(identity(attack)) for attack in asked]
    assert len(set(found)) == 4
    assert str(identity(Transfer(source=copy.deepcopy(model), attack=fgsm()))) == found[1]
    assert [attack.name for attack in asked[1:]] == ["transfer-fgsm", "transfer-pgd-3", "transfer-simclr-fgsm"]
    assert list(judges([asked[0]], 10)) == ["transfer-fgsm"]


def plain(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (plain, "expected a torch module"),
        ("simclr", "transfer: source 'simclr', expected a torch module"),
        (network(classes=7), "the source answers of shape (1, 7), expected (1, 10)"),
        (network().to(torch.float64), "parameters of type torch.float64"),
    ],
)
def test_sources_that_cannot_be_used_are_one_line(source: Any, says: str) -> None:
    model = network()
    with pytest.raises(UserError) as caught:
        records(model, Transfer(source=source), images_for(model))
    assert says in one_line(caught.value)
    if source is plain:
        with pytest.raises(UserError, match="whose weights tell it apart"):
            identity(Transfer(source=source))
