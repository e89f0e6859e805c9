"""The only owner of views: recipes of augmentations with parameters per image, by name, and their application.

A recipe draws one table, a row per image, before its first operation. On the CPU an image's parameters thus depend on
the generator and on its place in the batch alone, not on how many images follow it.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor

from robustcl.models.errors import UserError, unknown
from robustcl.models.seeding import BatchDraws, Draws
from robustcl.models.value import value
from robustcl.pretraining.operations import ColorJitter, Flip, Grayscale, Operation, PadCrop, RandomResizedCrop


@value
class Recipe:
    """Operations in order; none at all leaves the images as they are."""

    ops: tuple[Operation, ...] = ()


@functools.cache
def _recipes() -> dict[str, Recipe]:
    jitter, gray, flip = ColorJitter(), Grayscale(), Flip()
    bicubic = RandomResizedCrop(scale=(0.1, 1), interpolation="bicubic")
    digit = ColorJitter(saturation=0, hue=0)
    return {
        "none": Recipe(),
        "weak": Recipe(ops=(PadCrop(padding=4), flip)),
        "advcl": Recipe(ops=(RandomResizedCrop(scale=(0.2, 1)), flip, jitter, gray)),
        "acl": Recipe(ops=(bicubic, flip, jitter, gray)),
        "dynacl": Recipe(ops=(RandomResizedCrop(scale=(0.1, 1)), flip, jitter, gray)),
        # Of the teacher of DeACL (solo-learn), without its blur.
        "teacher": Recipe(
            ops=(
                RandomResizedCrop(scale=(0.08, 1), interpolation="bicubic"),
                ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
                gray,
                flip,
            )
        ),
        "rocl": Recipe(ops=(jitter, gray, flip, RandomResizedCrop(scale=(0.08, 1)))),
        # Handwritten digits of 8x8 pixels: no flip, which makes other signs of them, and no small windows.
        "digits": Recipe(ops=(RandomResizedCrop(scale=(0.5, 1)), digit)),
        "digits-weak": Recipe(ops=(PadCrop(padding=1),)),
        # For any small images: colours where there are any, and no flip, which makes other signs of digits.
        "mini": Recipe(ops=(RandomResizedCrop(scale=(0.3, 1)), jitter, gray)),
        "mini-weak": Recipe(ops=(PadCrop(padding=2),)),
    }


def names() -> list[str]:
    """The names of the recipes."""
    return sorted(_recipes())


def recipe(name: str) -> Recipe:
    """The recipe of this name. Errors: `UserError` with the nearest name where there is none."""
    if name not in _recipes():
        raise unknown("views", "recipe", name, _recipes())
    return _recipes()[name]


def _read(given: Any) -> Any:
    try:
        return recipe(given) if isinstance(given, str) else given
    except UserError as error:  # the reader of the file says where
        raise ValueError(str(error).removeprefix("views: ")) from None


RecipeField = Annotated[Recipe, BeforeValidator(_read)]
"""The type of a method's field: a text reads as the recipe of that name. It is written with all of its parameters."""


def weakened(recipe: Recipe, strength: float) -> Recipe:
    """The recipe at a strength from 0 to 1, as DynACL (Luo et al., ICLR 2023) anneals it; 1 is the recipe itself.

    Windows keep at least 1 - strength (1 - low) of the area; jitter and grayscale scale in size and in probability.
    The flip stays at its probability at every strength. Errors: `UserError` for a strength outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"views: strength {strength}, expected a number from 0 to 1")
    return Recipe(ops=tuple(_weaker(op, strength) for op in recipe.ops))


def _weaker(op: Operation, s: float) -> Operation:
    if isinstance(op, RandomResizedCrop):
        low, high = op.scale
        return replace(op, scale=((1 - s) * high + s * low, high))
    if isinstance(op, ColorJitter):
        sizes = {name: s * getattr(op, name) for name in ("brightness", "contrast", "saturation", "hue", "p")}
        return replace(op, **sizes)
    return replace(op, p=s * op.p) if isinstance(op, Grayscale) else op


def apply(recipe: Recipe, images: Tensor, generator: torch.Generator | Draws, compiled: bool = False) -> Tensor:
    """One view per image: (n, c, h, w) float in [0, 1] to the same shape and range, on the device of the images.

    The generator moves by the same amount whatever happens to each image. It may lie on another device: drawn on the
    CPU, parameters are the same everywhere. Draws stand for it where the images are a part of a batch. `compiled` fuses
    the operations (`torch.compile`: up to a minute at the first call; results within 1e-5).
    Errors: `UserError` for images that are not (n, c, h, w) floats.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(f"views: {images.dtype} of shape {tuple(images.shape)}, expected floats (n, c, h, w)")
    source = BatchDraws(generator) if isinstance(generator, torch.Generator) else generator
    table = source.uniform(len(images), sum(op.draws for op in recipe.ops)).to(images)
    with torch.autocast(images.device.type, enabled=False):  # an image in bfloat16 has lost its last bits
        return (_compiled(recipe) if compiled else functools.partial(_chain, recipe))(images, table)


def _chain(recipe: Recipe, images: Tensor, table: Tensor) -> Tensor:
    for op, numbers in zip(recipe.ops, table.split([op.draws for op in recipe.ops], dim=1), strict=True):
        images = op(images, numbers)
    return images


@functools.cache
def _compiled(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(functools.partial(_chain, recipe))
