"""Every kind of file that is read, with a bit flipped or its end cut off: named in one line, or the same to the bit."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from robustcl.bench import locks
from robustcl.bench.adversarial import Saved
from robustcl.bench.attacks import judges
from robustcl.bench.corruptions import corrupted
from robustcl.bench.data import read_dataset
from robustcl.bench.datasets.npz import Npz
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.probes.landscape import _kept
from robustcl.bench.runner import Job, make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.store import Stage
from robustcl.models import checkpoint
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.pseudo_labels import load_labels, save_labels
from robustcl.reports.baseline import Baseline, read_baseline, rows_of, write_baseline
from robustcl.reports.folder import RunFolder
from tests.bench.killed import setting
from tests.bench.official import WRITERS
from tests.bench.tiny import Quiet, network, one_line, write_suite
from tests.faults.damage import damages, survive

LABELS = "\n[labels.groups]\nencoder = 'at'\nk = [3]\n"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run; readers are given its damaged files, and it is whole again after each test."""
    folder = tmp_path_factory.mktemp("bits")
    more = LABELS + "[pretrain.advcl]\nmethod = 'advcl'\nlabels = 'groups'\nstrong = 'digits'\nweak = 'digits-weak'\n"
    more += "ascent = { steps = 1 }\ntraining = { epochs = 1, batch = 512 }\n[table]\nrows = ['advcl']\n"
    made = prepare(write_suite(folder, more=more), runs=folder / "runs", overrides=["judge.judges=['pgd-1']"])
    make(made, Quiet(), workers=1)
    return made


def stage_of(job: Job, kind: str) -> Stage:
    return [stage for stage in job.plan.stages if stage.kind == kind][-1]


def frozen(module: Any) -> str:
    return checkpoint.fingerprint(module)


def table(path: Path) -> list[Any]:
    """A frame as plain lists."""
    records = RunFolder(path).records
    return [records[name].astype(str).tolist() for name in records]


def test_what_a_stage_says_of_itself(job: Job) -> None:
    store, stage = job.place.store, stage_of(job, "evaluate")
    path = store.folder(stage) / "stage.json"
    held = sorted(json.loads(path.read_text()).keys() - {"seal"})
    found = survive(path, lambda: {key: store.note(stage)[key] for key in held}, flips=500)
    assert found.named > 20 * found.harmless
    run = RunFolder(store.root)
    survive(path, lambda: {key: (run.stage(stage.key) or {})[key] for key in held}, flips=100, seed=1)


def test_the_suite_of_a_run_folder(job: Job) -> None:
    store = job.place.store
    read = lambda: {key: RunFolder(store.root).suite[key] for key in ("suite", "cells", "resolved", "probes")}  # noqa: E731
    assert survive(store.root / "suite.json", read, flips=400).named > 400
    survive(store.root / "suite.json", lambda: store.suite("tiny"), flips=200, seed=1)


def test_records_and_the_table_made_of_them(job: Job) -> None:
    store = job.place.store
    path = store.folder(stage_of(job, "evaluate")) / "records.parquet"
    assert survive(path, lambda: table(store.root), flips=100, cuts=10).harmless == 0


@pytest.mark.parametrize(("kind", "name"), [("pretrain", "curve.csv"), ("finetune", "curve.csv")])
def test_curves(job: Job, kind: str, name: str) -> None:
    store, stage = job.place.store, stage_of(job, kind)
    read = lambda: (RunFolder(store.root).curve(stage.key)).to_dict()  # type: ignore[union-attr]  # noqa: E731
    assert survive(store.folder(stage) / name, read).harmless == 0


def test_arrays_of_probes_such_as_thumbnails(job: Job) -> None:
    store, stage = job.place.store, stage_of(job, "probe")

    def read() -> list[str]:
        return [
            str({name: of.tobytes() for name, of in p.arrays.items()})
            for p in RunFolder(store.root).probes("thumbnails")
        ]

    assert survive(store.folder(stage) / "arrays.npz", read, flips=100).harmless == 0


@pytest.mark.parametrize("name", ["labels.npz", "balance.json"])
def test_labels_and_their_balance(job: Job, name: str) -> None:
    store, stage = job.place.store, stage_of(job, "labels")
    assert survive(store.folder(stage) / name, lambda: store.file(stage, name)).harmless == 0


