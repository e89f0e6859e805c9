"""Paths in files: none leads out of the folder that it lies in."""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from robustcl.bench import fetch
from robustcl.bench.datasets.tiny_imagenet import TinyImagenet
from robustcl.models.errors import UserError
from robustcl.models.naming import is_file_name
from robustcl.models.vision import torchvision
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import frame
from tests.bench import official
from tests.reports.synthetic import answers, cell, write_run

JUDGES = {"pgd-20": ["pgd-20"]}
OUT = ("../secret", "../../secret", "/etc", "..", ".", "", "a/b", "a\\b", "*/../secret", "x" * 300)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of one cell, and beside it a folder that looks like a stage."""
    made = write_run(tmp_path / "runs", [(cell("at", "SLF", judges=JUDGES), answers(4, 3, {"pgd-20": 2}, JUDGES))])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "stage.json").write_text('{"kind": "pretrain", "parents": {}}')
    (tmp_path / "secret" / "records.parquet").write_bytes(next(made.rglob("records.parquet")).read_bytes())
    return made


def changed(run: Path, change: Callable[[dict[str, object]], None]) -> Path:
    """The run folder with another first cell."""
    suite = json.loads((run / "suite.json").read_text())
    change(suite["cells"][0])
    (run / "suite.json").write_text(json.dumps(suite))
    return run


@pytest.mark.parametrize("key", OUT)
@pytest.mark.parametrize("role", ["stage", "corrupt"])
def test_a_cell_names_a_stage_of_its_own_folder(run: Path, key: str, role: str) -> None:
    with pytest.raises(UserError, match="is no stage"):
        frame(changed(run, lambda of: of.update({role: key})))


@pytest.mark.parametrize("key", OUT)
def test_a_stage_is_built_on_stages_of_its_own_folder(run: Path, key: str) -> None:
    stage = next(run.rglob("records.parquet")).parent
    (stage / "stage.json").write_text(json.dumps({"parents": {"encoder": key}}))
    with pytest.raises(UserError, match="is no stage"):
        RunFolder(run).lineage(stage.name)


@pytest.mark.parametrize("key", OUT)
def test_a_probe_lies_in_its_own_folder(run: Path, key: str) -> None:
    suite = json.loads((run / "suite.json").read_text())
    suite["probes"] = [{"probe": "thumbnails", "stage": key}]
    (run / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match="is no stage"):
        RunFolder(run).probes("thumbnails")


def test_a_key_is_no_pattern(run: Path) -> None:
    assert RunFolder(run).file("*", "records.parquet") is None
    assert RunFolder(run).file(next(run.rglob("records.parquet")).parent.name, "records.parquet") is not None


def test_stages_in_a_circle_are_a_line(run: Path) -> None:
    stage = next(run.rglob("records.parquet")).parent
    (stage / "stage.json").write_text(json.dumps({"parents": {"encoder": stage.name}}))
    with pytest.raises(UserError, match="is built on itself"):
        RunFolder(run).lineage(stage.name)


@pytest.mark.parametrize("picture", ["../../../../secret.JPEG", "/secret.JPEG", "..", ""])
def test_lists_of_pictures_name_pictures_of_their_own_folder(tmp_path: Path, picture: str) -> None:
    folder = official.tiny_imagenet(tmp_path / "data")
    lines = folder / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    lines.write_text(f"{picture}\tn01\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match="line 1 is wrong"):
        TinyImagenet(path=folder).read()
    classes = folder / "tiny-imagenet-200" / "wnids.txt"
    classes.write_text(f"n01\n{picture}\n")
    with pytest.raises(UserError, match=r"is no class|line 1 is wrong"):
        TinyImagenet(path=folder).read()


@pytest.mark.parametrize("member", ["../out.txt", "/tmp/robustcl-out.txt", "CIFAR-10-C/../../out.txt"])
def test_a_downloaded_archive_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    def download(url: str, folder: Path, name: str, md5: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / name, "w") as file:
            file.addfile(tarfile.TarInfo(member), io.BytesIO())

    monkeypatch.setattr(torchvision().datasets.utils, "download_url", download)
    place = tmp_path / "data"
    with contextlib.suppress(UserError):
        fetch.fetch("cifar10-c", place)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert not Path("/tmp/robustcl-out.txt").exists()


@pytest.mark.parametrize(
    ("name", "fine"),
    [("aa00", True), ("a b", True), ("..", False), (".hidden", True), ("a/b", False), ("a\0", False), (7, False),
     ("", False), ("\x1b", False), ("a\\b", False), ("\u00e9", True)],
)  # fmt: skip
def test_what_is_the_name_of_a_file(name: object, fine: bool) -> None:
    assert is_file_name(name) is fine
