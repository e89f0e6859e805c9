"""The only owner of imports: how an encoder from outside the suite becomes a stage, beside those that pretrain."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustcl.bench.files import Files, unchanged
from robustcl.bench.findings import Finding
from robustcl.bench.journal import Journal
from robustcl.bench.place import Place
from robustcl.bench.store import Stage, Store, write_json
from robustcl.bench.suite import Imported
from robustcl.models import checkpoint
from robustcl.models.convert import Report, import_encoder
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError, unknown
from robustcl.models.value import plain, read
from robustcl.pretraining.images import Images
from robustcl.pretraining.probe import Probe, probe

VERSION = 1  # part of every key: raised where the same file becomes another encoder


def import_stage(entry: Imported, images: Images, files: Files, where: str, label: str) -> tuple[Stage, Report]:
    """The stage of an entry, and how its file is read: now, so that a wrong one fails before anything starts.

    Errors: `UserError` for a file that is missing or not whole, or has no such route.
    """
    held = plain(entry)
    part = {
        "version": VERSION,
        "checkpoint": files.sha256(entry.checkpoint, f"{where}.checkpoint"),
        **{key: held[key] for key in ("layout", "route", "stem", "mean", "std")},
        "shape": list(images.shape),
        **({"data": images.fingerprint} if entry.probe else {}),
    }
    stage = Stage(kind="import", part=part, label=label)
    return stage, files.once(stage.key, lambda: read_import(stage, files.known)[1])


def read_import(stage: Stage, files: Mapping[str, Path]) -> tuple[Encoder, Report]:
    """The encoder of an import with every route, and how it was read; `route` of the report is to be finetuned."""
    part = stage.part
    path = unchanged(part["checkpoint"], files, stage.label)
    channels, height, width = part["shape"]
    encoder, report = import_encoder(
        path,
        layout=part["layout"],
        route="all",
        shape=(channels, height, width),
        stem=part["stem"],
        mean=None if part["mean"] is None else tuple(part["mean"]),
        std=None if part["std"] is None else tuple(part["std"]),
    )
    if encoder.shape != (channels, height, width):
        raise UserError(f"{path}: takes images of shape {encoder.shape}, expected those of the data, {part['shape']}")
    route = part["route"] or report.route
    if route not in report.routes:
        raise unknown(str(path), "route", route, report.routes)
    return encoder, dataclasses.replace(report, route=route)


def make_import(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    """Write the encoder as one of ours, with all its routes, once it is probed; `import.json` says how it was read."""
    encoder, said = read_import(stage, place.files)
    probed = None
    if "data" in stage.part:
        probed = probe(encoder.keep(said.route).to(place.device), place.images(stage), stage.label)
    checkpoint.save_encoder(folder / "encoder.safetensors", encoder, said.route)
    write_json(folder / "import.json", {"report": plain(said), "probe": plain(probed) if probed else None})
    return {}


def doubts(stage: Stage, store: Store, judges: Iterable[str]) -> tuple[Finding, ...]:
    """What speaks against the numbers of an evaluate stage whose encoder was imported: a probe that told nothing.

    It speaks against the clean accuracy as much as against those of `judges`.
    """
    finetuned = stage.parents.get("classifier")
    source = finetuned.parents.get("encoder") if finetuned else None
    if finetuned is None or source is None or source.kind != "import":
        return ()
    held = json.loads(store.file(source, "import.json").read_text(encoding="utf-8"))
    asked, found = finetuned.part.get("route"), None if held["probe"] is None else read(Probe, held["probe"], "probe")
    if found is None:
        said, advice = "the imported encoder was not asked whether it knows the images", "leave probe = false out"
    elif asked not in (None, held["report"]["route"]):
        said = f"the probe asked route {held['report']['route']} of the imported encoder, not {asked}"
        advice = f'give route = "{asked}" an entry of its own below [pretrain], which is probed'
    elif not found.above_random:
        said = f"the imported encoder is not clearly better than an untrained one: {str(found).splitlines()[0]}"
        advice = "see whether these are its weights, its stem, its normalisation and images that it was made for"
    else:
        return ()
    share = 0.0 if found is None else found.right / found.asked
    concerned = ("clean", *judges)
    return (Finding(check="probe", value=share, verdict="suspect", found=said, next=advice, judges=concerned),)


def told_import(stage: Stage, store: Store) -> list[str]:
    """What people should know of a finished import, in lines: how its file was read, and what the probe found."""
    held = json.loads(store.file(stage, "import.json").read_text(encoding="utf-8"))
    probed = str(read(Probe, held["probe"], stage.label)) if held["probe"] else "not probed"
    return [*str(read(Report, held["report"], stage.label)).splitlines(), *probed.splitlines()]
