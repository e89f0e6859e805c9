"""The only owner of the fuzz of baselines: the file that a gate compares with."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustcl.reports.baseline import Baseline, Row, names, read_baseline, write_baseline
from robustcl.reports.estimate import Estimate
from tests.fuzz.changes import parquet_changed
from tests.fuzz.desk import laid
from tests.fuzz.target import Target


def read(data: bytes) -> None:
    """A baseline, and what its rows are called."""
    found = read_baseline(laid(data, "baseline.parquet"))
    names(found.rows)
    for row in found.rows:
        assert row.n == len(row.image)
        _ = row.accuracy, row.threat, row.seed_text, row.key


def seeds() -> Mapping[str, bytes]:
    """A baseline of verdicts, and one with an estimate."""
    image = np.arange(5, dtype=np.int32)
    row = Row(
        encoder="at", scheme="SLF", data="digits", norm="linf", eps="1/10", judge="pgd-20", seeds={"pretrain": 0},
        fingerprint="pgd-20 [x]", image=image, label=image.astype(np.int16), right=image < 3,
    )  # fmt: skip
    estimate = Estimate(n=5, right=4, broken={0.5: 1}, least=0.25)
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        for name, rows in {
            "verdicts": (row, replace(row, judge="clean")),
            "estimate": (replace(row, estimate=estimate),),
        }.items():
            write_baseline(path, Baseline(rows=rows, about={"suite": "x"}))
            made[name] = path.read_bytes()
    return made


TARGET = Target(read=read, seeds=seeds, mutate=parquet_changed, share=0.1)
