"""The only owner of a synthetic run folder with all that a page has to show, and of reading pages."""

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from tests.reports.synthetic import JUDGES, answers, cell, found, told, write_run

HOSTILE = "<b>\"x\" & 'y' | a/b"
MADE = {
    "robustcl": "0.1.0", "versions": {"torch": "2.0"}, "python": "3.11", "system": "Linux", "machine": "x86_64",
    "processor": "Some CPU", "cores": 2,
    "commit": "0123456789abcdef", "dirty": True, "device": "cpu", "seconds": 90.0, "peak_memory": 300 * 2**20,
}  # fmt: skip


def varied(folder: Path) -> Path:
    """Two data sets, two threats, two schemes; a random encoder, a suspect row, an unfinished one, a hostile name."""
    cells: list[tuple[Mapping[str, Any], Any]] = []
    strength = {"random": (9, 3), "simclr": (70, 4), "advcl": (66, 44), HOSTILE: (65, 42)}
    places = [("digits", "1/10", scheme, encoder) for scheme in ("SLF", "AFF") for encoder in strength]
    places += [("mnist", "1/5", "SLF", encoder) for encoder in ("advcl", HOSTILE)] + [("mnist", "1/5", "AFF", "simclr")]
    for place, (data, eps, scheme, encoder) in enumerate(places):
        clean, robust = strength[encoder]
        method = "random" if encoder == "random" else "simclr"
        one = cell(encoder, scheme, eps, data=data, stage=f"{place:02d}", method=method)
        if (encoder, scheme) == ("advcl", "AFF"):
            one |= {"about": told(found("zero_gradients", "suspect", "pgd-20")), "protocol": "external data"}
        rows = answers(100, clean, {"pgd-20": robust, "autoattack": robust - 2}, JUDGES)
        cells.append((one, None if (data, scheme) == ("mnist", "AFF") else rows))
    write_run(folder, cells)
    lineage(folder, "02")
    thumbnails(folder, "digits", 100)
    return folder


def lineage(folder: Path, key: str) -> None:
    """The stages behind the cell of this stage: an encoder and its classifier, with their curves."""
    curve = "epoch,lr,loss,contrast,pseudo\n1,0.1,5,4,1\n2,0.1,3,2.5,0.5\n3,0.1,2,1.5,0.5\n"
    method = {"name": "advcl", "version": 1, "training": {"coreset": None}}
    scheme = {"name": "labelled", "version": 1, "objective": "trades"}
    stage(folder, "pretrain", "aa", {"method": method, "seed": 3}, {}, curve)
    stage(folder, "finetune", "bb", {"scheme": scheme, "seed": 3}, {"encoder": "aa"}, curve)
    stage(folder, "evaluate", key, {"seed": 3}, {"classifier": "bb"})
    (folder / "pretrain" / "aa" / "encoder.safetensors").write_bytes(b"weights")


def stage(
    folder: Path, kind: str, key: str, part: Mapping[str, Any], parents: Mapping[str, str], curve: str = ""
) -> None:
    """One finished stage with its notes."""
    place = folder / kind / key
    place.mkdir(parents=True, exist_ok=True)
    label = f"{kind} advcl"
    note = {"kind": kind, "key": key, "label": label, "part": part, "parents": parents, "made": MADE}
    (place / "stage.json").write_text(json.dumps(note))
    if curve:
        (place / "curve.csv").write_text(curve)


def thumbnails(folder: Path, data: str, n: int) -> None:
    """The pixels of the first n images, as the probe leaves them."""
    suite = json.loads((folder / "suite.json").read_text())
    entry = {"probe": "thumbnails", "encoder": "", "method": "", "scheme": "", "data": data, "seeds": {}}
    suite["probes"] = [entry | {"stage": "cc"}]
    (folder / "suite.json").write_text(json.dumps(suite))
    stage(folder, "probe", "cc", {}, {})
    pixels = np.arange(n * 3 * 4 * 4, dtype=np.uint8).reshape(n, 3, 4, 4)
    image, label = np.arange(n, dtype=np.int32), np.ones(n, dtype=np.int16)
    np.savez(folder / "probe" / "cc" / "arrays.npz", image=image, label=label, pixels=pixels)


class Page(HTMLParser):
    """A page as a reader of tags sees it: `links` (href and src), `ids`, `tags`, and the text of what lies in a tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        held = dict(attrs)
        self.links += [str(held[name]) for name in ("href", "src") if held.get(name)]
        self.ids += [str(held["id"])] if held.get("id") else []

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] if data.strip() else []

    @property
    def text(self) -> str:
        """All text, one piece after the other."""
        return " ".join(self.texts)
