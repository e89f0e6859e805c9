"""What earlier versions wrote is read as it was meant, and what a later one wrote is refused in a line that says so."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from robustcl.bench import judged
from robustcl.bench.store import Store
from robustcl.models import checkpoint
from robustcl.models.errors import UserError
from robustcl.reports.baseline import read_baseline
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import frame
from tests.bench.tiny import one_line
from tests.old.values import rebuilt, values

HERE = Path(__file__).parent
VERSIONS = sorted(path.parent for path in HERE.glob("*/values.json"))
LAST = VERSIONS[-1]


def close(found: Any, meant: Any) -> Any:
    """What was meant, its numbers up to rounding, for a comparison with what is found."""
    if isinstance(meant, dict):
        assert list(found) == list(meant)
        return {key: close(found[key], part) for key, part in meant.items()}
    if isinstance(meant, list):
        assert len(found) == len(meant)
        return [close(one, part) for one, part in zip(found, meant, strict=True)]
    return pytest.approx(meant, rel=1e-5, abs=1e-4) if isinstance(meant, float) else meant


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_every_file_says_what_it_said(folder: Path) -> None:
    meant = json.loads((folder / "values.json").read_text())
    found = json.loads(json.dumps(values(folder), sort_keys=True))
    for part in meant:
        assert found[part] == close(found[part], meant[part]), part


def test_the_files_are_of_every_kind() -> None:
    """Else a format could go unread."""
    meant = json.loads((LAST / "values.json").read_text())
    assert {stage["kind"] for stage in meant["stages"].values()} >= {
        *("pretrain", "labels", "finetune", "evaluate", "corrupt", "probe"),
    }
    assert {held["kind"] for held in meant["weights"].values()} == {"encoder", "classifier", "training"}
    assert {name.split()[-1] for name in meant["numbers"]} == {
        *("clean", "pgd-3", "autoattack", "aa-estimate", "corruptions"),
    }
    assert any(of["designs"] for of in meant["about"].values())
    assert set(meant["baselines"]) == {"baseline-1", "baseline-2"}
    assert meant["export"]
    counts = [meant["numbers"][f"at SLF 1/10 {judge}"]["right"] for judge in ("clean", "pgd-3", "autoattack")]
    assert counts[0] > counts[1] > counts[2] > 0, "answers of every kind"
    assert sum(path.stat().st_size for path in LAST.rglob("*")) < 400_000


def test_the_first_baseline_of_all() -> None:
    """Of the example repository, as it was first committed; its README said these numbers."""
    held = read_baseline(HERE / "first-baseline.parquet")
    assert [(row.encoder, row.judge, row.n, int(row.right.sum())) for row in held.rows] == [
        ("net", "clean", 360, 353),
        ("net", "pgd-20", 360, 290),
        ("net", "apgd-ce", 360, 288),
    ]


def json_of_later(path: Path) -> None:
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"schema": 9}))


def parquet_of_later(path: Path) -> None:
    table = pq.read_table(path)
    versions = (b"robustcl.records", b"robustcl.baseline")
    told = {key: b"9" if key in versions else of for key, of in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(told), path)


def weights_of_later(path: Path) -> None:
    header = json.dumps({"schema": 9, "kind": "encoder", "description": {}})
    save_file({"x": np.zeros(1)}, path, metadata={"robustcl": header})


def finished(root: Path, kind: str) -> Path:
    return next(root.glob(f"run/{kind}/*"))


def in_order(root: Path) -> Path:
    """The run folder, with notes that fit what lies beside them."""
    for path in root.glob("run/evaluate/*/stage.json"):
        content = hashlib.sha256((path.parent / "records.parquet").read_bytes()).hexdigest()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {"records.parquet": content}}))
    return root / "run"


def records_of(root: Path) -> Any:
    """The records of a stage as a later stage reads them."""
    stage = rebuilt(RunFolder(in_order(root)), finished(root, "evaluate").name)
    return judged.records_of(stage, Store(root / "run"))


def stage_of(root: Path) -> Any:
    run = RunFolder(root / "run")
    return run.stage(finished(root, "pretrain").name)


READERS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Any]]] = {
    "suite, by a reader": ("run/suite.json", json_of_later, lambda root: frame(root / "run")),
    "suite, by a writer": ("run/suite.json", json_of_later, lambda root: Store(root / "run").suite("old")),
    "stage, by a reader": ("run/pretrain/*/stage.json", json_of_later, stage_of),
    "records, by a reader": ("run/evaluate/*/records.parquet", parquet_of_later, lambda root: frame(in_order(root))),
    "records, by a stage": ("run/evaluate/*/records.parquet", parquet_of_later, records_of),
    "baseline": ("baseline-1.parquet", parquet_of_later, lambda root: read_baseline(root / "baseline-1.parquet")),
    "weights": (
        "run/pretrain/*/encoder.safetensors",
        weights_of_later,
        lambda root: checkpoint.load_encoder(finished(root, "pretrain") / "encoder.safetensors"),
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_a_later_version_wrote_is_refused(tmp_path: Path, reader: str) -> None:
    name, harm, read = READERS[reader]
    root = Path(shutil.copytree(LAST, tmp_path / "old"))
    read(root)
    for path in root.glob(name):
        harm(path)
    with pytest.raises(UserError) as caught:
        read(root)
    said = one_line(caught.value)
    assert name.rpartition("/")[2] in said
    assert "9" in said.rpartition(name.rpartition("/")[2])[2]
    assert "expected" in said
    assert "damaged" not in said


def test_the_stage_of_a_later_version_is_not_made_anew(tmp_path: Path) -> None:
    """Nor are its files taken for what they may no longer be."""
    root = Path(shutil.copytree(LAST, tmp_path / "old"))
    stage = rebuilt(RunFolder(root / "run"), finished(root, "pretrain").name)
    json_of_later(finished(root, "pretrain") / "stage.json")
    with pytest.raises(UserError, match=r"stage\.json: schema 9, expected 1") as caught:
        Store(root / "run").file(stage, "encoder.safetensors")
    assert one_line(caught.value)
