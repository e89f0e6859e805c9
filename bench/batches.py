"""The only owner of finished batches on disk: a restart loses at most the batch it was in, or says what differs."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcl.bench import locks
from robustcl.bench.judge import Judge
from robustcl.models.errors import UserError
from robustcl.models.whole import read_sealed, write_sealed, writing

Note = Mapping[str, str]
"""What finished batches depend on, part by part, as text for people."""


class Batches:
    """A folder with one small file per finished batch and the note of what they depend on; None keeps nothing.

    Without `make` the folder has to be there. Errors: `UserError` that names every part of the note that differs from
    the one in the folder.
    """

    def __init__(self, folder: Path | None, note: Note, *, make: bool = True) -> None:
        self.folder = folder
        if folder is None:
            return
        path = folder / "protocol.json"
        if path.exists():
            _check(folder, path, note)
        else:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            with writing(path) as part:
                part.write_text(json.dumps(note, indent=1))

    def save(self, judge: Judge, order: int, rows: Tensor) -> None:
        """Keep what `judge` holds of a finished batch of the attack number `order`."""
        if self.folder is None:
            return
        arrays: dict[str, Any] = {name: held[rows].cpu().numpy() for name, held in judge.held.items()}
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows.cpu().numpy(), images=_images(judge, rows), **arrays)
        write_sealed(self.folder / self._name(order, rows), buffer.getvalue())

    @contextmanager
    def claim(self, judge: Judge, order: int, rows: Tensor) -> Iterator[bool]:
        """Hold a batch; whether it is to be attacked here: no other process holds it, or has been through with it.

        Errors: `RuntimeError` for an attack that takes the batch and does not finish it.
        """
        assert self.folder is not None
        path = self.folder / self._name(order, rows)
        with locks.claimed(path.with_suffix(".lock"), wait=False) as ours:
            if ours and path.exists():
                self.restore(judge, order)
            ours = ours and not bool(judge.done[rows].all())
            yield ours
            if ours and not judge.done[rows].all():
                raise RuntimeError(f"{path}: the attack left images of this batch unfinished")

    def restore(self, judge: Judge, order: int) -> None:
        """Give `judge` back every finished batch of the attack number `order`.

        A batch is one of images, and not of places: where a model is right on other images than before (it draws, or
        its device rounds anew), places hold other images, and what is not of these is attacked again.
        """
        if self.folder is None:
            return
        for path in sorted(self.folder.glob(f"{order:03d}-*.npz")):
            content = read_sealed(path)
            if content is None:
                path.unlink(missing_ok=True)  # a batch that is not as it was kept is attacked again
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name]).to(judge.y.device) for name in file.files}
            rows, images = arrays.pop("rows"), arrays.pop("images", None)
            if images is None or rows.max() >= len(judge.y) or not np.array_equal(images.cpu(), _images(judge, rows)):
                path.unlink(missing_ok=True)  # another process may have been quicker
                continue
            for name, held in judge.held.items():
                held[rows] = arrays[name]
            judge.done[rows] = True

    @staticmethod
    def _name(order: int, rows: Tensor) -> str:
        return f"{order:03d}-{int(rows[0]):08d}.npz"


def _images(judge: Judge, rows: Tensor) -> Any:
    return np.array([judge.images[int(row)] for row in rows], dtype=np.int64)


def _check(folder: Path, path: Path, note: Note) -> None:
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise UserError(f"{folder}: its protocol.json is damaged; remove the folder to start anew") from None
    parts = dict.fromkeys([*before, *note])
    pairs = [(part, before.get(part, "not said"), note.get(part, "not said")) for part in parts]
    differ = [f"{part} ({old} then, {new} now)" for part, old, new in pairs if old != new]
    if differ:
        raise UserError(f"{folder}: holds batches of other {', '.join(differ)}; remove it to start anew")
