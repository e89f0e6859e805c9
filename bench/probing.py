"""The only owner of probes as stages: which a point of a suite needs, what `suite.json` says of them, making one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcl.bench import finetuning
from robustcl.bench.attacks import from_identity as attack_from
from robustcl.bench.attacks import identity as attack_identity
from robustcl.bench.classifiers import Classifiers
from robustcl.bench.journal import Journal
from robustcl.bench.jury import jury
from robustcl.bench.pace import most
from robustcl.bench.place import Place, threat_of
from robustcl.bench.probe import FILE, NetworkProbe, Probe, Subject, from_identity, identity, write_arrays
from robustcl.bench.references import again
from robustcl.bench.store import Stage
from robustcl.bench.suite import RANDOM, Row
from robustcl.models import checkpoint
from robustcl.models.errors import unknown
from robustcl.models.value import plain
from robustcl.pretraining.images import Images

Entry = dict[str, Any]
"""What `suite.json` says of a probe: probe, encoder, method, scheme (empty where it reads none), data, seeds, stage."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A probe's stage, what `suite.json` says of it, and its passes."""

    entry: Entry
    stage: Stage
    passes: int


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the probes of one point of a suite may look at: its classifiers, the judged images, and by the names of
    their rows the cells of given classifiers."""

    classifiers: Classifiers
    images: Images
    data: str
    given: Mapping[str, Mapping[str, Any]]

    def planned(self) -> Iterator[Planned]:
        """The stages of all probes. Errors: `UserError` for what would fail in a worker."""
        suite = self.classifiers.suite
        for name, probe in suite.probes.items():
            if isinstance(probe, NetworkProbe):
                yield from self._networks(name, probe)
            else:
                judged = suite.target_name or suite.data_name
                entry, stage = image_stage(probe, self.images, self.data, f" {judged}" if judged else "")
                yield Planned(entry=entry, stage=stage, passes=probe.passes(self.images))

    def _networks(self, name: str, probe: NetworkProbe) -> Iterator[Planned]:
        suite = self.classifiers.suite
        where = f"{suite.name}.probes.{name}"
        rows = {RANDOM: Row(entry=RANDOM), **{str(row): row for row in suite.rows}}
        given = self.given if probe.given else {}
        shown = [*(row for row in rows if row != RANDOM), *given] if probe.rows is None else probe.rows
        scheme = getattr(probe, "scheme", None)
        if scheme is not None and scheme not in suite.finetune:
            raise unknown(f"{where}.scheme", "scheme", scheme, suite.finetune)
        for row in shown:
            if row in given:
                yield self._outside(probe, row, given[row])
            elif row in rows:
                probe.check(where, self.images, self.classifiers.encoders.features(rows[row].entry))
                yield self._own(probe, rows[row], scheme)
            else:
                raise unknown(f"{where}.rows", "row", row, [*rows, *given])

    def _own(self, probe: Probe, row: Row, scheme: str | None) -> Planned:
        """The probe of an encoder of the suite, or of the first classifier that the scheme makes of it."""
        encoders, part = self.classifiers.encoders, self._part(probe)
        if scheme is None:
            shown, roles, parents = "", ["pretrain"], {"encoder": encoders.stage(row.entry)}
            part |= encoders.network(row)
        else:
            outcome = next(iter(self.classifiers.outcomes(row, scheme)))
            shown, roles, parents = outcome.name, ["pretrain", "finetune"], {"classifier": outcome.stage}
            part |= {} if outcome.choice == "last" else {"selection": outcome.choice}
        name = encoders.label(str(row))
        seeds = encoders.seeds(*roles, "judge")
        label = " ".join(filter(None, ["probe", part["probe"]["name"], name, shown])) + seeds
        stage = Stage(kind="probe", part=part, parents=parents, label=label)
        of = {"encoder": name, "method": encoders.method(row.entry), "scheme": shown}
        return self._planned(probe, stage, of | {"seeds": plain(self.classifiers.suite.seeds)})

    def _outside(self, probe: Probe, row: str, cell: Mapping[str, Any]) -> Planned:
        part = self._part(probe) | {"weights": cell["part"]["weights"]}
        stage = Stage(kind="probe", part=part, label=f"probe {part['probe']['name']} {row}")
        return self._planned(probe, stage, {key: cell[key] for key in ("encoder", "method", "scheme", "seeds")})

    def _part(self, probe: Probe) -> dict[str, Any]:
        suite, images = self.classifiers.suite, self.images
        part = {"probe": identity(probe), "data": images.fingerprint, "images": len(images), "seed": suite.seeds.judge}
        if probe.reads == "classifier":
            part["threat"] = plain(suite.threat)
        if probe.attacked is not None:
            (attacks,) = jury(suite, [probe.attacked], images.classes, alone="a probe").values()
            part["attacks"] = [attack_identity(attack) for attack in attacks]
        return part

    def _planned(self, probe: Probe, stage: Stage, of: Mapping[str, Any]) -> Planned:
        passes, held = probe.passes(self.images), stage.part.get("attacks", ())
        if held:
            n, norm = min(getattr(probe, "images", len(self.images)), len(self.images)), stage.part["threat"]["norm"]
            passes += most({"probe": [attack_from(one, stage.label, {}) for one in held]}, self.images.classes, n, norm)
        return Planned(entry=_entry(stage, {**of, "data": self.data}), stage=stage, passes=passes)


def image_stage(probe: Probe, images: Images, data: str, more: str = "") -> tuple[Entry, Stage]:
    """The stage of a probe that looks at images alone, `more` in its label, and its entry."""
    part: dict[str, Any] = {"probe": identity(probe), "data": images.fingerprint, "images": len(images)}
    stage = Stage(kind="probe", part=part, label=f"probe {part['probe']['name']}{more}")
    return _entry(stage, {"data": data}), stage


def listed(entries: Sequence[tuple[Entry, str]]) -> list[Entry]:
    """The entries of all points of a suite, each given with its point; a stage once, and what no axis of the grid
    touches under its plain name."""
    stages: dict[tuple[str, ...], set[str]] = {}
    for entry, point in entries:
        stages.setdefault(_place(entry, point), set()).add(entry["stage"])
    found: dict[str, Entry] = {}
    for entry, point in entries:
        place = _place(entry, point)
        name = place[1] if len(stages[place]) == 1 else entry["encoder"]
        found.setdefault(entry["stage"], entry | {"encoder": name})
    return list(found.values())


def _place(entry: Entry, point: str) -> tuple[str, ...]:
    """Where an entry stands, with its encoder in second place, without the point of its grid."""
    plain_name = str(entry["encoder"]).removesuffix(f" ({point})")
    return (entry["probe"], plain_name, entry["scheme"], entry["data"], str(entry["seeds"]))


def _entry(stage: Stage, of: Mapping[str, Any]) -> Entry:
    empty = {"encoder": "", "method": "", "scheme": "", "seeds": {}}
    return {"probe": stage.part["probe"]["name"], **empty, **of, "stage": stage.key}


def make_probe(stage: Stage, place: Place, folder: Path, journal: Journal) -> dict[str, Any]:
    """Make a probe's stage in its folder."""
    part, images = stage.part, place.images(stage)
    network: dict[str, Any] = {}
    if "encoder" in stage.parents:
        network["encoder"] = finetuning.encoder_of(stage, place).to(place.device)
    elif "classifier" in stage.parents:
        source = place.parent(stage, "classifier", finetuning.weights(part.get("selection", "last")))
        assert source is not None
        network["classifier"] = checkpoint.load_classifier(source).to(place.device)
        network["encoder"] = network["classifier"].encoder
    elif "weights" in part:
        network["classifier"] = again(stage, place.given, images).model
    subject = Subject(
        images=images,
        where=stage.label,
        seed=part.get("seed", 0),
        threat=threat_of(stage),
        attacks=[attack_from(held, stage.label, {}) for held in part.get("attacks", ())],
        keep=folder / "progress",
        report=journal.moved,
        **network,
    )
    write_arrays(folder / FILE, from_identity(part["probe"], stage.label).run(subject))
    return {}
