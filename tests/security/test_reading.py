"""Files that would run code, were they read as other programs read them: refused in one line, and nothing has run."""

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustcl
from robustcl.bench.adversarial import Saved
from robustcl.bench.corruptions import check
from robustcl.bench.datasets.cifar10 import Cifar10
from robustcl.bench.datasets.npz import Npz
from robustcl.models import checkpoint
from robustcl.models.arrays import read_arrays
from robustcl.models.errors import UserError
from robustcl.models.vision import torchvision
from robustcl.pretraining.images import Images
from robustcl.pretraining.pseudo_labels import load_labels
from robustcl.reports.baseline import read_baseline
from robustcl.reports.folder import RunFolder, arrays_of
from robustcl.reports.frame import frame
from robustcl.reports.verified import verified
from tests.bench import official
from tests.security import hostile

IMAGES = Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), classes=10, name="cifar10 test")
READERS: dict[str, Callable[[Path], Any]] = {
    "foreign weights": lambda path: robustcl.import_encoder(path),
    "an encoder": lambda path: robustcl.load_encoder(path),
    "a checkpoint": checkpoint.load_classifier,
    "labels": lambda path: load_labels(path, 4),
    "a data set": lambda path: Npz(path=path).load(),
    "adversarial images": lambda path: Saved(path=path).cost(10),
    "corruptions": lambda path: check({"labels": path}, IMAGES),
    "probes": arrays_of,
    "a baseline": read_baseline,
}


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("kind", ["pickle", "torch", "old torch", "npy", "npz"])
def test_a_file_with_code_in_it_runs_nothing(tmp_path: Path, reader: str, kind: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "file.npz"
    names = ("k_2", "train_images", "train_labels", "test_images", "test_labels", "adversarial", "judge", "image")
    contents = {
        "pickle": lambda: hostile.pickled(mark),
        "torch": lambda: hostile.saved(mark),
        "old torch": lambda: hostile.saved(mark, new=False),
        "npy": lambda: hostile.array(mark),
        "npz": lambda: hostile.arrays(mark, *names),
    }
    path.write_bytes(contents[kind]())
    with pytest.raises(UserError) as error:
        READERS[reader](path)
    assert str(error.value).isprintable()
    assert not mark.exists(), f"{reader} ran what a {kind} asks for"


def test_the_traps_work_where_they_are_read_as_code(tmp_path: Path) -> None:
    pickle.loads(hostile.pickled(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


def test_cifars_pickles_run_nothing_even_with_the_official_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = official.cifar(tmp_path / "data", monkeypatch, fine=False)
    kind, mark = torchvision().datasets.CIFAR10, tmp_path / "ran"
    file = folder / kind.base_folder / kind.train_list[0][0]
    file.write_bytes(pickle.dumps({"data": hostile.Trap(mark), "labels": []}, protocol=2))
    told = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "train_list", [[kind.train_list[0][0], told], *kind.train_list[1:]])
    with pytest.raises(UserError, match=r"data_batch_1: not readable \(asks for .*, which is never run\)"):
        Cifar10(path=folder).read()
    assert not mark.exists()


def test_reading_a_run_folder_imports_nothing_that_lies_in_it(tmp_path: Path) -> None:
    """A run folder, its working folder and names of methods in it bring no code along."""
    code = (
        "import sys\n"
        "from robustcl.reports.frame import frame\n"
        "from robustcl.models.errors import UserError\n"
        "try:\n    frame('runs')\nexcept UserError:\n    pass\n"
        "sys.exit('evil' in sys.modules)\n"
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    cells = '[{"encoder": "evil", "method": "evil", "scheme": "evil:run", "data": "evil.py:run"}]'
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "suite.json").write_text(f'{{"schema": 1, "suite": "evil.py:run", "cells": {cells}}}')
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=None)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(f"({10**12},)", "<i4"), (f"({2**62}, {2**62})", "|u1"), ("(-1,)", "|u1"), (f"({10**15},)", "|V0")],
)
def test_a_header_that_asks_for_all_memory_is_a_line_and_no_allocation(tmp_path: Path, shape: str, kind: str) -> None:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("k_2.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    with pytest.raises(UserError, match="promises an array of shape"):
        load_labels(path, 12)


def test_an_archive_that_unpacks_to_far_more_than_it_weighs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustcl.models.arrays.ROOM", 2**20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", bytes(2**22))
    with pytest.raises(ValueError, match="unpacks to 4194304 bytes, expected at most 100 times its size"):
        read_arrays(path)


def test_weights_that_unpack_to_far_more_than_they_weigh_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustcl.models.arrays.ROOM", 2**20)
    torch.save({"conv1.weight": torch.zeros(2**19)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"bomb\.pt: .*unpacks to \d+ bytes, expected at most 100 times its size"):
        robustcl.import_encoder(tmp_path / "bomb.pt")


def test_what_compresses_well_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(10**6, dtype=np.uint8))
    assert read_arrays(tmp_path / "zeros.npz")["x"].shape == (10**6,)


def test_a_description_of_a_network_that_no_machine_holds_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    described = {
        "architecture": {"name": "tiny", "width": 4096, "blocks": [1] * 8, "stride": 1},
        "shape": [1, 8, 8], "routes": ["normal"], "mean": [0.0], "std": [1.0], "deploy": "normal",
    }  # fmt: skip
    checkpoint.write(path, "encoder", described, {"x": torch.zeros(1)})
    with pytest.raises(UserError, match="matched 0/"):
        checkpoint.load_encoder(path)
    checkpoint.write(path, "classifier", {**described, "classes": 10**15}, {"x": torch.zeros(1)})
    with pytest.raises(UserError, match=r"huge\.safetensors"):
        checkpoint.load_classifier(path)


def test_records_that_promise_more_than_they_can_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.reports.synthetic import answers, cell, write_run

    judges = {"pgd-20": ["pgd-20"]}
    run = write_run(tmp_path / "runs", [(cell("at", "SLF", judges=judges), answers(10, 8, {"pgd-20": 3}, judges))])
    monkeypatch.setattr("robustcl.models.arrays.VALUES", 10)
    monkeypatch.setattr("robustcl.models.arrays.TIMES", 0)
    with pytest.raises(UserError, match=r"records\.parquet: promises 180 values"):
        frame(run)


@pytest.mark.parametrize("files", [None, [], "x", 5])
def test_a_note_of_a_stage_without_a_table_of_files_is_one_line(tmp_path: Path, files: object) -> None:
    (tmp_path / "stage.json").write_text(json.dumps({"schema": 1, "files": files}))
    (tmp_path / "curve.csv").write_text("epoch,loss\n")
    with pytest.raises(UserError, match=r"stage\.json: not as it was written"):
        verified(tmp_path / "curve.csv")


def test_a_stage_that_does_not_say_its_key_has_that_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pretrain" / "aa"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text('{"schema": 1}')
    assert (RunFolder(tmp_path).stage("aa") or {})["key"] == "aa"
