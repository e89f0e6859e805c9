"""The only owner of judging: who is still right, what each attack is given, and the records that come of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from robustcl.bench import adversarial, shards
from robustcl.bench.attacks import identity
from robustcl.bench.batches import Batches, Note
from robustcl.bench.estimate import Lottery, is_estimate, refuse
from robustcl.bench.judge import COLUMNS, Attack, Counted, Judge, frozen, global_draws, margins, untouched
from robustcl.bench.judge import Model as Model
from robustcl.bench.records import SCHEMA
from robustcl.models.checkpoint import fingerprint
from robustcl.models.errors import NumberError, UserError
from robustcl.models.lean import rounding
from robustcl.models.memory import pieces
from robustcl.models.threat import Threat
from robustcl.models.value import digest
from robustcl.pretraining.images import Images

Found = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an evaluation is, model and images apart.

    `batch` is a matter of memory alone, but for attacks and models that draw per batch (a reference attack carries its
    own in its identity). `keep` is the folder where finished batches are kept for a restart; a model that is no torch
    module, or holds no tensor, needs a `label` there, since nothing else tells it apart. `save` is the file for the
    adversarial images (see `adversarial.save`). `known` are records of the same judges on the same model and images
    within a smaller ball of the same norm: what was broken there is taken over, with no pass spent. `watch` is shown
    every judge and attack when it is through. With several `workers` the batches of an attack are dealt out (see
    `shards`): forks of this process on a CPU, on CUDA one thread per device. `shared` says that other processes may
    judge the same into the same `keep`, which has to be there: batches are claimed.
    """

    threat: Threat
    judges: Mapping[str, Sequence[Attack]]
    seed: int = 0
    batch: int = 256
    keep: Path | None = None
    label: str = ""
    save: Path | None = None
    known: pd.DataFrame | None = None
    workers: int = 1
    shared: bool = False
    report: Callable[[int, int], None] = lambda done, total: None
    watch: Callable[[str, Attack, Judge], None] = lambda name, attack, judge: None


def judge(model: Model, images: Images, trial: Trial) -> pd.DataFrame:
    """Records of `model` on `images` (schema version 1), ordered by image and then by attack.

    The model answers in float32 (on CUDA strictly, without TF32) and eval mode; its modes and gradient flags come back
    as they were, and so do torch's global generators, which a model that draws finds in a state of the trial's seed.
    Images and model lie on one device. Errors: `UserError` where logits have another shape than (n, classes);
    `NumberError` for NaN.
    """
    if trial.save and trial.known is not None:
        raise UserError("evaluate: save and known, expected one of them: what is taken over has no images to save")
    if trial.save:
        refuse(trial.judges, "evaluate: no adversarial images are saved")
    counted = model if isinstance(model, Counted) else Counted(model)
    note = _note(model, images, trial) if trial.keep else {}
    device = images.pixels.device
    with torch.no_grad(), rounding("float32"), frozen(model), global_draws(device, trial.seed, "clean"):
        logits = _answers(counted, images, trial.batch)
        answer, margin = logits.argmax(1), margins(logits, images.labels)
        work = _Work(counted, images, trial, Batches(trial.keep, note, make=not trial.shared))
        clean = {"answer": answer, "margin": margin, "distance": torch.zeros_like(margin)}
        clean |= {"step": torch.full_like(answer, -1), "passes": torch.ones_like(answer)}
        parts = [_rows(images, torch.arange(len(images)), "clean", "clean", 0, clean)]
        start = (answer == images.labels).nonzero()[:, 0].cpu()
        for name, attacks in trial.judges.items():
            parts += work.judge(name, attacks, start)
    if trial.save:
        adversarial.save(trial.save, images, trial.threat, work.points)
    records = pd.concat([part for part in parts if len(part)], ignore_index=True)
    ordered: pd.DataFrame = records.sort_values(["image", "order"], kind="stable", ignore_index=True)[SCHEMA.names]
    return ordered


def count_classes(model: Model, images: Tensor) -> int:
    """How many classes the model answers for. Errors: `UserError` where it does not answer with logits (n, classes)."""
    with torch.no_grad(), frozen(model), global_draws(images.device, 0, "classes"):
        logits = untouched(model, images.float() / 255 if images.dtype == torch.uint8 else images)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: answers of shape {shape}, expected logits of shape (n, classes), at least 2 classes")
    return logits.shape[1]


