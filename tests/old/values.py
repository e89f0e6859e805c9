"""The only owner of what old files say: every one is read by today's reader, and comes to plain numbers and text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from robustcl.bench.adversarial import Saved
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.store import Stage, Store
from robustcl.models import checkpoint
from robustcl.models.threat import Threat
from robustcl.pretraining.pseudo_labels import load_labels
from robustcl.reports import robustbench
from robustcl.reports.about import read_about
from robustcl.reports.baseline import read_baseline
from robustcl.reports.check import check
from robustcl.reports.folder import RunFolder
from robustcl.reports.verdicts import summary

_NUMBERS = ("n", "right", "accuracy", "low", "high", "set_low", "set_high", "passes")


def values(folder: Path) -> dict[str, Any]:
    """What the files in the folder of a version say, as JSON can hold it."""
    run = RunFolder(folder / "run")
    return {
        "suite": {"name": run.suite["suite"], "cells": len(run.cells), "points": run.suite["resolved"]["points"]},
        "numbers": numbers(run.records),
        "records": records(run.records),
        "about": {path.parent.name: about(path) for path in sorted(folder.glob("run/*/*/records.parquet"))},
        "stages": stages(run),
        "weights": {str(path.relative_to(folder)): weights(path) for path in sorted(folder.rglob("*.safetensors"))},
        "probes": {
            f"{of.probe} {of.encoder}": {name: arrays(held) for name, held in of.arrays.items()}
            for name in ("thumbnails", "frequency", "landscape")
            for of in run.probes(name)
        },
        "baselines": {path.stem: baseline(path, run.records) for path in sorted(folder.glob("baseline-*.parquet"))},
        "export": robustbench.model_info(run.records, robustbench.networks(run)),
        "adversarial": adversarial(folder / "adversarial.npz", run),
    }


def numbers(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Every number of the table with its interval, by cell and judge."""
    found = {}
    for _, row in summary(frame).iterrows():
        name = " ".join(str(row[key]) for key in ("encoder", "scheme", "eps", "judge"))
        found[name] = {key: plain(row[key]) for key in (*_NUMBERS, "reliability", "fingerprint")}
    return found


def records(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By judge and attack, what the columns of the records add up to."""
    columns = ["image", "label", "answer", "right", "margin", "distance", "step", "passes"]
    parts = frame.groupby(["stage", "judge", "attack"], observed=True)[columns]
    sums = parts.sum().join(parts.size().rename("rows"))
    return {" ".join(map(str, key)): {str(name): plain(of) for name, of in row.items()} for key, row in sums.iterrows()}  # type: ignore[union-attr]


def about(path: Path) -> dict[str, Any]:
    """What a file of records says of itself."""
    held = read_about(path)
    found = [[one.check, one.verdict, one.value] for one in held.reliability.findings] if held.reliability else []
    designs = {judge: [design.share, len(design.phases)] for judge, design in held.designs.items()}
    return {"threat": dict(held.threat), "prints": dict(held.fingerprints), "findings": found, "designs": designs}


def stages(run: RunFolder) -> dict[str, Any]:
    """Every stage by its key, which today's code makes of what is written; its files as the store finds them."""
    store, found = Store(run.root), {}
    for path in sorted(run.root.glob("*/[!.]*/stage.json")):
        stage = rebuilt(run, path.parent.name)
        names = {name: store.file(stage, name).stat().st_size for name in store.note(stage)["files"]}
        curve = run.curve(stage.key)
        last = {} if curve is None or curve.empty else {str(k): plain(of) for k, of in curve.iloc[-1].items()}
        found[stage.key] = {"label": stage.label, "kind": stage.kind, "files": names, "curve": last}
        if stage.kind == "labels":
            labels = load_labels(store.file(stage, "labels.npz"), 128)
            found[stage.key]["labels"] = {str(k): of.bincount().tolist() for k, of in labels.items()}
    return found


def rebuilt(run: RunFolder, key: str) -> Stage:
    """A stage from its `stage.json` and those of its parents."""
    note = run.stage(key)
    assert note is not None
    parents = {role: rebuilt(run, parent) for role, parent in note["parents"].items()}
    return Stage(kind=note["kind"], part=note["part"], parents=parents, label=note["label"])


def weights(path: Path) -> dict[str, Any]:
    """What a file of weights holds; of a network, what it answers to a grey image."""
    held = checkpoint.read(path)
    total = sum(float(tensor.double().abs().sum()) for tensor in held.tensors.values())
    said = {"kind": held.kind, "tensors": len(held.tensors), "sum": total}
    if held.kind == "training":
        return said | {"history": json.loads(held.description["history"])}
    load = checkpoint.load_encoder if held.kind == "encoder" else checkpoint.load_classifier
    with torch.no_grad():
        answer = load(path)(torch.full((1, 1, 8, 8), 0.5))
    return said | {"answer": [round(float(one), 5) for one in answer[0]]}


def baseline(path: Path, frame: pd.DataFrame) -> dict[str, Any]:
    """The rows of a baseline, and the check of the run that it was made from."""
    held = read_baseline(path)
    rows = [
        [row.encoder, row.scheme, row.judge, row.threat, row.n, row.accuracy, int(row.right.sum())] for row in held.rows
    ]
    return {"about": dict(held.about), "rows": rows, "check": check(frame, held).outcome}


def adversarial(path: Path, run: RunFolder) -> dict[str, Any]:
    """Saved images, judged again on the network that they were made for."""
    classifier = checkpoint.load_classifier(next(run.root.glob("finetune/*/classifier.safetensors")))
    images = Digits().load().test.take(slice(0, 8))
    found = judge(classifier, images, Trial(threat=Threat("1/10"), judges={"saved": [Saved(path=path)]}))
    return {str(name): int(count) for name, count in found.groupby("judge")["right"].sum().items()}


def arrays(held: NDArray[Any]) -> list[Any]:
    """Shape, type and sum of an array."""
    return [list(held.shape), str(held.dtype), float(np.nan_to_num(held.astype(np.float64)).sum())]


def plain(of: Any) -> Any:
    """A number or text of pandas as JSON has it; None for what is missing."""
    if isinstance(of, str):
        return of
    return None if pd.isna(of) else of.item() if hasattr(of, "item") else of
