"""The only owner of probes as stages: which a point of a suite needs, what `suite.json` says of them, making one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustcl.bench.place import Place, Report
from robustcl.bench.probe import FILE, Probe, Subject, from_identity, identity, write_arrays
from robustcl.bench.store import Stage
from robustcl.pretraining.images import Images

Entry = dict[str, Any]
"""What `suite.json` says of a probe: probe, encoder, method, scheme (empty where it reads none), data, seeds, stage."""


def image_stage(probe: Probe, images: Images, data: str, more: str = "") -> tuple[Entry, Stage]:
    """The stage of a probe that looks at images alone, `more` in its label, and its entry."""
    part: dict[str, Any] = {"probe": identity(probe), "data": images.fingerprint, "images": len(images)}
    stage = Stage(kind="probe", part=part, label=f"probe {part['probe']['name']}{more}")
    return _entry(stage, {"data": data}), stage


def listed(entries: Sequence[tuple[Entry, str]]) -> list[Entry]:
    """The entries of all points of a suite, each with its point, a stage once."""
    found: dict[str, Entry] = {}
    for entry, _ in entries:
        found.setdefault(entry["stage"], entry)
    return list(found.values())


def _entry(stage: Stage, of: Mapping[str, Any]) -> Entry:
    empty = {"encoder": "", "method": "", "scheme": "", "seeds": {}}
    return {"probe": stage.part["probe"]["name"], **empty, **of, "stage": stage.key}


def make_probe(stage: Stage, place: Place, folder: Path, report: Report) -> dict[str, Any]:
    """Make a probe's stage in its folder."""
    probe = from_identity(stage.part["probe"], stage.label)
    subject = Subject(images=place.images(stage), where=stage.label, report=report)
    write_arrays(folder / FILE, probe.run(subject))
    return {}