class _Work:
    """One evaluation under way: what every attack of it shares."""

    def __init__(self, model: Counted, images: Images, trial: Trial, kept: Batches) -> None:
        self.model, self.images, self.trial, self.kept = model, images, trial, kept
        self.total = sum(len(attacks) for attacks in trial.judges.values()) * len(images)
        self.done, self.order = 0, 1
        self.points: dict[str, tuple[Tensor, Tensor]] = {}  # judge -> the worst points, and whether they break

    def judge(self, name: str, attacks: Sequence[Attack], right: Tensor) -> list[pd.DataFrame]:
        """The rows of one judge, part by part; `right` are the images that are right clean."""
        parts, right = self._carried(name, attacks, right)
        worst = _Worst(self.images, right) if self.trial.save else None
        index, trial = self.images.index.cpu().tolist(), self.trial
        lottery = Lottery(attacks, index, self.images.classes, trial.threat.norm, trial.seed)
        for attack in attacks:
            rows = lottery.drawn(attack, right)
            court = self._attack(name, attack, rows)
            found = {column: court.held[column].cpu() for column in COLUMNS}
            parts.append(_rows(self.images, rows, name, attack.name, self.order, found))
            if worst:
                worst.see(court, rows)
            right = lottery.left(attack, right, rows, court, found["answer"] != self.images.labels.cpu()[rows])
            self.order += 1
        if worst:
            self.points[name] = (worst.point, worst.broken)
        return parts

    def _carried(self, name: str, attacks: Sequence[Attack], right: Tensor) -> tuple[list[pd.DataFrame], Tensor]:
        """What the judge broke within a smaller ball, at no cost, and the images that are left.

        The verdict stands: the point lies within the larger ball as well. An estimate takes nothing over, as what was
        broken there hangs on the draw.
        """
        known = self.trial.known
        if known is None or is_estimate(attacks):
            return [], right
        index = pd.Index(self.images.index.cpu().numpy()[right.numpy()])
        lost = known[(known["judge"] == name) & ~known["right"].astype(bool) & known["image"].isin(index)]
        tried, names = lost["attack"].astype(str).tolist(), [attack.name for attack in attacks]
        other = next((attack for attack in tried if attack not in names), None)
        if other is not None:
            raise UserError(f"evaluate: known records of attack '{other}', which is none of judge '{name}'")
        order = [self.order + names.index(attack) for attack in tried]
        taken = lost.assign(judge=name, attack=tried, passes=0, order=order)
        return [taken], right[torch.from_numpy(~index.isin(lost["image"]))]

    def _attack(self, name: str, attack: Attack, rows: Tensor) -> Judge:
        """The judge of `attack` on the images in `rows`, when it is through."""
        here, order = rows.to(self.images.pixels.device), self.order
        court = Judge(
            self.model,
            self.images.floats(here),
            self.images.labels[here],
            self.images.index.cpu()[rows].tolist(),
            threat=self.trial.threat,
            seed=self.trial.seed,
            batch=getattr(attack, "fixed_batch", None) or self.trial.batch,
            classes=self.images.classes,
            keep_points=self.trial.save is not None,
        )
        self.kept.restore(court, order)

        def finished(part: Tensor) -> None:
            self.kept.save(court, order, part)
            self.trial.report(self.done + int(court.done.sum()), self.total)

        through = int(court.done.sum())

        def told(count: int) -> None:
            nonlocal through
            through += count
            self.trial.report(self.done + through, self.total)

        court.finished = finished
        if len(rows):
            if self.trial.shared:
                shards.with_others(attack, court, self.kept, order)
            else:
                shards.run(attack, court, self.trial.workers, self.kept, order, told)
            if not court.done.all():
                raise RuntimeError(f"attack {attack.name}: left {int((~court.done).sum())} images unfinished")
        self.done += len(self.images)
        self.trial.report(self.done, self.total)
        self.trial.watch(name, attack, court)
        return court


class _Worst:
    """The worst point of every image over the attacks of one judge; of what is wrong clean, the image itself."""

    def __init__(self, images: Images, right: Tensor) -> None:
        self.point = images.floats(slice(None)).cpu().clone()
        self.broken = torch.ones(len(images), dtype=torch.bool)
        self.broken[right] = False
        self.margin = torch.full((len(images),), torch.inf)

    def see(self, court: Judge, rows: Tensor) -> None:
        """Take over what is worse: a break, or a smaller margin."""
        broken, margin = (court.step >= 0).cpu(), court.margin.cpu()
        worse = broken | (margin < self.margin[rows])
        assert court.point is not None
        self.point[rows[worse]] = court.point.cpu()[worse]
        self.margin[rows[worse]] = margin[worse]
        self.broken[rows] |= broken


def _answers(model: Counted, images: Images, batch: int) -> Tensor:
    """Clean logits (n, classes) in float32."""

    def answered(rows: Tensor) -> Tensor:
        logits = untouched(model, images.floats(rows))
        expected = (len(rows), images.classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"model: answers of shape {shape}, expected logits of shape {expected}")
        return logits.float()

    parts = torch.arange(len(images), device=images.labels.device).split(batch)
    answers = torch.cat([found for rows in parts for found in pieces(rows, answered, "model")])
    if not torch.isfinite(answers).all():
        bad = int((~torch.isfinite(answers)).any(1).nonzero()[0])
        raise NumberError(f"model: the answer to image {int(images.index[bad])} is not finite")
    return answers


def _rows(images: Images, rows: Tensor, name: str, attack: str, order: int, found: Found) -> pd.DataFrame:
    labels = images.labels.cpu()[rows].numpy()
    held = {column: found[column].cpu().numpy() for column in COLUMNS}
    head = {"image": images.index.cpu()[rows].numpy(), "label": labels, "judge": name, "attack": attack}
    return pd.DataFrame({**head, **held, "right": held["answer"] == labels, "order": order})


def _note(model: Any, images: Images, trial: Trial) -> Note:
    """What finished batches depend on. Errors: `UserError` for a model that nothing tells from another."""
    tensors = isinstance(model, nn.Module) and len(model.state_dict()) > 0
    if not tensors and not trial.label:
        raise UserError(
            "evaluate: a model without tensors is kept apart by nothing, expected Trial(label='<its name>')"
        )
    attacks = [
        f"{name}: {attack.name} [{digest(identity(attack))}]"
        for name, attacks in trial.judges.items()
        for attack in attacks
    ]
    known = "none"
    if trial.known is not None:
        lost = trial.known[~trial.known["right"].astype(bool)]
        known = digest([lost[column].astype(str).tolist() for column in ("image", "judge", "attack")])
    return {
        "weights": fingerprint(model) if tensors else trial.label,
        "images": images.fingerprint,
        "threat": f"{trial.threat.norm} {trial.threat.eps}",
        "attacks": ", ".join(attacks),
        "seed": str(trial.seed),
        "batch": str(trial.batch),
        "known records": known,
        "adversarial images": "saved" if trial.save else "not saved",
    }
