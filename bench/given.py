"""The only owner of classifiers that are given: a factory, a model of the zoo or a file of ours, checked before use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcl.bench.evaluate import Model, count_classes
from robustcl.bench.foreign import blame, load
from robustcl.bench.judge import global_draws
from robustcl.bench.zoo import PREFIX, load_zoo
from robustcl.models.checkpoint import fingerprint, load_classifier, read
from robustcl.models.errors import UserError
from robustcl.models.value import digest
from robustcl.pretraining.images import Images

_PROBE = 64  # images of the trial pass, at most


@dataclass(frozen=True, kw_only=True)
class Given:
    """A classifier from outside: images in [0, 1] -> logits, in eval mode, on the device of the images it is tried on.

    `weights` tells it from any other: the fingerprint of its tensors and layers or, of a bare callable, its logits on
    the first images.
    """

    name: str
    architecture: str
    weights: str
    model: Model


def give(target: str, images: Images, *, norm: str = "linf", models: Path | str | None = None) -> Given:
    """The classifier that a text names, tried on the first of `images`.

    `target` is `path/to/file.py:factory` or `package.module:factory` (runs that code, see `foreign`),
    `robustbench:<name>` (see `zoo`), or a `classifier.safetensors` that robustcl wrote.

    Errors: `UserError` where there is no such thing, it cannot take these images, or does not answer with one logit per
    class.
    """
    model: Model
    if target.startswith(PREFIX):
        model = load_zoo(target, None if models is None else Path(models), classes=images.classes, norm=norm)
        name = target.rpartition("/")[2].removeprefix(PREFIX)
    elif target.endswith(".safetensors"):
        model, name = _ours(target), Path(target).stem
    else:
        model, (place, _, made) = load(target), target.rpartition(":")
        stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
        name = made if stem in ("", "__init__") else f"{stem}:{made}"
    if isinstance(model, nn.Module):
        model = _placed(model, images, target)
    check(model, images, target)
    return Given(name=name, architecture=_architecture(model), weights=_identity(model, images), model=model)


def check(model: Model, images: Images, where: str) -> None:
    """Try the model on one image: its answer must be one logit per class.

    Errors: `UserError` that says what it was given, what it answered, and where its code failed.
    """
    half = [p.dtype for p in getattr(model, "parameters", list)() if p.is_floating_point() and p.dtype != torch.float32]
    if half:
        raise UserError(f"{where}: parameters of type {half[0]}, expected float32, in which the verdict is given")
    try:
        classes = count_classes(model, images.pixels[:1])
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('model: ')}") from None
    except Exception as error:
        raise UserError(f"{where}: fails on an image of shape {images.shape}: {blame(error, [Path.cwd()])}") from None
    if classes != images.classes:
        raise UserError(f"{where}: answers with {classes} logits, expected {images.classes}, the classes of the data")


def _placed(model: nn.Module, images: Images, where: str) -> nn.Module:
    """The model on the device of the images, in eval mode."""
    device = images.pixels.device
    try:
        return model.to(device).eval()
    except Exception as error:
        raise UserError(f"{where}: cannot be moved to {device}: {blame(error, [Path.cwd()])}") from None


def _ours(target: str) -> nn.Module:
    if read(target).kind == "encoder":
        raise UserError(f"{target}: holds an encoder, expected --scheme with it, such as --scheme SLF, to finetune it")
    return load_classifier(target)


def _identity(model: Model, images: Images) -> str:
    if isinstance(model, nn.Module) and model.state_dict():
        return digest([fingerprint(model), repr(model)])
    with torch.no_grad(), global_draws(images.pixels.device, 0, "identity"):
        answers: Tensor = model(images.floats(slice(0, _PROBE)))
    return digest([[f"{logit:.3g}" for logit in row] for row in answers.tolist()])


def _architecture(model: Callable[..., object]) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", type(model).__name__)
