"""The only owner of what a probe is: a plug-in that looks at images or at a network and writes arrays for figures.

Not to be mixed up with a linear probe, which is a finetuning (SLF).
"""

import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Attack, Model
from robustcl.models.encoder import Encoder
from robustcl.models.plugin import find, name_of, names
from robustcl.models.threat import Threat
from robustcl.models.value import Table, plain, read, value
from robustcl.pretraining.images import Images

PACKAGE = "robustcl.bench.probes"
FILE = "arrays.npz"
Arrays = Mapping[str, NDArray[Any]]
Reads = Literal["images", "encoder", "classifier"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a probe looks at: the judged images, and the network that it reads, in eval mode on their device.

    `encoder` is there for a probe of encoders, and where the classifier is one of ours; a given one has none.
    `attacks` are those that the probe names; `keep` is the folder of what an interrupted run is to find again.
    """

    images: Images
    where: str
    seed: int = 0
    threat: Threat | None = None
    encoder: Encoder | None = None
    classifier: Model | None = None
    attacks: Sequence[Attack] = ()
    keep: Path | None = None
    report: Callable[[int, int], None] = lambda done, total: None


@value
class Probe(ABC):
    """A stage that writes arrays; its fields are what changes them. `version` is raised when code changes them."""

    version: ClassVar[int]
    given: ClassVar[bool] = False  # whether it looks at classifiers from outside too

    @property
    @abstractmethod
    def reads(self) -> Reads:
        """What it looks at beside the images."""

    @property
    def attacked(self) -> str | None:
        """The name of the judge that makes its adversarial images, if one does."""
        return None

    @abstractmethod
    def passes(self, images: Images) -> int:
        """Forward-equivalents of one network with these judged images, those of the attack that it names apart."""

    @abstractmethod
    def run(self, subject: Subject) -> Arrays:
        """The arrays by name; the same ones in every run. Errors: `UserError` that begins with `subject.where`."""

    def check(self, where: str, images: Images, width: int) -> None:
        """See before anything runs whether it can, on these images with an encoder of `width` features.

        Errors: `UserError` that begins with `where`.
        """
        return


@value
class NetworkProbe(Probe):
    """A probe that looks at networks: those of the table's rows, or of `rows`, among them `random`."""

    rows: tuple[str, ...] | None = None


def probes() -> dict[str, type[Probe]]:
    """The probes by name."""
    return {name: find(PACKAGE, "probe", name, Probe, "probes") for name in names(PACKAGE)}


def read_probes(tables: Mapping[str, Table], where: str) -> dict[str, Probe]:
    """The probes of [probes] by name, one table each; thumbnails are always among them.

    Errors: `UserError` with the nearest name.
    """
    found = {}
    for name, fields in {"thumbnails": {}, **tables}.items():
        found[name] = read(find(PACKAGE, "probe", name, Probe, where), fields, f"{where}.{name}")
    return found


def identity(probe: Probe) -> Table:
    """What of a probe is in the key of its stage; which row it looks at say the stage's parents."""
    fields = {key: part for key, part in plain(probe).items() if key != "rows"}
    return {"name": name_of(probe), "version": probe.version, **fields}


def from_identity(held: Mapping[str, Any], where: str) -> Probe:
    """The probe that an identity in a key describes."""
    kind = find(PACKAGE, "probe", held["name"], Probe, where)
    return read(kind, {key: part for key, part in held.items() if key not in ("name", "version")}, where)


def placed(images: Images) -> dict[str, NDArray[Any]]:
    """Which images these are: `image` (n,) int32 positions in the official split, `label` (n,) int16."""
    return {
        "image": images.index.cpu().numpy().astype(np.int32),
        "label": images.labels.cpu().numpy().astype(np.int16),
    }


def attacked(subject: Subject, part: Images) -> tuple[Tensor, Tensor]:
    """The adversarial images (n, c, h, w) as the judge saw them worst, and which of them are wrong: (n,) bool."""
    assert subject.classifier is not None
    assert subject.threat is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adversarial.npz"
        judges = {"probe": subject.attacks}
        judge(subject.classifier, part, Trial(threat=subject.threat, judges=judges, seed=subject.seed, save=path))
        with np.load(path, allow_pickle=False) as file:
            found, broken = (torch.from_numpy(file[name]) for name in ("adversarial", "broken"))
    return found.to(part.pixels.device), broken


def write_arrays(path: Path, arrays: Arrays) -> None:
    """An `.npz` without pickle, of the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path.write_bytes(buffer.getvalue())