def test_labels_of_the_user_s(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    save_labels(path, {3: torch.arange(40) % 3, 12: torch.arange(40) % 12})
    survive(path, lambda: {k: part.tolist() for k, part in load_labels(path, 40).items()}, flips=500)


@pytest.mark.parametrize(
    ("kind", "name", "load"),
    [
        ("pretrain", "encoder.safetensors", lambda path: frozen(checkpoint.load_encoder(path, "all"))),
        ("finetune", "classifier.safetensors", lambda path: frozen(checkpoint.load_classifier(path))),
    ],
)
def test_weights(job: Job, tmp_path: Path, kind: str, name: str, load: Callable[[Path], str]) -> None:
    """As the store hands them out, and as a file that has left it."""
    store, stage = job.place.store, stage_of(job, kind)
    path = store.folder(stage) / name
    assert survive(path, lambda: load(store.file(stage, name)), flips=50, cuts=5).harmless == 0
    alone = Path(shutil.copy(path, tmp_path / name))
    assert survive(alone, lambda: load(alone), flips=250).harmless < 5


def test_the_state_of_a_training(tmp_path: Path) -> None:
    """A flipped weight would train on, and end in another number."""
    path = tmp_path / "training.safetensors"
    tensors = {"net/w": torch.arange(300.0), "coreset": torch.arange(5), "net/n": torch.tensor(3)}
    checkpoint.write(path, "training", {"identity": "x", "history": json.dumps([{"loss": 0.1}])}, tensors)

    def read() -> Any:
        found = checkpoint.read(path)
        return found.kind, found.description, {name: of.tolist() for name, of in found.tensors.items()}

    found = survive(path, read, flips=300)
    assert found.named > 280
    assert found.harmless < 20, "the names of what older files lack, and no more"


def test_finished_batches_and_their_note(tmp_path: Path) -> None:
    """A batch that has changed is attacked again; the note of another run is named."""
    images, trial = setting("pgd", tmp_path / "keep")
    rows = judge(network(), images, trial)

    def read() -> Any:
        return judge(network(), images, trial).to_dict()

    path = sorted((tmp_path / "keep").glob("*.npz"))[0]
    assert survive(path, read, flips=40, cuts=5).named == 0
    survive(tmp_path / "keep" / "protocol.json", read, names="keep", flips=60, cuts=5)
    assert judge(network(), images, trial).equals(rows)


def test_what_corruptions_and_landscapes_have_finished(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    np.save(tmp_path / "fog.npy", g.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(12) % 10, 5))
    pixels = torch.from_numpy(g.random((12, 1, 4, 4), dtype=np.float32))
    images = Images(pixels, torch.arange(12) % 10, classes=10, name="random")
    files = {name: tmp_path / f"{name}.npy" for name in ("labels", "fog")}
    keep = tmp_path / "keep"

    def read() -> Any:
        return corrupted(network(), images, files, [1], keep=keep).to_dict()

    read()
    (path,) = keep.iterdir()
    found = survive(path, read, flips=60, cuts=5)
    assert found.named == 0
    _kept(tmp_path, 0, lambda: [0.5, 0.25])
    assert survive(tmp_path / "row-0000", lambda: _kept(tmp_path, 0, lambda: [0.5, 0.25]).tolist()).named == 0


def test_adversarial_images(tmp_path: Path) -> None:
    images, trial = setting("pgd", None)
    path = tmp_path / "adversarial.npz"
    judge(network(), images, Trial(threat=trial.threat, judges=judges(["pgd-1"], 10), save=path))

    def read() -> Any:
        held = Trial(threat=Threat("1/40"), judges={"saved": [Saved(path=path)]})
        return judge(network(), images, held).to_dict()

    survive(path, read, flips=150)


def test_baselines_and_older_ones_without_a_digest(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "baseline.parquet"
    rows = rows_of(RunFolder(job.place.store.root).records)
    write_baseline(path, Baseline(rows=rows, about={"suite": "tiny"}))

    def read() -> Any:
        held = read_baseline(path)
        arrays = [array.tolist() for row in held.rows for array in (row.image, row.label, row.right)]
        return (
            dict(held.about),
            [(row.key, row.fingerprint, row.content, row.protocol, row.why) for row in held.rows],
            arrays,
        )

    assert survive(path, read, flips=300).named > 250
    table = pq.read_table(path)
    expected = read()
    pq.write_table(table, path)
    assert read() == expected, "an older file"


def test_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "four.npz"
    g = np.random.default_rng(0)
    arrays = {f"{s}_images": g.integers(0, 256, (12, 4, 4), dtype=np.uint8) for s in ("train", "test")}
    np.savez(path, **arrays, **{f"{s}_labels": np.arange(12) % 4 for s in ("train", "test")})  # type: ignore[arg-type]

    def read() -> Any:
        return [(part.pixels.tolist(), part.labels.tolist(), part.index.tolist()) for part in Npz(path=path).load()]

    assert survive(path, read, flips=400).named > 250


def test_a_suite_is_text_and_a_wrong_value_is_refused(tmp_path: Path) -> None:
    """No checksum says that `width = 5` was a 4: what is read is a suite, or one line."""
    path = write_suite(tmp_path)
    whole = path.read_bytes()
    refused = 0
    for content in damages(whole, flips=250):
        path.write_bytes(content)
        try:
            read_suite(path, [])
        except UserError as error:
            one_line(error)
            refused += 1
    assert refused > 100


def test_lock_files_stop_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), locks.claimed(path):
        raise ZeroDivisionError
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        held = locks.holder(path)
        assert held is None or not held.alive
    with locks.claimed(path, wait=False) as mine:
        assert mine


@pytest.mark.parametrize("name", ["mnist", "svhn", "stl10"])
def test_official_files_are_compared_with_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    WRITERS[name](tmp_path / name, monkeypatch)

    def read() -> str:
        held = hashlib.sha256()
        for part in read_dataset({"name": name, "path": str(tmp_path / name)}, "data").load():
            held.update(part.pixels.numpy().tobytes() + part.labels.numpy().tobytes())
        return held.hexdigest()

    path = max((path for path in (tmp_path / name).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    assert survive(path, read, flips=15, cuts=3).harmless == 0
