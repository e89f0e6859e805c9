"""The only owner of the fuzz of run folders: suite.json, records, stages and curves, up to the tables."""

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random

from robustcl.reports.folder import RunFolder
from tests.fuzz.changes import either, json_changed, parquet_changed
from tests.fuzz.desk import folder, laid
from tests.fuzz.target import Target
from tests.reports.synthetic import answers, cell, found, told, write_run

STAGE = "at-SLF-1_10"
FILES = ("suite.json", f"evaluate/{STAGE}/records.parquet", f"evaluate/{STAGE}/stage.json", "pretrain/at/curve.csv")
JUDGES = {"pgd-20": ["pgd-20"]}


def read(data: bytes) -> None:
    """A run folder with one file from outside; the first byte says which."""
    which = data[0] % len(FILES) if data else 0
    whole = _whole()
    for name, content in whole.items():
        laid(data[1:] if name == FILES[which] else content, f"run/{name}")
    run = RunFolder(folder() / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if which < 2:
            assert len(run.tables) >= 0
        elif which == 2:
            run.lineage(STAGE)
        else:
            run.curve("at")


_KEPT: dict[str, bytes] = {}


def _whole() -> Mapping[str, bytes]:
    """The files of a whole run folder: one encoder, ten images, one judge, what the checks found."""
    if not _KEPT:
        rows = answers(10, 8, {"pgd-20": 3}, JUDGES)
        of = cell("at", "SLF", judges=JUDGES, about=told(found("fifty-times", "suspect", "pgd-20")))
        with tempfile.TemporaryDirectory() as made:
            run = write_run(Path(made) / "run", [(of, rows)])
            stage = {"schema": 1, "kind": "evaluate", "key": STAGE, "label": "x", "part": {}, "parents": {}, "made": {}}
            (run / FILES[2]).write_text(json.dumps(stage))
            (run / "pretrain" / "at").mkdir(parents=True)
            (run / FILES[3]).write_text("epoch,loss\n0,1.5\n1,1.25\n")
            _KEPT.update({name: (run / name).read_bytes() for name in FILES})
    return _KEPT


def seeds() -> Mapping[str, bytes]:
    """Each of the files as it is."""
    return {Path(name).name: bytes([which]) + _whole()[name] for which, name in enumerate(FILES)}


def lines_changed(data: bytes, draw: Random) -> bytes:
    """Text with cells exchanged, lost or doubled."""
    pieces = data.replace(b",", b"\0,\0").replace(b"\n", b"\0\n\0").split(b"\0")
    for _ in range(draw.randint(1, 3)):
        odd = draw.choice((b"", b"nan", b"x", b'"', b"\xff", b",", draw.choice(pieces)))
        pieces[draw.randrange(len(pieces))] = odd
    return b"".join(pieces)


TARGET = Target(
    read=read, seeds=seeds, mutate=either(json_changed, parquet_changed, json_changed, lines_changed), share=0.06
)
