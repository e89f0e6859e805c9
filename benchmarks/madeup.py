"""The only owner of run folders that nobody ran: many cells of records as evaluations write them, of drawn answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustcl.bench import records

IMAGES, CLASSES, SCHEMES = 10_000, 10, ("SLF", "ALF", "SFF", "AFF")
JUDGES = {"pgd-20": ["pgd-20"], "autoattack": ["apgd-ce", "apgd-t", "fab-t", "square"]}
_ROWS = 50  # encoders of a table
_BROKEN = {"pgd-20": 0.30, "apgd-ce": 0.32, "apgd-t": 0.04, "fab-t": 0.005, "square": 0.002}  # of those that are left


def write_run(folder: Path, cells: int) -> dict[str, int]:
    """Write so many cells of 10,000 images, 50 encoders under four schemes to a table: records and bytes."""
    listed = [_cell(number) for number in range(cells)]
    suite = {"schema": 1, "suite": "madeup", "resolved": {}, "cells": listed}
    (folder / "suite.json").write_text(json.dumps(suite), encoding="utf-8")
    count = size = 0
    for number, cell in enumerate(listed):
        made = answers(np.random.default_rng(number))
        path = folder / "evaluate" / cell["stage"] / "records.parquet"
        path.parent.mkdir(parents=True)
        records.write(path, made)
        count, size = count + len(made), size + path.stat().st_size
    return {"records": count, "bytes": size}


def answers(g: np.random.Generator, images: int = IMAGES) -> pd.DataFrame:
    """The records of one cell: four images in five are right clean, and attacks break their shares of what is left."""
    label = np.arange(images, dtype=np.int16) % CLASSES
    clean = g.random(images) < 0.8
    parts = [_rows(g, np.arange(images), label, "clean", "clean", clean)]
    for judge, attacks in JUDGES.items():
        left = np.flatnonzero(clean)
        for attack in attacks:
            right = g.random(len(left)) >= _BROKEN[attack]
            parts.append(_rows(g, left, label, judge, attack, right))
            left = left[right]
    made = pd.concat(parts, ignore_index=True).sort_values("image", kind="stable", ignore_index=True)
    return made.astype({"judge": "category", "attack": "category"})


def _rows(g: np.random.Generator, image: Any, label: Any, judge: str, attack: str, right: Any) -> pd.DataFrame:
    n, free = len(image), judge == "clean"
    wrong = (label[image] + g.integers(1, CLASSES, n)) % CLASSES
    steps = 20 if judge == "pgd-20" else 100
    return pd.DataFrame(
        {
            "image": image.astype(np.int32),
            "label": label[image],
            "judge": judge,
            "attack": attack,
            "answer": np.where(right, label[image], wrong).astype(np.int16),
            "right": right,
            "margin": (np.where(right, 1, -1) * g.random(n)).astype(np.float32),
            "distance": np.full(n, 0.0 if free else 8 / 255, dtype=np.float32),
            "step": np.where(right, -1, g.integers(0, steps, n)).astype(np.int32),
            "passes": np.full(n, 1 if free else 2 * steps, dtype=np.int32),
        }
    )


def _cell(number: int) -> dict[str, Any]:
    row, scheme = number % _ROWS, SCHEMES[number // _ROWS % len(SCHEMES)]
    table = number // (_ROWS * len(SCHEMES))
    return {
        "encoder": f"encoder {row}",
        "method": "simclr",
        "scheme": scheme,
        "data": f"set {table}",
        "classes": CLASSES,
        "norm": "linf",
        "eps": "8/255",
        "headline": True,
        "judges": JUDGES,
        "fingerprints": {},
        "seeds": {"pretrain": 0, "finetune": 0, "judge": 0},
        "protocol": "last epoch",
        "terms": {},
        "stage": f"{number:016x}",
    }
