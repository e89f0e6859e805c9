"""Tests of the encoder: shapes, the normalisation inside, its description, and where its weights come from."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder, from_description
from robustcl.models.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_features_have_the_width_of_the_architecture() -> None:
    encoder = Encoder(Tiny(width=4), (3, 8, 8))
    assert encoder.width == 8
    assert encoder(images(5, 3, 8, 8)).shape == (5, 8)


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 8, 9), (3, 8, 8), (5, 3, 8, 8, 1)])
def test_another_shape_is_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as caught:
        Encoder(Tiny(width=4), (3, 8, 8))(images(*shape))
    assert str(caught.value) == f"encoder: images of shape {shape}, expected (n, 3, 8, 8)"


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), STD), (MEAN, (0.2,)), (MEAN, (0.2, 0.0, 0.3)), (MEAN, (0.2, -1.0, 0.3))]
)
def test_a_wrong_normalisation_is_one_line(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="expected 3 numbers each and std above 0") as caught:
        Encoder(Tiny(width=4), (3, 8, 8), mean=mean, std=std)
    assert "\n" not in str(caught.value)


def test_the_normalisation_is_inside() -> None:
    inside = Encoder(Tiny(width=4), (3, 8, 8), mean=MEAN, std=STD, seed=2).eval()
    raw = Encoder(Tiny(width=4), (3, 8, 8), seed=2).eval()
    x = images(4, 3, 8, 8)
    wanted = raw((x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
    assert torch.equal(inside(x), wanted)
    assert not torch.allclose(inside(x), raw(x))
    assert inside.state_dict().keys() == raw.state_dict().keys()  # constants of the description, not weights


def test_a_description_rebuilds_the_encoder() -> None:
    encoder = Encoder(Tiny(width=4, blocks=(1, 2)), (3, 8, 8), routes=("normal", "pgd"), mean=MEAN, std=STD, seed=3)
    again = from_description(json.loads(json.dumps(encoder.description())), "file")
    assert again.description() == encoder.description()
    assert again.routes == ("normal", "pgd")
    again.load_state_dict(encoder.state_dict())
    x = images(4, 3, 8, 8)
    assert torch.equal(again.eval()(x, "pgd"), encoder.eval()(x, "pgd"))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None},
        {"shape": 8},
        {"architecture": {"name": "tini"}},
        {"architecture": {"name": "tiny", "widht": 3}},
        {"shape": [1, 2]},
        {"mean": ["x"]},
        {"routes": []},
    ],
    ids=str,
)
def test_a_wrong_description_is_one_line(change: dict[str, Any]) -> None:
    description = Encoder(Tiny(width=4), (1, 8, 8)).description() | change
    if change == {"shape": None}:
        del description["shape"]
    with pytest.raises(UserError, match=r"^file") as caught:
        from_description(description, "file")
    assert "\n" not in str(caught.value)


def test_equal_seeds_give_equal_weights() -> None:
    first, again, other = (Encoder(Tiny(width=4), (1, 8, 8), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Encoder(Tiny(width=4), (1, 8, 8), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_depend_on_the_global_generator() -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Encoder(Tiny(width=4), (1, 8, 8)).state_dict()["body.stem.0.weight"])
    assert torch.equal(*found)
