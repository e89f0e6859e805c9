"""The only owner of what is looked for in a run folder: files, stages that are not whole, records."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_TIMES = ("stage.json", "log.jsonl")  # files that say when and how fast, as pages of encoders do
_UNSEEN = (".locks", ".writing-")  # claims; a report under way, of which a killed one is swept up later


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What lies in a folder: the visible files by their paths, the finished stages, and those begun (hidden)."""

    files: dict[str, str]
    stages: list[str]
    begun: list[str]

    def unlike(self, other: "Findings") -> list[str]:
        """What differs from another folder, in lines."""
        names = sorted(self.files.keys() | other.files.keys())
        odd = [f"{name} {_how(self.files.get(name), other.files.get(name))}" for name in names]
        left = [f"{name} is left" for name in self.begun]
        return [line for line in odd if not line.endswith(" same")] + left


def look(root: Path, *, ordered: bool = True) -> Findings:
    """What lies in a folder, links apart. Files that hold times, and reports whose order may be another one, count as
    there or not there."""
    files, stages, begun = {}, [], []
    for folder, below, names in os.walk(root):
        here = Path(folder)
        hidden = [name for name in below if name.startswith(".")]
        begun += [str((here / name).relative_to(root)) for name in hidden if not name.startswith(_UNSEEN)]
        below[:] = [name for name in below if name not in hidden]
        stages += [str(here.relative_to(root))] if "stage.json" in names else []
        for name in names:
            told = name in _TIMES or here.match("report/encoders") or (not ordered and "report" in here.parts)
            files[str((here / name).relative_to(root))] = "" if told else _content(here / name)
    return Findings(files=files, stages=sorted(stages), begun=begun)


def damage(root: Path) -> list[str]:
    """The visible stages that are not whole, in lines: what is there is what `stage.json` says, byte for byte."""
    return [f"{folder.relative_to(root)}: {odd}" for folder in _visible(root) if (odd := _odd(folder))]


def records(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every visible file of records: image, judge, attack."""
    found = {}
    for path in (folder / "records.parquet" for folder in _visible(root)):
        if path.is_file():
            table = pq.read_table(path, columns=["image", "judge", "attack"]).to_pandas()
            found[str(path.relative_to(root))] = list(table.itertuples(index=False, name=None))
    return found


def _visible(root: Path) -> Iterator[Path]:
    for kind in sorted((root / "runs").glob("[!.]*")):
        if kind.is_dir() and kind.name != "report":
            yield from (path for path in sorted(kind.glob("[!.]*")) if not path.is_symlink())


def _odd(folder: Path) -> str:
    try:
        note = json.loads((folder / "stage.json").read_text())
        there = {path.name: _sha256(path) for path in folder.iterdir() if path.name != "stage.json"}
    except (OSError, ValueError) as error:
        return str(error)
    if note["key"] != folder.name:
        return f"key {note['key']}"
    return "" if there == note["files"] else f"holds {sorted(there)}, its stage.json says {sorted(note['files'])}"


def _content(path: Path) -> str:
    """What a file holds; of a suite's cells and probes not the order, which is that of who came first."""
    if path.name != "suite.json":
        return _sha256(path)
    held = json.loads(path.read_text())
    parts = {key: sorted(json.dumps(one, sort_keys=True) for one in held.pop(key)) for key in ("cells", "probes")}
    return hashlib.sha256(json.dumps([held, parts], sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _how(here: str | None, there: str | None) -> str:
    if here is None or there is None:
        return "is missing" if here is None else "is there, where nobody killed it is not"
    return "same" if here == there else "holds other bytes"
