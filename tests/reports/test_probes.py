"""What readers find of the probes of a run folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from robustcl.models.errors import UserError
from robustcl.reports.folder import RunFolder


def folder(root: Path, *, finished: bool = True) -> Path:
    entry = {"probe": "thumbnails", "encoder": "", "method": "", "scheme": "", "data": "digits", "seeds": {}}
    suite = {"schema": 1, "suite": "s", "resolved": {}, "cells": [], "probes": [entry | {"stage": "00ff"}]}
    place = root / "probe" / "00ff"
    place.mkdir(parents=True)
    (root / "suite.json").write_text(json.dumps(suite))
    if finished:
        (place / "stage.json").write_text(json.dumps({"part": {"images": 3}, "parents": {}}))
        np.savez(place / "arrays.npz", label=np.arange(3))
    return root


def test_what_a_finished_probe_wrote(tmp_path: Path) -> None:
    run = RunFolder(folder(tmp_path / "runs"))
    (found,) = run.probes("thumbnails")
    assert (found.data, found.part, found.arrays["label"].tolist()) == ("digits", {"images": 3}, [0, 1, 2])
    assert run.probes("examples") == []


def test_what_is_not_finished_or_from_before_probes_is_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path / "runs", finished=False)
    assert RunFolder(root).probes("thumbnails") == []
    (root / "suite.json").write_text(json.dumps({"schema": 1, "suite": "s", "resolved": {}, "cells": []}))
    assert RunFolder(root).probes("thumbnails") == []


def test_damaged_arrays_are_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "runs")
    path = root / "probe" / "00ff" / "arrays.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"arrays\.npz: damaged or truncated, expected the whole arrays of a probe"):
        RunFolder(root).probes("thumbnails")
