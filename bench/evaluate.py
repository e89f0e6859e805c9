"""The only owner of judging: who is still right, what each attack is given, and the records that come of it."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from robustcl.bench.attacks import Attack, Counted, Judge, identity, margins
from robustcl.bench.records import SCHEMA
from robustcl.models.checkpoint import fingerprint
from robustcl.models.errors import NumberError, UserError
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain
from robustcl.pretraining.images import Images

Model = Callable[[Tensor], Tensor]
_COLUMNS = ("answer", "margin", "distance", "step", "passes")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an evaluation is, model and images apart. `batch` is a matter of memory alone (a reference attack carries
    its own in its fingerprint); `keep` is the folder where finished batches are kept for a restart."""

    threat: Threat
    judges: Mapping[str, Sequence[Attack]]
    seed: int = 0
    batch: int = 256
    keep: Path | None = None
    report: Callable[[int, int], None] = lambda done, total: None


def judge(model: Model, images: Images, trial: Trial) -> pd.DataFrame:
    """Records of `model` on `images` (schema version 1), ordered by image and then by attack.

    The model answers in float32 and eval mode; its modes and gradient flags come back as they were. Images and model
    lie on one device. Errors: `UserError` where logits have another shape than (n, classes); `NumberError` for NaN.
    """
    counted = Counted(model)
    with torch.no_grad(), frozen(model):
        logits = _answers(counted, images, trial.batch)
        answer, margin = logits.argmax(1), margins(logits, images.labels)
        kept = _Kept(trial.keep, _protocol(model, images, trial))
        clean = {"answer": answer, "margin": margin, "distance": torch.zeros_like(margin)}
        clean |= {"step": torch.full_like(answer, -1), "passes": torch.ones_like(answer)}
        parts = [_rows(images, torch.arange(len(images)), "clean", "clean", 0, clean)]
        work = _Work(counted, images, trial, kept)
        start = (answer == images.labels).nonzero()[:, 0].cpu()
        order = 1
        for name, attacks in trial.judges.items():
            right = start
            for attack in attacks:
                found = work.attack(name, attack, right, order)
                parts.append(_rows(images, right, name, attack.name, order, found))
                right = right[(found["answer"] == images.labels.cpu()[right])]
                order += 1
    records = pd.concat([part for part in parts if len(part)], ignore_index=True)
    ordered: pd.DataFrame = records.sort_values(["image", "order"], kind="stable", ignore_index=True)[SCHEMA.names]
    return ordered


def count_classes(model: Model, images: Tensor) -> int:
    """How many classes the model answers for. Errors: `UserError` where it does not answer with logits (n, classes)."""
    with torch.no_grad(), frozen(model):
        logits = model(images.float() / 255 if images.dtype == torch.uint8 else images)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: answers of shape {shape}, expected logits of shape (n, classes), at least 2 classes")
    return logits.shape[1]


class _Work:
    """One evaluation under way: what every attack of it shares."""

    def __init__(self, model: Counted, images: Images, trial: Trial, kept: "_Kept") -> None:
        self.model, self.images, self.trial, self.kept = model, images, trial, kept
        self.total = sum(len(attacks) for attacks in trial.judges.values()) * len(images)
        self.done = 0

    def attack(self, name: str, attack: Attack, rows: Tensor, order: int) -> dict[str, Tensor]:
        """What `attack` did to the images in `rows`, column by column."""
        device = self.images.pixels.device
        here = rows.to(device)
        court = Judge(
            self.model,
            self.images.floats(here),
            self.images.labels[here],
            self.images.index.cpu()[rows].tolist(),
            threat=self.trial.threat,
            seed=self.trial.seed,
            batch=getattr(attack, "batch", self.trial.batch),
            classes=self.images.classes,
        )
        self.kept.restore(court, order)

        def finished(part: Tensor) -> None:
            self.kept.save(court, order, part)
            self.trial.report(self.done + int(court.done.sum()), self.total)

        court.finished = finished
        if len(rows):
            attack.run(court)
            if not court.done.all():
                raise RuntimeError(f"attack {attack.name}: left {int((~court.done).sum())} images unfinished")
        self.done += len(self.images)
        self.trial.report(self.done, self.total)
        return {column: getattr(court, column).cpu() for column in _COLUMNS}


class _Kept:
    """Finished batches on disk, one small file each, so that a restart loses at most the batch it was in."""

    def __init__(self, folder: Path | None, protocol: str) -> None:
        self.folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "protocol"
        if not note.exists():
            part = folder / "protocol.part"
            part.write_text(protocol)
            part.replace(note)
        elif note.read_text() != protocol:
            raise UserError(f"{folder}: holds batches of other weights, data or protocol; remove it to start anew")

    def save(self, court: Judge, order: int, rows: Tensor) -> None:
        if self.folder is None:
            return
        arrays = {column: getattr(court, column)[rows].cpu().numpy() for column in _COLUMNS}
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows.cpu().numpy(), **arrays)
        path = self.folder / f"{order:03d}-{int(rows[0]):08d}.npz"
        part = path.with_suffix(".part")
        part.write_bytes(buffer.getvalue())
        part.replace(path)

    def restore(self, court: Judge, order: int) -> None:
        if self.folder is None:
            return
        for path in sorted(self.folder.glob(f"{order:03d}-*.npz")):
            try:
                with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                    arrays = {name: torch.from_numpy(file[name]).to(court.y.device) for name in file.files}
            except (OSError, ValueError, EOFError, BadZipFile):
                path.unlink()  # a batch that cannot be read is attacked again
                continue
            rows = arrays.pop("rows")
            for column, held in arrays.items():
                getattr(court, column)[rows] = held
            court.done[rows] = True


def _answers(model: Counted, images: Images, batch: int) -> Tensor:
    """Clean logits (n, classes) in float32."""
    parts = []
    for at in range(0, len(images), batch):
        rows = slice(at, min(at + batch, len(images)))
        logits = model(images.floats(rows))
        expected = (len(images.labels[rows]), images.classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"model: answers of shape {shape}, expected logits of shape {expected}")
        parts.append(logits.float())
    answers = torch.cat(parts)
    if not torch.isfinite(answers).all():
        bad = int((~torch.isfinite(answers)).any(1).nonzero()[0])
        raise NumberError(f"model: the answer to image {int(images.index[bad])} is not finite")
    return answers


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """The model in eval mode and without weight gradients; every module's own mode and flag come back."""
    if not isinstance(model, nn.Module):
        yield
        return
    half = [p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32]
    if half:
        raise UserError(f"model: parameters of type {half[0]}, expected float32, in which the verdict is given")
    modes = {module: module.training for module in model.modules()}
    flags = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, flag in flags.items():
            p.requires_grad_(flag)


def _rows(
    images: Images, rows: Tensor, name: str, attack: str, order: int, found: Mapping[str, Tensor]
) -> pd.DataFrame:
    labels = images.labels.cpu()[rows].numpy()
    held = {column: found[column].cpu().numpy() for column in _COLUMNS}
    head = {"image": images.index.cpu()[rows].numpy(), "label": labels, "judge": name, "attack": attack}
    return pd.DataFrame({**head, **held, "right": held["answer"] == labels, "order": order})


def _protocol(model: Any, images: Images, trial: Trial) -> str:
    """What finished batches depend on: weights, data, threat, attacks, seed."""
    weights = ""
    if trial.keep is not None and isinstance(model, nn.Module):
        weights = fingerprint(model)
    attacks = {name: [identity(attack) for attack in attacks] for name, attacks in trial.judges.items()}
    return digest([weights, images.fingerprint, plain(trial.threat), attacks, trial.seed, trial.batch])
