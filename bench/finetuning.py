"""The only owner of what a finetune stage does: from an encoder to the classifiers that its scheme selects."""

import copy
import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustcl.bench.journal import Journal
from robustcl.bench.place import Place, threat_of
from robustcl.bench.profiles import scheme_from
from robustcl.bench.scheme import Choice, Scheme
from robustcl.bench.schemes.semi import Semi
from robustcl.bench.store import Stage
from robustcl.models import checkpoint
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Epoch, Run, fit
from robustcl.pretraining.method import Net, Targets, build_net
from robustcl.pretraining.partial import Partial, hidden, some
from robustcl.pretraining.selection import Validation, chosen


@dataclass(frozen=True, kw_only=True)
class Start:
    """What finetuning begins with: an encoder on one route, and a classifier whose head or whose answers it takes."""

    encoder: Encoder
    head: Classifier | None = None
    labeller: Classifier | None = None


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What came of it: the training curve and the classifiers that the scheme selects."""

    history: list[Epoch]
    classifiers: dict[Choice, Classifier]


def finetune(scheme: Scheme, start: Start, images: Images, run: Run) -> Finetuned:
    """Finetune on the training images, of which the scheme holds out what it validates on."""
    net = build_net(scheme, start.encoder, Targets(classes=images.classes), run.seed).to(images.pixels.device)
    if start.head is not None:
        net.heads["classes"].load_state_dict(start.head.head.state_dict())
    validation = None
    if scheme.held:
        images, held = images.hold_out(scheme.held)
        validation = Validation(held, run.threat if scheme.attacked else None, run.seed)
    if isinstance(scheme, Semi):
        assert start.labeller is not None
        known = some(images, scheme.share)
        run = replace(run, partial=Partial(known=known, logits=answers(start.labeller, images)))
        images = hidden(images, known)
    history = fit(scheme, net, images, replace(run, validation=validation))
    found: dict[Choice, Classifier] = {}
    if "last" in scheme.selection:
        found["last"] = _classifier(net)
    if validation is not None and "best_val" in scheme.selection:
        net.load_state_dict(validation.best or net.state_dict())  # without an epoch, as it began
        found["best_val"] = _classifier(net)
    return Finetuned(history=history, classifiers=found)


def answers(classifier: nn.Module, images: Images) -> torch.Tensor:
    """(n, classes) logits of the images as they are, in eval mode."""
    classifier.eval().to(images.pixels.device)
    with torch.no_grad():
        parts = [classifier(images.floats(slice(at, at + 512))) for at in range(0, len(images), 512)]
    return torch.cat(parts)


def run_stage(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    """Make the classifiers of a finetune stage in its folder; what is noted of the chosen epoch."""
    part, images = stage.part, place.images(stage)
    if "subset" in part:
        images = subset(images, part["subset"]["share"], part["subset"]["validation"])
    scheme = scheme_from(part["scheme"], stage.label)
    keep = folder / "progress" / "training.safetensors"
    run = Run(
        seed=part["seed"],
        threat=threat_of(stage),
        keep=keep,
        where=stage.label,
        report=journal.moved,
        log=journal.write,
    )
    done = finetune(scheme, _start(stage, place), images, run)
    for choice, classifier in done.classifiers.items():
        checkpoint.save_classifier(folder / weights(choice), classifier)
    write_curve(folder, done.history)
    return _noted(scheme, done.history)


def subset(images: Images, share: float, validation: int | None) -> Images:
    """The images that have labels, of those that are not held out."""
    rest = images.hold_out(validation)[0] if validation else images
    return rest.take(some(rest, share))


def encoder_of(stage: Stage, place: Place) -> Encoder:
    """The encoder that a stage builds on, at the snapshot and on the route that its part names."""
    part = stage.part
    name = f"encoder-{part['snapshot']:05}.safetensors" if "snapshot" in part else "encoder.safetensors"
    source = place.parent(stage, "encoder", name)
    assert source is not None
    return checkpoint.load_encoder(source, part.get("route"))


def weights(choice: str) -> str:
    """The name of the file of a classifier."""
    return "classifier.safetensors" if choice == "last" else f"classifier-{choice}.safetensors"


def write_curve(folder: Path, history: list[Epoch]) -> None:
    """The training curve as CSV, one row per epoch; what an epoch did not measure is blank."""
    columns = list(dict.fromkeys(name for row in history for name in row)) or ["epoch"]
    with (folder / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _start(stage: Stage, place: Place) -> Start:
    part = stage.part
    head = place.parent(stage, "head", weights(part.get("head", "last")))
    labeller = place.parent(stage, "labeller", weights("last"))
    return Start(
        encoder=encoder_of(stage, place),
        head=checkpoint.load_classifier(head) if head else None,
        labeller=checkpoint.load_classifier(labeller) if labeller else None,
    )


def _noted(scheme: Scheme, history: list[Epoch]) -> dict[str, Any]:
    if "best_val" not in scheme.selection or not history:
        return {}
    column = "robust_val" if scheme.attacked else "val"
    epoch = chosen(history, column)
    return {"chosen": {"epoch": epoch, "of": len(history), column: history[epoch - 1][column]}}


def _classifier(net: Net) -> Classifier:
    head = net.heads["classes"]
    assert isinstance(head, nn.Linear)
    return copy.deepcopy(Classifier(net.encoder, head)).eval()
