"""The only owner of common corruptions: CIFAR-10-C and CIFAR-100-C as files, and the records of a model on them."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import field_validator

from robustcl.bench import records
from robustcl.bench.evaluate import Model, Trial, judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import value
from robustcl.models.whole import read_sealed, write_sealed
from robustcl.pretraining.images import Images

JUDGE = "corruptions"
LEVELS = 5
Name = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
]  # fmt: skip
ALL: tuple[Name, ...] = get_args(Name)
STANDARD = ALL[:15]
"""Those of Hendrycks and Dietterich (ICLR 2019), which RobustSSL reports; `ALL` has the other four too, as ACL does."""


@value
class Corruptions:
    """Which corruptions and severities of the official files below `path` a model is judged on.

    `<path>/<name>.npy` holds uint8 (5 n, height, width, channels), severities 1 to 5 in blocks of the n test images,
    and `<path>/labels.npy` their labels. `names` is `"standard"` (15), `"all"` (19) or a list.
    """

    path: Path
    names: tuple[Name, ...] = STANDARD
    severities: tuple[int, ...] = tuple(range(1, LEVELS + 1))

    @field_validator("names", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        sets = {"standard": STANDARD, "all": ALL}
        if isinstance(given, str) and given not in sets:
            raise ValueError(f"{given!r} is wrong, expected a list, 'standard' or 'all'")
        return sets.get(given, given) if isinstance(given, str) else given

    @field_validator("names", "severities")
    @classmethod
    def _once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{list(given)} is wrong, expected at least one, each once")
        odd = next((one for one in given if isinstance(one, int) and not 1 <= one <= LEVELS), None)
        if odd is not None:
            raise ValueError(f"{odd} is wrong, expected severities from 1 to {LEVELS}")
        return given

    @property
    def attacks(self) -> list[str]:
        """What the records call them, in order: `fog-1`, `fog-2` and so on."""
        return [f"{name}-{severity}" for name in self.names for severity in self.severities]

    @property
    def files(self) -> dict[str, Path]:
        """The files by what they hold: the corruptions' names, and `labels`."""
        return {name: self.path / f"{name}.npy" for name in ("labels", *self.names)}


def check(files: Mapping[str, Path], images: Images) -> None:
    """Whether files are there, of the right shape, and of the very test images that are judged; `files` by name.

    Cheap: no picture is read. Errors: `UserError` for the first file that is not so.
    """
    labels, where = _array(files["labels"]), files["labels"]
    index, own = images.index.cpu().numpy(), images.labels.cpu().numpy()
    if labels.ndim != 1 or len(labels) % LEVELS or index.max() >= len(labels) // LEVELS:
        raise UserError(f"{where}: shape {labels.shape}, expected {LEVELS} times the test split of {images.name}")
    wrong = (labels.reshape(LEVELS, -1)[:, index] != own).any(0)
    if wrong.any():
        image = int(index[wrong][0])
        raise UserError(f"{where}: another label for image {image} than {images.name}, expected the set's own -C files")
    channels, height, width = images.shape
    shape = (len(labels), height, width, channels)
    for file in (file for name, file in files.items() if name != "labels"):
        stack = _array(file)
        if stack.shape != shape or stack.dtype != np.uint8:
            raise UserError(f"{file}: {stack.dtype} of shape {stack.shape}, expected uint8 of shape {shape}")


def corrupted(
    model: Model,
    images: Images,
    files: Mapping[str, Path],
    severities: Sequence[int],
    *,
    keep: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Records of `model` on the corrupted `images` (schema version 1), ordered by image, corruption and severity.

    One row each, whether or not the clean answer is right: the judge is `corruptions`, the attack `<name>-<severity>`,
    the distance 0 (a corruption is in no ball), the step -1. `files` are those of `Corruptions.files`. `keep` is a
    folder where each corruption and severity is kept as soon as it is judged. Errors: as `check` and `judge`.
    """
    check(files, images)
    parts: list[pd.DataFrame] = []
    stacks = [(name, severity) for name in files if name != "labels" for severity in severities]
    for name, severity in stacks:
        kept = keep / f"{name}-{severity}.parquet" if keep else None
        held = read_sealed(kept) if kept else None
        if held is not None:
            parts.append(pd.read_parquet(io.BytesIO(held)))
        else:
            parts.append(_judged(model, images, name, severity, files[name]))
            _keep(parts[-1], kept)
        report(len(parts) * len(images), len(stacks) * len(images))
    whole: pd.DataFrame = pd.concat(parts, ignore_index=True).sort_values("image", kind="stable", ignore_index=True)
    return whole


def _judged(model: Model, images: Images, name: str, severity: int, file: Path) -> pd.DataFrame:
    stack = _array(file)
    rows = (severity - 1) * (len(stack) // LEVELS) + images.index.cpu().numpy()
    pixels = torch.from_numpy(stack[rows]).permute(0, 3, 1, 2).contiguous().to(images.pixels.device)
    attack = f"{name}-{severity}"
    shown = Images(pixels, images.labels, classes=images.classes, index=images.index, name=f"{images.name} {attack}")
    # A clean judgement of other images: no attack follows, so that the threat plays no part.
    return judge(model, shown, Trial(threat=Threat(0), judges={})).assign(judge=JUDGE, attack=attack)


def _keep(found: pd.DataFrame, path: Path | None) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        records.write(buffer, found)
        write_sealed(path, buffer.getvalue())


def _array(file: Path) -> NDArray[Any]:
    """An array that stays on disk until its rows are asked for. No pickle is ever read."""
    if not file.is_file():
        raise UserError(
            f"{file}: no such file, expected labels.npy and <corruption>.npy of CIFAR-10-C or CIFAR-100-C in "
            f"{file.parent}; 'robustcl fetch cifar10-c <folder>' (cifar100-c) downloads them"
        )
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # a damaged header can raise anything, numpy reads it as Python's tokens
        raise UserError(f"{file}: not a readable .npy ({str(error)[:100]})") from None
