"""Images without labels in a suite: STL-10's, which pretrain, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robustcl.bench.data import read_dataset
from robustcl.bench.library import Library
from robustcl.bench.plan import Plan, plan
from robustcl.bench.runner import make, prepare
from robustcl.bench.spec import read_suite
from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from tests.bench import official
from tests.bench.tiny import TINY, Quiet, one_line

SIMCLR = '[pretrain.at]\nmethod = "simclr"\nstrong = "digits"\ntraining = { epochs = 1, batch = 5 }\n'
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    folder = official.stl10(tmp_path / "stl", monkeypatch)

    def made(pretrain: str = "unlabelled", method: str = SIMCLR) -> Path:
        head, _, tail = TINY.partition("[pretrain.at]")
        text = head + method + tail[tail.index("[finetune") :]
        data = f'name = "stl10"\npath = "{folder}"\nsize = 8\npretrain = "{pretrain}"\n'
        path = tmp_path / "stl.toml"
        path.write_text(text.replace('name = "digits"\n', data).replace("images = 40", "images = 4"))
        return path

    return made


def data_of(made: Plan) -> dict[str, set[str]]:
    """The fingerprints of the images that every kind of stage reads."""
    found: dict[str, set[str]] = {}
    for stage in made.stages:
        found.setdefault(stage.kind, set()).add(stage.part["data"])
    return found


def test_encoders_are_pretrained_on_them_and_on_nothing_else(write: Write, tmp_path: Path) -> None:
    path = write()
    (suite,) = read_suite(path)
    images = suite.data.unlabelled()
    assert images is not None
    train, test = suite.data.load()
    found = data_of(plan([suite], Library()))
    assert found["pretrain"] == {images.fingerprint}
    assert found["finetune"] == {train.fingerprint}
    assert found["evaluate"] == {test.sample(4).fingerprint}
    assert data_of(plan(read_suite(write("train")), Library()))["pretrain"] == {train.fingerprint}


def test_a_suite_runs_on_them(write: Write, tmp_path: Path) -> None:
    job = prepare(write(), runs=tmp_path / "runs")
    make(job, Quiet(), workers=1)
    made = frame(tmp_path / "runs")
    assert set(made["encoder"]) == {"random", "at"}
    assert set(made["data"]) == {"stl10"}
    assert set(made["image"]) <= set(range(6))


def test_a_method_that_reads_labels_has_none(write: Write) -> None:
    supervised = '[pretrain.at]\nmethod = "supervised"\nobjective = "clean"\nweak = "digits-weak"\n'
    with pytest.raises(UserError) as caught:
        plan(read_suite(write(method=supervised)), Library())
    assert "stl.pretrain.at: the method reads labels, expected [data] with labels" in one_line(caught.value)
    assert plan(read_suite(write("train", supervised)), Library()).cells


def test_they_are_looked_for_last(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (suite,) = read_suite(write())
    fingerprint = suite.data.load().test.fingerprint
    monkeypatch.setattr(type(suite.data), "unlabelled", lambda self: pytest.fail("read for nothing"))
    library = Library([suite.data, read_dataset({"name": "digits"}, "data")])
    assert library.find(fingerprint, "evaluate").fingerprint == fingerprint
    digits = read_dataset({"name": "digits"}, "data").load().test.fingerprint
    assert library.find(digits, "evaluate").fingerprint == digits
