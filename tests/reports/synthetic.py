"""The only owner of synthetic run folders: what `bench` leaves on disk, with answers that a test chooses."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

JUDGES = {"pgd-20": ["pgd-20"], "autoattack": ["apgd-ce", "apgd-t", "fab-t", "square"]}
TYPES = pa.schema(
    [
        ("image", pa.int32()),
        ("label", pa.int16()),
        ("judge", pa.dictionary(pa.int8(), pa.string())),
        ("attack", pa.dictionary(pa.int8(), pa.string())),
        ("answer", pa.int16()),
        ("right", pa.bool_()),
        ("margin", pa.float32()),
        ("distance", pa.float32()),
        ("step", pa.int32()),
        ("passes", pa.int32()),
    ]
)
Row = tuple[int, str, str, bool]


def records(rows: Sequence[Row]) -> pd.DataFrame:
    """Records from (image, judge, attack, right); the label is 1, the passes are 1 clean and 10 per attack."""
    return pd.DataFrame(
        [
            {
                "image": image,
                "label": 1,
                "judge": judge,
                "attack": attack,
                "answer": 1 if right else 0,
                "right": right,
                "margin": 0.5 if right else -0.5,
                "distance": 0.0 if judge == "clean" else 0.1,
                "step": -1 if right else 0,
                "passes": 1 if judge == "clean" else 10,
            }
            for image, judge, attack, right in rows
        ]
    )


def cell(encoder: str, scheme: str, eps: str = "1/10", **changes: Any) -> dict[str, Any]:
    """A cell of a suite: headline, digits, linf."""
    made = {
        "encoder": encoder,
        "method": encoder,
        "scheme": scheme,
        "data": "digits",
        "classes": 10,
        "norm": "linf",
        "eps": eps,
        "headline": True,
        "judges": JUDGES,
        "seeds": {"pretrain": 0, "finetune": 0, "judge": 0},
        "protocol": "last epoch, float32 judge",
        "stage": f"{encoder}-{scheme}-{eps}".replace("/", "_").replace("%", "_"),
    }
    return made | changes


def answers(n: int, clean: int, robust: Mapping[str, int], judges: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Records of n images of which the first `clean` are right and the first `robust[judge]` survive every attack.

    Broken images are broken by the first attack of the judge, and later attacks are not tried on them.
    """
    rows: list[Row] = []
    for image in range(n):
        rows.append((image, "clean", "clean", image < clean))
        for judge, attacks in judges.items() if image < clean else ():
            survives = image < robust[judge]
            rows += [(image, judge, attack, survives) for attack in (attacks if survives else attacks[:1])]
    return records(rows)


def save(path: Path, rows: pd.DataFrame, version: bytes = b"1", about: Mapping[str, Any] | None = None) -> None:
    """Write records as `bench` does, with what they say of themselves."""
    table = pa.Table.from_pandas(rows, schema=TYPES, preserve_index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {b"robustcl.about": json.dumps(about).encode()} if about else {}
    pq.write_table(table.replace_schema_metadata({b"robustcl.records": version, **told}), path)


def found(check: str, verdict: str, *judges: str) -> dict[str, Any]:
    """A finding of a check, as a file holds it."""
    next_ = "" if verdict == "ok" else f"help {check}"
    return {
        "check": check, "value": 0.5, "verdict": verdict, "found": f"half of {check}", "next": next_, "judges": judges
    }  # fmt: skip


def told(*findings: Mapping[str, Any]) -> dict[str, Any]:
    """What records say of themselves where these findings were made."""
    return {"reliability": {"findings": findings, "images": 128, "passes": 9000, "version": 1}}


def write_run(folder: Path, cells: Sequence[tuple[Mapping[str, Any], pd.DataFrame | None]]) -> Path:
    """A run folder with these cells; one without records is not finished. `about` of a cell goes into its records."""
    shown = [{name: held for name, held in cell.items() if name != "about"} for cell, _ in cells]
    suite = {"schema": 1, "suite": "quickstart", "resolved": {}, "cells": shown}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(json.dumps(suite), encoding="utf-8")
    for one, rows in cells:
        if rows is not None:
            save(folder / "evaluate" / one["stage"] / "records.parquet", rows, about=one.get("about"))
    return folder


CURVES = {"random": (30, 0.02), "simclr": (90, 0.02), "at": (80, 0.13), "advcl": (93, 0.14), "advcl-full": (91, 0.17)}


def plausible(folder: Path, encoders: Sequence[str] = tuple(CURVES), n: int = 360, radii: int = 8) -> Path:
    """A whole suite: encoders under SLF and AFF at eps 1/10, and a PGD-20 sweep over `radii` values of eps."""
    cells: list[tuple[dict[str, Any], pd.DataFrame | None]] = []
    for encoder in encoders:
        for scheme in ("SLF", "AFF"):
            top, reach = CURVES[encoder]
            reach += 0.04 * (scheme == "AFF")
            clean = round(n * (top - 3 * (scheme == "AFF")) / 100)

            def alive(eps: float, clean: int = clean, reach: float = reach) -> int:
                return round(clean / (1 + math.exp((eps - reach) / 0.02)))

            robust = {"pgd-20": alive(0.1), "autoattack": int(0.93 * alive(0.1))}
            cells.append((cell(encoder, scheme), answers(n, clean, robust, JUDGES)))
            for step in range(1, radii + 1):
                eps, pgd = f"{step}/40", {"pgd-20": JUDGES["pgd-20"]}
                of = cell(encoder, scheme, eps, headline=False, judges=pgd)
                cells.append((of, answers(n, clean, {"pgd-20": alive(step / 40)}, pgd)))
    return write_run(folder, cells)
