"""The Python front door, as the README uses it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import robustcl
from robustcl.bench.pgd import PGD
from robustcl.models.checkpoint import save_encoder
from robustcl.models.errors import UserError
from tests.bench.tiny import images_for, network, one_line, visible, write_suite
from tests.models.official import advcl

ROOT = Path(__file__).resolve().parent.parent
THREAT = robustcl.Threat("8/255", norm="linf")


def test_evaluate_any_torch_model() -> None:
    model = network()
    images = images_for(model, 12)
    done = robustcl.evaluate(
        model, images.pixels, images.labels, threat=THREAT, attacks=["pgd-20", "apgd-ce"], seed=0, batch_size=8
    )
    assert done.clean.tolist() == [False] * 2 + [True] * 10
    assert list(done.robust) == ["pgd-20", "apgd-ce"]
    assert all(right.shape == (12,) and right.dtype == np.bool_ for right in done.robust.values())
    assert done.worst.shape == (12,)
    assert 0 < done.worst.sum() <= 10
    assert set(done.records["attack"]) == {"clean", "pgd-20", "apgd-ce"}
    text = str(done)
    assert "linf 8/255" in text
    assert "n = 12" in text
    assert "83.3" in text, "10 of 12 are right"
    assert sum(line.startswith("|") for line in text.splitlines()) >= 3


def test_uint8_images_are_the_same_images() -> None:
    model = network()
    held = images_for(model, 20)
    grey = (held.pixels * 255).round().to(torch.uint8)
    one, other = (
        robustcl.evaluate(model, pixels, held.labels, threat=THREAT, attacks=["pgd-5"])
        for pixels in (grey, grey.float() / 255)
    )
    assert one.records.equals(other.records)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda x, y: (x * 255, y), "expected [0, 1]; are they 0 to 255?"),
        (lambda x, y: (x - 0.5, y), "is the normalisation inside the model?"),
        (lambda x, y: (x.index_fill(0, torch.tensor([3]), float("nan")), y), "NaN or infinity in image 3"),
        (lambda x, y: (x, y + 5), "expected 0 to 9 (10 classes)"),
        (lambda x, y: (x, y - 20), "expected 0 to 9 (10 classes)"),
        (lambda x, y: (x, y[:5]), "labels of shape (5,), expected (12,)"),
        (lambda x, y: (x.flatten(1), y), "expected (n, channels, height, width)"),
        (lambda x, y: (x.double(), y), "images of type torch.float64"),
        (lambda x, y: (x[:0], y[:0]), "n > 0"),
    ],
)
def test_bad_images_and_labels_are_one_line(harm: object, says: str) -> None:
    model = network()
    held = images_for(model, 12)
    assert callable(harm)
    images, labels = harm(held.pixels, held.labels)
    with pytest.raises(UserError) as caught:
        robustcl.evaluate(model, images, labels, threat=THREAT, attacks=["pgd-1"])
    assert says in one_line(caught.value)


def test_a_threat_is_asked_for() -> None:
    model = network()
    held = images_for(model)
    with pytest.raises(UserError, match="expected a Threat such as"):
        robustcl.evaluate(model, held.pixels, held.labels, threat="8/255")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean '8/255'"):
        robustcl.Threat("0.0314")


def test_run_answers_with_a_report_and_from_the_store(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    done = robustcl.run(suite, runs=tmp_path / "runs", workers=1)
    assert "at" in done.text
    assert "random" in done.text
    assert all(path.is_file() for path in done.paths)
    before = visible(tmp_path / "runs")
    assert robustcl.run(suite, runs=tmp_path / "runs", workers=1).text == done.text
    assert visible(tmp_path / "runs") == before
    assert set(robustcl.frame(tmp_path / "runs")["judge"]) >= {"clean", "pgd-3", "apgd-ce"}


def test_pretrain_then_load_encoder(tmp_path: Path) -> None:
    from robustcl.bench.datasets.digits import Digits
    from robustcl.pretraining.method import Training
    from robustcl.pretraining.methods.supervised import Supervised

    train = Digits().load().train.take(slice(0, 64))
    method = Supervised(objective="clean", training=Training(epochs=1, batch=32))
    table = {"name": "tiny", "width": 4, "blocks": [1]}
    encoder = robustcl.pretrain(method, train.pixels, labels=train.labels, encoder=table)
    save_encoder(tmp_path / "encoder.safetensors", encoder, method.deploy)
    back = robustcl.load_encoder(tmp_path / "encoder.safetensors")
    x = train.floats(slice(0, 8))
    with torch.no_grad():
        assert torch.equal(back(x), encoder.eval()(x, "normal"))
    with pytest.raises(UserError, match="images of shape"):
        back(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="expected labels="):
        robustcl.pretrain(method, train.pixels, encoder=table)


def test_load_encoder_reads_files_of_other_projects(tmp_path: Path) -> None:
    net, file = advcl()
    torch.save(file, tmp_path / "epoch_1000.ckpt")
    x = torch.rand(2, 3, 32, 32)
    for branch, route in enumerate(("normal", "pgd", "pgd_ce")):
        encoder = robustcl.load_encoder(tmp_path / "epoch_1000.ckpt", route)
        torch.testing.assert_close(encoder(x), net.features(x, branch), atol=1e-5, rtol=1e-5)
    encoder, report = robustcl.import_encoder(tmp_path / "epoch_1000.ckpt", layout="a_infonce")
    assert (encoder.routes, report.layout) == (("pgd",), "a_infonce")
    with pytest.raises(UserError, match="no such file"):
        robustcl.load_encoder(tmp_path / "nowhere.ckpt")


def test_from_a_folder_with_a_models_package_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("MINE = 1\n")
    suite = write_suite(tmp_path)
    program = (
        "import models, robustcl\n"
        "assert models.MINE == 1\n"
        "assert robustcl.Encoder.__module__ == 'robustcl.models.encoder'\n"
        f"print(robustcl.run({str(suite)!r}, runs='mine', workers=2).text)\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "random" in done.stdout
    assert (tmp_path / "mine" / "suite.json").is_file()


def test_modules_that_are_no_nn_module_are_judged_too() -> None:
    model = network()
    held = images_for(model, 12)
    assert isinstance(model, nn.Module)
    one, other = (
        robustcl.evaluate(asked, held.pixels, held.labels, threat=THREAT, attacks=["pgd-5"])
        for asked in (model, lambda x: model(x))
    )
    assert one.records.equals(other.records)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": [0.5]}, "images of type list"),
        ({"labels": torch.zeros(4)}, "labels of type torch.float32"),
        ({"labels": torch.zeros(4, dtype=torch.bool)}, "labels of type torch.bool"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -3}, "seed -3"),
        ({"attacks": "pgd-5"}, "is one text"),
        ({"attacks": ["pgd-5", PGD(steps=5, step="eps/2")]}, "two are named 'pgd-5'"),
    ],
)
def test_more_mistakes_are_one_line(change: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"images": torch.rand(4, 1, 8, 8), "labels": torch.zeros(4, dtype=torch.int64)}
    given |= {"threat": robustcl.Threat("1/10"), "attacks": ["pgd-1"], **change}
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(robustcl.UserError, match=says) as error:
        robustcl.evaluate(model, given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [torch.full((16,), 7), torch.zeros(5, dtype=torch.int64)])
def test_pseudo_labels_that_do_not_fit_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(robustcl.UserError, match="expected 16 labels below 2"):
        robustcl.pretrain("advcl", torch.rand(16, 1, 8, 8), pseudo={2: labels}, encoder="tiny")


def test_pretrain_is_given_what_a_method_needs() -> None:
    from robustcl.bench.datasets.digits import Digits
    from robustcl.pretraining.method import named

    train = Digits().load().train.take(slice(0, 64))
    table = {"name": "tiny", "width": 4, "blocks": [1]}
    short = {"weak": "digits-weak", "ascent": {"steps": 1}, "training": {"epochs": 1, "batch": 32}}
    method = named("deacl", short)
    teacher = robustcl.pretrain(
        named("supervised", short), train.pixels, labels=train.labels, encoder=table, threat=THREAT
    )
    given = {"teacher": teacher.keep("normal")}
    student = robustcl.pretrain(method, train.pixels, encoder=table, threat=THREAT, given=given)
    assert student.routes == method.routes
    for wrong, says in (
        (None, "needs an encoder as its teacher"),
        ({**given, "start": teacher}, "given 'start', the method needs teacher"),
    ):
        with pytest.raises(UserError) as caught:
            robustcl.pretrain(method, train.pixels, encoder=table, threat=THREAT, given=wrong)
        assert says in one_line(caught.value)


@pytest.mark.parametrize(("reach", "verdict"), [(1, "ok"), (3, "suspect")])
def test_a_callable_that_aims_beyond_the_ball_is_told(reach: int, verdict: str) -> None:
    def far(
        model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: robustcl.Threat, g: torch.Generator
    ) -> torch.Tensor:
        return (x + reach * float(threat.eps)).clamp(0, 1)

    model = network()
    images = images_for(model)
    done = robustcl.evaluate(model, images.pixels, images.labels, threat=robustcl.Threat("1/20"), attacks=[far])
    assert done.reliability is not None
    (finding,) = (one for one in done.reliability.findings if one.check == "strays")
    assert (finding.verdict, finding.judges) == (verdict, ("far",))
    assert (finding.value > 0.9) == bool(finding.next) == (verdict == "suspect")
    assert finding in done.reliability.against("far") or verdict == "ok"
