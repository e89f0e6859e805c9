"""The only owner of what each kind of stage does: pretrain, import, labels, finetune, evaluate, corrupt.

A stage is executed from its part alone, so that nothing outside its key can change its numbers.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustcl.bench import finetuning, records
from robustcl.bench.about import about, history
from robustcl.bench.attacks import Attack, from_identity
from robustcl.bench.corruptions import corrupted
from robustcl.bench.evaluate import Model, Trial, judge
from robustcl.bench.imports import doubts, make_import, told_import
from robustcl.bench.journal import Journal, logged, memory
from robustcl.bench.jury import sources_of
from robustcl.bench.place import Place, Report, outside, threat_of
from robustcl.bench.probing import make_probe
from robustcl.bench.provenance import provenance
from robustcl.bench.references import again
from robustcl.bench.store import Stage, Store
from robustcl.models import checkpoint
from robustcl.models import memory as exhaustion
from robustcl.models.architecture import read_architecture
from robustcl.models.encoder import Encoder
from robustcl.models.share import processes
from robustcl.models.value import read
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Method, Targets, build_net, read_method
from robustcl.pretraining.pseudo_labels import ClusterFit, balance, cluster, load_labels, save_labels

_PAUSE = 0.5  # seconds between two looks for an evaluation that is about to begin


def execute(stage: Stage, place: Place, report: Report, *, wait: bool = True) -> bool:
    """Make the stage unless the store has it; without `wait` False where another process works at it.

    `report` hears first that nothing is done yet, and nothing at all where there is nothing to do.
    """
    return place.store.make(stage, work_of(stage, place, report), wait=wait)


def work_of(stage: Stage, place: Place, report: Report) -> Callable[[Path], Mapping[str, Any]]:
    """What makes the stage in a folder, and answers with what is to be noted of it."""
    kinds = {
        "pretrain": _pretrain,
        "import": make_import,
        "labels": _labels,
        "finetune": finetuning.run_stage,
        "evaluate": _evaluate,
        "corrupt": _corrupt,
        "probe": make_probe,
    }
    where = {"device": place.device, **({"processes": processes()[1]} if processes()[1] > 1 else {})}

    def work(folder: Path) -> Mapping[str, Any]:
        (folder / "progress").mkdir(exist_ok=True)
        report(0, 1)
        with (
            logged(folder, stage.label, report, **where) as journal,
            exhaustion.told(stage.label, "a device with more of it, or fewer --workers"),
        ):
            extra = kinds[stage.kind](stage, place, folder, journal)
        return {**provenance(), **where, "seconds": journal.seconds, **memory(), **extra}

    return work


def _pretrain(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    part = stage.part
    method = method_from(part["method"])
    images = place.images(stage)
    labels = place.parent(stage, "labels", "labels.npz")
    given = {
        role: checkpoint.load_encoder(place.store.file(parent, "encoder.safetensors"))
        for role, parent in stage.parents.items()
        if role != "labels"
    }
    pseudo = load_labels(labels, len(images)) if labels else {}
    encoder = Encoder(
        read_architecture(part["encoder"]["architecture"], f"{stage.label}.encoder"),
        images.shape,
        routes=method.routes,
        mean=_numbers(part["encoder"]["mean"]),
        std=_numbers(part["encoder"]["std"]),
        seed=part["seed"],
    )
    targets = Targets(classes=images.classes, pseudo=pseudo)
    net = build_net(method, encoder, targets, part["seed"], given).to(place.device)

    def snapshot(epoch: int, deployed: Encoder) -> None:
        checkpoint.save_encoder(folder / f"encoder-{epoch:05}.safetensors", deployed, method.deploy)

    run = Run(
        seed=part["seed"],
        threat=threat_of(stage),
        pseudo=pseudo,
        keep=folder / "progress" / "training.safetensors",
        where=stage.label,
        report=journal.moved,
        log=journal.write,
        snapshot=snapshot,
    )
    finetuning.write_curve(folder, fit(method, net, images, run))
    checkpoint.save_encoder(folder / "encoder.safetensors", net.deployed(method.facts.network), method.deploy)
    return {}


def _labels(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    images = place.images(stage)
    if "file" in stage.part:
        found = load_labels(place.file(stage, stage.part["file"]), len(images))
    else:
        source = place.parent(stage, "encoder", "encoder.safetensors")
        route = stage.part.get("route")
        network = checkpoint.load_encoder(source, route) if source else outside(stage, place.files, images.shape)
        how = read(ClusterFit, stage.part["fit"], stage.label)
        found = cluster(network.to(place.device), images, how, stage.part["seed"])
    save_labels(folder / "labels.npz", found)
    (folder / "balance.json").write_text(json.dumps(balance(found), indent=1) + "\n")
    return {}


def _evaluate(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    keep, through = folder / "progress" / "batches", folder / "progress" / "through"
    if through.exists():  # this process's forerunner died a moment before it was finished
        through.rename(keep)
    keep.mkdir(exist_ok=True)
    classifier, images, trial = _trial(stage, place, keep)
    found = judge(classifier, images, replace(trial, report=journal.moved, log=journal.write))
    as_said = replace(trial, judges=_judges(stage, {name: name for name in sources_of(stage)}))
    before = doubts(stage, place.store, trial.judges)
    records.write(folder / "records.parquet", found, about(stage, classifier, images, as_said, found, before))
    if place.shared:
        keep.rename(through)  # all at once, so that whoever still assists is sent away
    return {}


def assist(stage: Stage, place: Place) -> None:
    """Attack batches of an evaluation that another process makes, until that is through; nothing else is written.

    Returns at once where nobody makes it. Errors: those of the evaluation.
    """
    keep = place.store.hidden(stage) / "progress" / "batches"
    while not (keep / "protocol.json").exists():
        holder = place.store.holder(stage.kind, stage.key)
        if not holder or not holder.alive:
            return
        time.sleep(_PAUSE)
    with suppress(FileNotFoundError):  # the evaluation is finished, and its folder gone
        judge(*_trial(stage, replace(place, shared=True), keep))


def _trial(stage: Stage, place: Place, keep: Path) -> tuple[Model, Images, Trial]:
    """What is judged, on what, and how."""
    part, images = stage.part, place.images(stage)
    weights = finetuning.weights(part.get("selection", "last"))
    source, smaller = place.parent(stage, "classifier", weights), place.parent(stage, "smaller", "records.parquet")
    classifier: Model = (
        checkpoint.load_classifier(source).to(place.device) if source else again(stage, place.given, images).model
    )
    sources = {
        name: checkpoint.load_classifier(place.store.file(parent, weights)).to(place.device)
        for name, parent in sources_of(stage).items()
    }
    threat = threat_of(stage)
    assert threat is not None
    return (
        classifier,
        images,
        Trial(
            threat=threat,
            judges=_judges(stage, sources),
            seed=part["seed"],
            keep=keep,
            label=part.get("weights", ""),
            known=records.read(smaller) if smaller else None,
            workers=place.workers,
            shared=place.shared,
        ),
    )


def _judges(stage: Stage, sources: Mapping[str, Any]) -> dict[str, list[Attack]]:
    """The judges of a stage, `sources` standing for the encoders that transfer attacks start from."""
    return {
        name: [from_identity(held, stage.label, sources) for held in attacks]
        for name, attacks in stage.part["judges"].items()
    }


def _corrupt(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    part = stage.part
    source = place.parent(stage, "classifier", finetuning.weights(part.get("selection", "last")))
    assert source is not None
    classifier = checkpoint.load_classifier(source).to(place.device)
    files = {name: place.file(stage, part["files"][name]) for name in ("labels", *part["corruptions"])}
    keep = folder / "progress" / "corruptions"
    found = corrupted(classifier, place.images(stage), files, part["severities"], keep=keep, report=journal.moved)
    records.write(folder / "records.parquet", found, {"protocol": history(stage)})
    return {}


def told(stage: Stage, store: Store) -> list[str]:
    """What people should know of a finished stage, in lines: how even clusters are, how an import was read."""
    if stage.kind == "import":
        return told_import(stage, store)
    if stage.kind != "labels":
        return []
    held = json.loads(store.file(stage, "balance.json").read_text(encoding="utf-8"))
    return [
        f"K = {k}: {part['smallest']} to {part['largest']} images in a cluster, entropy {part['entropy']} of "
        f"{part['most']} bits{'; warning: ' + part['warning'] if 'warning' in part else ''}"
        for k, part in held.items()
    ]


def method_from(identity: Mapping[str, Any]) -> Method:
    """The method that an identity in a key describes."""
    fields = {name: held for name, held in identity.items() if name not in ("name", "version")}
    return read_method({"method": identity["name"], **fields}, str(identity["name"]))


def _numbers(given: list[float] | None) -> tuple[float, ...] | None:
    return None if given is None else tuple(given)
