"""The only owner of where a row comes from: the stages behind it with configuration, commit, versions and cost."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustcl.bench.tables import suites
from robustcl.reports.folder import RunFolder

GIVEN_SUITE = "evaluate"  # the suite of classifiers that `robustcl evaluate` was given
_SOFTWARE = ("robustcl", "python", "system")
_HARDWARE = ("machine", "processor", "cores", "accelerators")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage as it was made: what it cost, where, and from which code."""

    label: str
    kind: str
    key: str
    seconds: str
    memory: str
    device: str
    seed: str
    commit: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """The provenance of a row. `steps` is empty where only the records were kept.

    `command` makes it all again; it is empty for classifiers that were given. `software` has every version once,
    several where the stages were made with different ones, and `hardware` what they ran on. `weights` are the encoder's
    files in the run folder.
    """

    command: str
    steps: Sequence[Step]
    software: Mapping[str, str]
    hardware: Mapping[str, str]
    settings: str
    seeds: Mapping[str, str]
    fingerprints: Sequence[str]
    protocols: Sequence[str]
    weights: Sequence[str]


def capsule(run: RunFolder, encoder: str) -> Capsule:
    """The provenance of an encoder: of all its cells of the table, and all that they were built on."""
    cells = [cell for cell in run.cells if cell["encoder"] == encoder and cell["headline"]]
    stages: dict[str, dict[str, Any]] = {}
    for cell in cells:
        stages |= run.lineage(str(cell["stage"]))
    made = [stage["made"] for stage in stages.values()]
    software = {name: _all(of.get(name) for of in made) for name in _SOFTWARE}
    hardware = {name: _all(of.get(name) for of in made) for name in _HARDWARE}
    for package in dict.fromkeys(name for of in made for name in of.get("versions", {})):
        software[package] = _all(of.get("versions", {}).get(package) for of in made)
    roles = dict.fromkeys(role for cell in cells for role in cell["seeds"])
    return Capsule(
        command=_command(str(run.suite["suite"])),
        steps=[_step(stage) for stage in stages.values()],
        software={name: told for name, told in software.items() if told},
        hardware={name: told for name, told in hardware.items() if told},
        settings=_settings(run, encoder),
        seeds={role: _all(cell["seeds"].get(role) for cell in cells) for role in roles},
        fingerprints=list(dict.fromkeys(text for cell in cells for text in cell.get("fingerprints", {}).values())),
        protocols=list(dict.fromkeys(f"{cell['scheme']}: {cell['protocol']}" for cell in cells if cell["protocol"])),
        weights=list(dict.fromkeys(path for stage in stages.values() for path in _weights(run, stage))),
    )


def architectures(run: RunFolder, encoder: str) -> list[str]:
    """The networks of an encoder for people, such as `resnet (depth 18, stem 3x3)`; none where it was given whole."""
    cells = [cell for cell in run.cells if cell["encoder"] == encoder and "architecture" in cell]
    return list(dict.fromkeys(architecture(cell["architecture"]) for cell in cells))


def architecture(of: Mapping[str, Any]) -> str:
    """A network for people: its name, then what it is set to."""
    settings = ", ".join(f"{key} {held}" for key, held in of.items() if held is not None and key != "name")
    return f"{of['name']} ({settings})" if settings else str(of["name"])


def duration(seconds: float) -> str:
    """Seconds for people: `18.4 s`, `3.2 min`, `5.0 h`."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


def _command(suite: str) -> str:
    if suite == GIVEN_SUITE:
        return ""
    return f"robustcl run {shlex.quote(suite if suite in suites() else f'{suite}.toml')}"


def _step(stage: Mapping[str, Any]) -> Step:
    made, part = stage["made"], stage["part"]
    memory = made.get("peak_memory")
    commit = str(made.get("commit", ""))[:10]
    return Step(
        label=str(stage["label"]),
        kind=str(stage["kind"]),
        key=str(stage["key"]),
        seconds=duration(float(made["seconds"])) if "seconds" in made else "",
        memory=f"{memory / 2**20:.0f} MiB" if memory else "",
        device=str(made.get("device", "")),
        seed=str(part.get("seed", "")),
        commit=f"{commit}, with changes" if commit and made.get("dirty") else commit,
        part=json.dumps(part, indent=2, ensure_ascii=False),
    )


def _weights(run: RunFolder, stage: Mapping[str, Any]) -> list[str]:
    """The encoder that a stage of finetuning began with, as its file in the run folder."""
    found = run.file(str(stage["parents"].get("encoder", "none")), "encoder.safetensors")
    return [found.relative_to(run.root).as_posix()] if found and stage["kind"] == "finetune" else []


def _settings(run: RunFolder, encoder: str) -> str:
    """What the suite says of an encoder with every default filled in, as JSON; nothing where it says nothing."""
    points = run.suite.get("resolved", {}).get("points", [])
    found = [
        {name: point[name] for name in ("point", "data", "encoder", "threat") if name in point}
        | {encoder: point["pretrain"][encoder]}
        for point in points
        if encoder in point.get("pretrain", {})
    ]
    return json.dumps(found[0] if len(found) == 1 else found, indent=2, ensure_ascii=False) if found else ""


def _all(values: Iterable[object]) -> str:
    """All different values, in order."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
