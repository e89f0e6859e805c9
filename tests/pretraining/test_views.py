"""Tests of recipes: reading, determinism, ranges, and what each named recipe is made of."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.value import plain, read, value
from robustcl.pretraining.operations import ColorJitter, Flip, Grayscale, PadCrop, RandomResizedCrop
from robustcl.pretraining.views import Recipe, RecipeField, apply, names, recipe, weakened


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, channels: int = 3, side: int = 8) -> Tensor:
    return torch.rand(n, channels, side, side, generator=generator(99))


@value
class Holder:
    """A value with a recipe, as a method has one."""

    strong: RecipeField = recipe("advcl")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_recipe_keeps_shape_and_range(name: str, channels: int) -> None:
    x = images(200, channels)
    before = x.clone()
    seen = apply(recipe(name), x, generator())
    assert seen.shape == x.shape
    assert seen.dtype == torch.float32
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    assert torch.equal(x, before)
    assert torch.equal(seen, x) == (name == "none")


@pytest.mark.parametrize("name", [name for name in names() if name != "none"])
def test_a_view_is_decided_by_its_generator(name: str) -> None:
    x = images(64)
    first, same, other = (apply(recipe(name), x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", names())
def test_a_view_does_not_depend_on_the_images_that_follow(name: str) -> None:
    x = images(64)
    whole, part = apply(recipe(name), x, generator()), apply(recipe(name), x[:20], generator())
    torch.testing.assert_close(part, whole[:20], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", names())
def test_the_generator_moves_by_as_much_whatever_the_images_are(name: str) -> None:
    states = []
    for x in (images(16), images(16, channels=1, side=9), torch.zeros(16, 3, 8, 8)):
        g = generator()
        apply(recipe(name), x, g)
        states.append(g.get_state())
    assert all(torch.equal(states[0], state) for state in states)


def test_equal_images_of_a_batch_get_views_of_their_own() -> None:
    x = images(1, side=16).expand(50, 3, 16, 16)
    seen = apply(recipe("advcl"), x, generator()).flatten(1)
    assert float(torch.pdist(seen).min()) > 1e-3


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize("name", ["advcl", "acl"])
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of the compiler about itself
def test_compiled_views_are_the_same(name: str) -> None:
    x = images(64, side=32)
    plainly, fused = (apply(recipe(name), x, generator(), compiled=compiled) for compiled in (False, True))
    torch.testing.assert_close(fused, plainly, rtol=0, atol=1e-5)


def test_autocast_does_not_touch_a_view() -> None:
    x = images(8)
    plainly = apply(recipe("acl"), x, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply(recipe("acl"), x, generator()), plainly)


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_what_is_not_a_batch_of_floats_is_refused(x: Tensor) -> None:
    with pytest.raises(UserError, match=r"^views: torch\.\w+ of shape .*, expected floats \(n, c, h, w\)$"):
        apply(recipe("weak"), x, generator())


def test_colour_of_two_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"^views: images of 2 channels, expected 1 or 3"):
        apply(recipe("advcl"), images(2, channels=2), generator())


def test_named_recipes_are_those_of_the_papers() -> None:
    flip, gray = Flip(p=0.5), Grayscale(p=0.2)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8)
    ratio = (3 / 4, 4 / 3)
    crop = RandomResizedCrop(scale=(0.2, 1), ratio=ratio, interpolation="bilinear")
    assert recipe("advcl").ops == (crop, flip, jitter, gray)
    crop = RandomResizedCrop(scale=(0.1, 1), ratio=ratio, interpolation="bicubic")
    assert recipe("acl").ops == (crop, flip, jitter, gray)
    crop = RandomResizedCrop(scale=(0.08, 1), ratio=ratio, interpolation="bilinear")
    assert recipe("rocl").ops == (jitter, gray, flip, crop)
    assert recipe("weak").ops == (PadCrop(padding=4), flip)


def test_half_the_strength_of_dynacl_halves_all_but_the_flip() -> None:
    crop, flip, jitter, gray = weakened(recipe("dynacl"), 0.5).ops
    assert isinstance(crop, RandomResizedCrop)
    assert crop.scale == pytest.approx((0.55, 1.0))
    assert crop.ratio == (3 / 4, 4 / 3)
    assert crop.interpolation == "bilinear"
    assert flip == Flip(p=0.5)
    assert isinstance(jitter, ColorJitter)
    sizes = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, jitter.p]
    assert sizes == pytest.approx([0.2, 0.2, 0.2, 0.05, 0.4])
    assert isinstance(gray, Grayscale)
    assert gray.p == pytest.approx(0.1)


@pytest.mark.parametrize("name", names())
def test_at_full_strength_a_recipe_is_itself(name: str) -> None:
    assert weakened(recipe(name), 1) == recipe(name)


def test_without_strength_the_crop_is_the_whole_image() -> None:
    gone = weakened(recipe("dynacl"), 0)
    assert [op.scale for op in gone.ops if isinstance(op, RandomResizedCrop)] == [(1, 1)]
    assert [op.p for op in gone.ops if isinstance(op, (ColorJitter, Grayscale))] == [0, 0]
    assert weakened(recipe("weak"), 0) == recipe("weak")  # neither padding nor flip has a strength


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_is_a_share(strength: float) -> None:
    with pytest.raises(UserError, match=r"^views: strength .*, expected a number from 0 to 1$"):
        weakened(recipe("acl"), strength)


@pytest.mark.parametrize("name", ["digits", "digits-weak"])
def test_digits_are_not_mirrored(name: str) -> None:
    assert not any(isinstance(op, Flip) for op in recipe(name).ops)
    left = torch.zeros(100, 1, 8, 8)
    left[..., :4] = 1
    seen = apply(recipe(name), left, generator())
    assert (seen[..., :4].sum((1, 2, 3)) > seen[..., 4:].sum((1, 2, 3))).all()


def test_a_text_reads_as_the_named_recipe() -> None:
    assert read(Holder, {"strong": "acl"}, "test") == Holder(strong=recipe("acl"))
    given: Any = "rocl"
    assert Holder(strong=given).strong == recipe("rocl")


@pytest.mark.parametrize("name", names())
def test_a_recipe_reads_back_from_json(name: str) -> None:
    written = json.loads(json.dumps(plain(Holder(strong=recipe(name)))))
    assert read(Holder, written, "test") == Holder(strong=recipe(name))


def test_a_recipe_of_ones_own_reads_from_tables() -> None:
    table = {"strong": {"ops": [{"name": "pad-crop", "padding": 2}, {"name": "flip"}]}}
    assert read(Holder, table, "test").strong == Recipe(ops=(PadCrop(padding=2), Flip()))


@pytest.mark.parametrize(
    ("strong", "said"),
    [
        ("advlc", "suite.strong: unknown recipe 'advlc', expected one of .*; did you mean 'advcl'?"),
        ({"ops": [{"name": "flop"}]}, "suite.strong.ops.0: .*'flop'.*'flip'"),
        ({"ops": [{"name": "flip", "p": 1.5}]}, r"suite.strong.ops.0.flip.p: 1.5 is wrong, expected less than"),
        ({"ops": [{"name": "crop", "scale": [1, 0.1]}]}, "expected the smaller number first"),
        ({"ops": [{"name": "crop", "ratio": [2, 1]}]}, "expected the smaller number first"),
        (7, "suite.strong: 7 is wrong"),
    ],
)
def test_a_wrong_recipe_is_one_line(strong: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read(Holder, {"strong": strong}, "suite")
    assert "\n" not in str(error.value)


def test_an_unknown_name_has_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^views: unknown recipe 'digit', .*; did you mean 'digits'\?$"):
        recipe("digit")


@pytest.mark.parametrize(
    ("op", "changed", "p"),
    [
        (Flip(p=0.3), lambda x, y: (x != y).flatten(1).any(1), 0.3),
        (Grayscale(p=0.2), lambda x, y: (x != y).flatten(1).any(1), 0.2),
        (ColorJitter(p=0.8), lambda x, y: (x != y).flatten(1).any(1), 0.8),
    ],
    ids=["flip", "gray", "jitter"],
)
def test_chances_are_taken_per_image(op: Any, changed: Callable[[Tensor, Tensor], Tensor], p: float) -> None:
    x = images(4000, side=4)
    happened = changed(x, apply(Recipe(ops=(op,)), x, generator())).double()
    assert float(happened.mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 4000) ** 0.5)
    # Neighbours are independent: both happen with p squared.
    both = p * p
    assert float((happened[1:] * happened[:-1]).mean()) == pytest.approx(both, abs=5 * (both / 4000) ** 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", names())
def test_views_are_the_same_on_another_device(name: str) -> None:
    x = images(64, side=32)
    there = apply(recipe(name), x.cuda(), generator())  # parameters are drawn on the CPU for both
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), apply(recipe(name), x, generator()), rtol=0, atol=1e-4)
