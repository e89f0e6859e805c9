"""NaN and infinity, wherever they come from: one line that says where, exit code 4 or 2, and nothing is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench import records
from robustcl.bench.datasets.npz import Npz
from robustcl.bench.evaluate import judge
from robustcl.bench.runner import make, prepare
from robustcl.models import checkpoint
from robustcl.models.architecture import read_architecture
from robustcl.models.encoder import Encoder
from robustcl.models.errors import NumberError, UserError
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Net, Targets, build_net, read_method
from robustcl.pretraining.pseudo_labels import ClusterFit, cluster
from robustcl.pretraining.selection import Validation
from tests.bench.killed import ATTACKS, setting
from tests.bench.tiny import Quiet, network, one_line, write_suite

ODD = [torch.nan, torch.inf, -torch.inf]


class Odd(nn.Module):
    """`network`, of which some answers, or some gradients, are no numbers: `where` (n,) says for which images."""

    def __init__(self, where: Callable[[Tensor], Tensor], number: float, *, gradient: bool = False) -> None:
        super().__init__()
        self.model, self.where, self.number, self.gradient = network(), where, number, gradient

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.model(x)
        odd = self.where(x)[:, None].expand_as(answer)
        if not self.gradient:
            return torch.where(odd, self.number, answer)
        if answer.requires_grad:
            answer.register_hook(lambda gradient: torch.where(odd, self.number, gradient))
        return answer


@pytest.mark.parametrize("number", ODD)
@pytest.mark.parametrize("workers", [1, 2])
def test_one_image_whose_answer_is_no_number_is_named(tmp_path: Path, number: float, workers: int) -> None:
    images, trial = setting("pgd", tmp_path)
    odd = images.floats(slice(5, 6))
    model = Odd(lambda x: (x == odd).flatten(1).all(1), number)
    with pytest.raises(NumberError) as caught:
        judge(model, images, replace(trial, workers=workers))
    assert one_line(str(caught.value)) == f"model: the answer to image {int(images.index[5])} is not finite"
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("number", ODD)
@pytest.mark.parametrize(("name", "workers"), [("pgd", 2), ("apgd-ce", 1), ("apgd-t", 1), ("fab", 1), ("square", 1)])
def test_an_answer_that_is_no_number_under_attack_is_named(
    tmp_path: Path, name: str, workers: int, number: float
) -> None:
    images, trial = setting(name, tmp_path)
    clean = {image.numpy().tobytes() for image in images.floats(slice(None))}
    model = Odd(lambda x: torch.tensor([one.detach().numpy().tobytes() not in clean for one in x]), number)
    with pytest.raises(NumberError, match=r"model: the answer to image \d+ under attack is not finite") as caught:
        judge(model, images, replace(trial, workers=workers, judges={name: [ATTACKS[name]]}))
    one_line(str(caught.value))


@pytest.mark.parametrize("number", ODD)
@pytest.mark.parametrize("name", ["pgd", "apgd-t", "fab"])
def test_a_gradient_that_is_no_number_moves_nothing_and_no_number_is_made_of_it(name: str, number: float) -> None:
    images, trial = setting(name, None)
    model = Odd(lambda x: torch.ones(len(x), dtype=torch.bool), number, gradient=True)
    found = judge(model, images, trial)
    assert np.isfinite(found[["margin", "distance"]].to_numpy()).all()
    assert (found["distance"] <= float(trial.threat.eps) + 1e-6).all()


def test_records_without_numbers_are_not_written(tmp_path: Path) -> None:
    images, trial = setting("pgd", None)
    found = judge(network(), images, trial)
    for column, number in (("margin", np.nan), ("margin", np.inf), ("distance", np.nan)):
        odd = found.copy()
        odd.loc[3, column] = number
        with pytest.raises(NumberError, match=f"the {column} of image {odd['image'].iloc[3]} is not finite"):
            records.write(tmp_path / "records.parquet", odd)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [np.nan, np.inf, -0.5, 1.5, 255.0])
def test_images_that_are_no_numbers_or_out_of_range_are_the_user_s(tmp_path: Path, number: float) -> None:
    grey = np.full((4, 4, 4), 0.5, dtype=np.float32)
    arrays: dict[str, Any] = {"train_images": grey, "test_images": grey.copy()}
    arrays["test_images"][2, 1, 1] = number
    labels: dict[str, Any] = {f"{split}_labels": np.arange(4) for split in ("train", "test")}
    np.savez(tmp_path / "odd.npz", **arrays, **labels)
    with pytest.raises(UserError, match=r"in image 2|expected \[0, 1\]") as caught:
        Npz(path=tmp_path / "odd.npz").load()
    assert one_line(caught.value).startswith("odd test: ")


def test_labels_that_are_no_numbers_are_the_user_s(tmp_path: Path) -> None:
    images: dict[str, Any] = {f"{split}_images": np.zeros((4, 4, 4), dtype=np.uint8) for split in ("train", "test")}
    labels: dict[str, Any] = {f"{split}_labels": np.array([0, 1, np.nan, 2]) for split in ("train", "test")}
    np.savez(tmp_path / "odd.npz", **images, **labels)
    with pytest.raises(UserError, match="labels of type float64") as caught:
        Npz(path=tmp_path / "odd.npz").load()
    one_line(caught.value)


def small() -> tuple[Any, Net, Images]:
    """A method with a monitor, its net, and images."""
    training = {"epochs": 1, "batch": 16, "monitor": {"every": 1, "hold_out": 4, "k": 3}}
    table: dict[str, Any] = {"method": "supervised", "objective": "clean", "weak": "digits-weak", "training": training}
    pixels = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(32) % 2, classes=2, name="random")
    method = read_method(table, "pretrain")
    return method, build_net(method, encoder(), Targets(classes=2), 0), images


def encoder() -> Encoder:
    return Encoder(read_architecture({"name": "tiny", "width": 4, "blocks": [1]}, "encoder"), (1, 8, 8), seed=0)


def test_features_of_the_monitor_that_are_no_numbers_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    method, net, images = small()
    true = Encoder.forward

    def forward(self: Encoder, x: Tensor, route: str | None = None) -> Tensor:
        return true(self, x, route) if self.training else true(self, x, route) * torch.inf

    monkeypatch.setattr(Encoder, "forward", forward)
    with pytest.raises(NumberError, match="monitor: features are not finite") as caught:
        fit(method, net, images, Run(seed=0, where="pretrain at"))
    one_line(str(caught.value))


def test_answers_of_a_validation_that_are_no_numbers_choose_no_epoch() -> None:
    _, net, images = small()
    with torch.no_grad():
        next(net.heads.parameters()).fill_(torch.nan)
    with pytest.raises(NumberError, match="validation: answers are not finite") as caught:
        Validation(images, None, 0).measure(net, [{"epoch": 1}])
    one_line(str(caught.value))


@pytest.mark.parametrize("number", ODD)
def test_features_that_are_no_numbers_are_not_clustered(number: float) -> None:
    _, _, images = small()
    for where in (slice(None), slice(3, 4)):

        def features(x: Tensor, where: slice = where) -> Tensor:
            found = x.flatten(1).clone()
            found[where] = number
            return found

        with pytest.raises(UserError, match="labels: features that are NaN or infinite") as caught:
            cluster(features, images, ClusterFit(k=(2,)), 0)
        one_line(caught.value)


def test_weights_that_are_no_numbers_end_a_stage_and_leave_none(tmp_path: Path) -> None:
    """An encoder from a file that nobody asked whether it knows the images."""
    held = encoder()
    with torch.no_grad():
        next(held.parameters()).fill_(torch.nan)
    checkpoint.save_encoder(tmp_path / "nan.safetensors", held, held.routes[0])
    more = f"\n[pretrain.odd]\ncheckpoint = '{tmp_path / 'nan.safetensors'}'\nprobe = false\n[table]\nrows = ['odd']\n"
    job = prepare(write_suite(tmp_path, more=more), runs=tmp_path / "runs")
    with pytest.raises(NumberError, match="not finite") as caught:
        make(job, Quiet(), workers=1)
    one_line(str(caught.value))
    made = [stage.label for stage in job.plan.stages if job.place.store.has(stage) and " odd" in stage.label]
    assert made == ["import odd"]
