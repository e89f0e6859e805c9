"""The only owner of adversarial images on disk: writing what a judge kept, and judging such a file again."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustcl.bench.judge import Attack, Judge
from robustcl.models.arrays import read_arrays
from robustcl.models.errors import UserError
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import value
from robustcl.models.whole import writable, writing
from robustcl.pretraining.images import Images

_ARRAYS = ("adversarial", "index", "label", "judge", "broken", "original", "threat")


def save(path: Path, images: Images, threat: Threat, kept: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write, per judge and image, the point at which the image was judged worst: an `.npz` without pickle.

    `kept` is judge -> (points (n, ...), broken (n,)). Arrays, one row per judge and image: `adversarial` float32 in
    [0, 1] (of an image that is wrong clean, the image itself), `index` in the official split, `label`, `judge`,
    `broken`, and `original`, a hash of the unperturbed image; `threat` is one text such as `linf 8/255`.
    """
    times = len(kept)
    arrays: dict[str, Any] = {
        "adversarial": np.concatenate([points.cpu().numpy() for points, _ in kept.values()]),
        "index": np.tile(images.index.cpu().numpy(), times),
        "label": np.tile(images.labels.cpu().numpy(), times),
        "judge": np.repeat(np.array(list(kept)), len(images)),
        "broken": np.concatenate([broken.cpu().numpy() for _, broken in kept.values()]),
        "original": np.tile(_hashes(images.floats(slice(None))), times),
        "threat": np.array(f"{threat.norm} {threat.eps}"),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with writable(path, "file"), writing(path) as part:
        part.write_bytes(buffer.getvalue())


@value
class Saved(Attack):
    """The points of a file that `save` wrote, judged again; `only` takes those of one of its judges.

    Under another threat than the file's they are projected like every proposal: in a smaller ball they are weaker than
    an attack that aims at it. Errors: `UserError` for a file that is damaged, or of other images or labels.
    """

    keyed: ClassVar[bool] = True  # it draws nothing
    version: ClassVar[int] = 1

    path: Path
    only: str | None = None

    @property
    def name(self) -> str:
        return f"saved-{self.path.stem}" + (f"-{self.only}" if self.only else "")

    @property
    def content(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the file: its identity, wherever it lies."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        except OSError:
            raise UserError(f"{self.path}: no such file, expected adversarial images that were saved") from None

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return len(self._judges(_load(self.path)))

    def run(self, judge: Judge) -> None:
        file = _load(self.path)
        sets = [self._points(judge, file, name) for name in self._judges(file)]
        for rows in judge.batches():
            left = rows
            for points in sets:
                if len(left):
                    before, asked = judge.model.passes, left
                    left = left[~judge.confirm(points[left.cpu()].to(judge.x.device), left, 1)]
                    judge.charge(judge.model.passes - before, asked)
            judge.finish(rows)

    def _judges(self, file: Mapping[str, Any]) -> list[str]:
        names = list(dict.fromkeys(file["judge"].tolist()))
        if self.only is not None and self.only not in names:
            raise UserError(f"{self.path}: no judge '{self.only}', expected one of {', '.join(names)}")
        return [self.only] if self.only else names

    def _points(self, judge: Judge, file: Mapping[str, Any], name: str) -> Tensor:
        """(n, ...) the points of one judge of the file for the images that are judged, in their order."""
        rows = np.flatnonzero(file["judge"] == name)
        place = {int(image): int(row) for image, row in zip(file["index"][rows], rows, strict=True)}
        lost = [image for image in judge.images if image not in place]
        if lost:
            raise UserError(f"{self.path}: nothing of image {lost[0]}, expected every image that is judged")
        order = np.array([place[image] for image in judge.images], dtype=np.intp)
        if file["adversarial"].shape[1:] != tuple(judge.x.shape[1:]):
            shape = tuple(judge.x.shape[1:])
            raise UserError(f"{self.path}: images of shape {file['adversarial'].shape[1:]}, expected {shape}")
        wrong = file["original"][order] != _hashes(judge.x)
        if wrong.any():
            image = judge.images[int(np.flatnonzero(wrong)[0])]
            raise UserError(f"{self.path}: made from another image {image}, expected the images that are judged")
        if (file["label"][order] != judge.y.cpu().numpy()).any():
            raise UserError(f"{self.path}: made for other labels, expected those of the images that are judged")
        return torch.from_numpy(file["adversarial"][order])


def _load(path: Path) -> dict[str, Any]:
    try:
        held = read_arrays(path)
        found = {name: held[name] for name in _ARRAYS}
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged or not adversarial images that were saved ({error})") from None
    rows = {found[name].shape[:1] for name in _ARRAYS[:-1]}
    flat = all(found[name].ndim == 1 for name in _ARRAYS[1:-1])
    if found["adversarial"].dtype != np.float32 or found["judge"].dtype.kind != "U" or len(rows) != 1 or not flat:
        raise UserError(f"{path}: damaged, expected float32 images and one row of each array per image")
    return found


def _hashes(images: Tensor) -> Any:
    """(n,) uint64, one hash of each image (n, ...) float32."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.cpu().numpy()]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
