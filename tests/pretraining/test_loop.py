"""Tests of the loop: equal runs, a run that is stopped and goes on, and numbers that go wrong."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustcl.bench.data import DataSet, Splits
from robustcl.bench.library import Library
from robustcl.bench.place import Place
from robustcl.bench.stages import execute
from robustcl.bench.store import Stage, Store
from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import NumberError, UserError
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Batch, Method, Net, Targets, Training, Views, build_net, identity
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.simclr import SimCLR
from robustcl.pretraining.methods.supervised import Supervised
from robustcl.pretraining.monitor import Monitor
from robustcl.pretraining.optim import Constant, Cosine, Optimiser
from robustcl.pretraining.views import recipe

TRAINING = Training(epochs=4, batch=8, optimiser=Optimiser(lr=0.05), schedule=Cosine())
DIGITS, WEAK = recipe("digits"), recipe("digits-weak")
SIMCLR = SimCLR(training=TRAINING, strong=DIGITS, hidden=8, output=8)
METHODS: dict[str, Method] = {
    "simclr": SIMCLR,
    "lars": SimCLR(training=Training(epochs=4, batch=8, optimiser=Optimiser(name="lars", lr=1)), strong=DIGITS),
    "supervised": Supervised(training=TRAINING, weak=WEAK),
    "advcl": AdvCL(training=TRAINING, strong=DIGITS, weak=WEAK),
}


def images(n: int = 20, seed: int = 0) -> Images:
    pixels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.arange(n) % 3, classes=3, name="random")


def run(keep: Path | None = None, seed: int = 0, n: int = 20) -> Run:
    return Run(seed=seed, threat=Threat("8/255"), pseudo={2: torch.arange(n) % 2}, keep=keep)


def net(method: Method) -> Net:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes)
    return build_net(method, encoder, Targets(classes=3, pseudo=run().pseudo), seed=0)


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images of every step from now on."""
    seen: list[Tensor] = []
    views = SimCLR.views

    def spy(self: SimCLR, batch: Batch) -> Views:
        seen.append(batch.images)
        return views(self, batch)

    monkeypatch.setattr(SimCLR, "views", spy)
    return seen


def stop_after(epochs: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_are_equal_and_another_seed_is_not(name: str) -> None:
    prints, curves = [], []
    for seed in (0, 0, 1):
        trained = net(METHODS[name])
        curves.append(fit(METHODS[name], trained, images(), run(seed=seed)))
        prints.append(checkpoint.fingerprint(trained))
    assert prints[0] == prints[1] != prints[2]
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    method, whole = METHODS[name], net(METHODS[name])
    wanted = fit(method, whole, images(), run())
    keep = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(method, net(method), images(), replace(run(keep), report=stop_after(2)))
    resumed, reported = net(method), []
    found = fit(
        method, resumed, images(), replace(run(keep), report=lambda done, total: reported.append((done, total)))
    )
    assert reported == [(3, 4), (4, 4)]
    assert found == wanted
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)
    again = net(method)  # a run that was over does nothing
    assert fit(method, again, images(), run(keep)) == wanted
    assert checkpoint.fingerprint(again) == checkpoint.fingerprint(whole)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    keep = tmp_path / "state"
    fit(SIMCLR, net(SIMCLR), images(), run(keep))
    hotter = SimCLR(training=TRAINING, strong=DIGITS, hidden=8, output=8, temperature=0.6)
    supervised = METHODS["supervised"]
    for method, data, settings in (
        (SIMCLR, images(), run(keep, seed=1)),
        (SIMCLR, images(seed=1), run(keep)),
        (SIMCLR, images(), replace(run(keep), threat=Threat("4/255"))),
        (SIMCLR, images(), replace(run(keep), pseudo={})),
        (hotter, images(), run(keep)),
        (supervised, images(), run(keep)),
    ):
        with pytest.raises(UserError, match="the kept state of another run") as caught:
            fit(method, net(method), data, settings)
        assert str(caught.value).startswith(str(keep))
        assert "\n" not in str(caught.value)


def test_a_truncated_state_is_one_line(tmp_path: Path) -> None:
    keep = tmp_path / "state"
    fit(SIMCLR, net(SIMCLR), images(), run(keep))
    keep.write_bytes(keep.read_bytes()[:-50])
    with pytest.raises(UserError, match="truncated"):
        fit(SIMCLR, net(SIMCLR), images(), run(keep))


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, calls = tmp_path / "state", 0
    loss = SimCLR.loss

    def broken(self: SimCLR, *given: object) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {name: term * (float("nan") if calls == 5 else 1) for name, term in loss(self, *given).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(SimCLR, "loss", broken)
    with pytest.raises(NumberError, match=r"fit: the loss is not finite in epoch 2, step 2 of 3, .*contrast.*epoch 1"):
        fit(SIMCLR, net(SIMCLR), images(), run(keep))
    good = checkpoint.read(keep)
    assert len(good.description["history"].split("epoch")) == 2  # one epoch was good
    assert all(tensor.isfinite().all() for tensor in good.tensors.values())
    monkeypatch.undo()
    resumed, whole = net(SIMCLR), net(SIMCLR)
    assert fit(SIMCLR, resumed, images(), run(keep)) == fit(SIMCLR, whole, images(), run())
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)


def test_an_adversarial_method_without_a_threat_is_one_line() -> None:
    method = METHODS["advcl"]
    with pytest.raises(UserError, match=r"^fit: the method is adversarial, expected a threat"):
        fit(method, net(method), images(), replace(run(), threat=None))


def test_a_single_last_image_joins_the_batch_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_by(monkeypatch)
    fit(SIMCLR, net(SIMCLR), images(17), run(n=17))
    assert [len(part) for part in seen] == [8, 9] * 4


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = images(), seen_by(monkeypatch)
    fit(SIMCLR, net(SIMCLR), data, run())
    orders = [torch.cat(seen[at : at + 3]).flatten(1).sum(1) for at in range(0, 12, 3)]
    wanted = data.pixels.flatten(1).sum(1).sort().values
    assert all(torch.equal(order.sort().values, wanted) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def test_the_curve_has_a_row_per_epoch() -> None:
    trained = net(METHODS["advcl"])
    curve = fit(METHODS["advcl"], trained, images(), run())
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4]
    assert [row["lr"] for row in curve] == pytest.approx([Cosine().lr(0.05, epoch, 0, 3, 4) for epoch in range(4)])
    assert all(row["loss"] == pytest.approx(row["contrast"] + row["pseudo"]) for row in curve)
    assert not any(part.training for part in trained.modules())


def test_no_epochs_leave_the_weights() -> None:
    method = SimCLR(training=Training(epochs=0), strong=DIGITS)
    trained = net(method)
    before = checkpoint.fingerprint(trained)
    assert fit(method, trained, images(), run()) == []
    assert checkpoint.fingerprint(trained) == before


@pytest.mark.parametrize("name", ["simclr", "advcl"])
def test_snapshots_are_the_runs_that_end_there(name: str) -> None:
    method, seen = METHODS[name], dict[int, str]()

    def snapshot(epoch: int, encoder: Encoder) -> None:
        seen[epoch] = checkpoint.fingerprint(encoder)

    some = replace(method, training=replace(TRAINING, snapshots=(1, 3, 4), schedule=Constant()))
    trained, bare = net(some), net(some)
    fit(some, trained, images(), replace(run(), snapshot=snapshot))
    assert list(seen) == [1, 3, 4]
    assert seen[4] == checkpoint.fingerprint(trained.encoder)
    short = replace(method, training=replace(TRAINING, epochs=3, schedule=Constant()))
    fit(short, bare, images(), run())
    assert seen[3] == checkpoint.fingerprint(bare.encoder) != seen[1]


def test_a_snapshot_comes_before_the_state_so_that_no_resume_misses_one(tmp_path: Path) -> None:
    method, keep, seen = replace(SIMCLR, training=replace(TRAINING, snapshots=(2, 3))), tmp_path / "state", []

    def broken(epoch: int, encoder: Encoder) -> None:
        raise OSError("disk full")

    def snapshot(epoch: int, encoder: Encoder) -> None:
        seen.append((epoch, len(json.loads(checkpoint.read(keep).description["history"]))))

    with pytest.raises(OSError, match="disk full"):
        fit(method, net(method), images(), replace(run(keep), snapshot=broken))
    resumed, whole = net(method), net(method)
    fit(method, resumed, images(), replace(run(keep), snapshot=snapshot))
    assert seen == [(2, 1), (3, 2)]
    fit(method, whole, images(), run())
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)


def test_a_snapshot_beyond_the_end_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^Training: snapshots: 500, expected epochs from 1 to 100$"):
        Training(epochs=100, snapshots=(1, 500))
    with pytest.raises(UserError, match=r"^suite\.training\.snapshots\.0: 0 is wrong, expected greater than 0$"):
        read(Training, {"snapshots": [0]}, "suite.training")


def test_a_stopped_run_goes_on_to_the_same_measurements(tmp_path: Path) -> None:
    method = replace(SIMCLR, training=replace(TRAINING, monitor=Monitor(every=1, hold_out=4, k=3)))
    whole, resumed, keep = net(method), net(method), tmp_path / "state"
    wanted = fit(method, whole, images(), run())
    with pytest.raises(KeyboardInterrupt):
        fit(method, net(method), images(), replace(run(keep), report=stop_after(2)))
    assert fit(method, resumed, images(), run(keep)) == wanted
    assert all("robust_knn" in row for row in wanted)
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)


def test_a_stage_writes_its_snapshots_and_a_curve_with_blanks(tmp_path: Path) -> None:
    data = images(40)
    training = replace(TRAINING, snapshots=(1, 3), monitor=Monitor(every=3, hold_out=4, k=3))
    part = {
        "method": identity(replace(SIMCLR, training=training)),
        "encoder": {"architecture": {"name": "tiny", "width": 4}, "mean": None, "std": None},
        "threat": plain(Threat("8/255")),
        "data": data.fingerprint,
        "seed": 0,
    }
    stage = Stage(kind="pretrain", part=part, label="pretrain some")

    class Held(DataSet):
        def read(self) -> Splits:
            return Splits(data, data)

    place = Place(store=Store(tmp_path), library=Library([Held()]))
    execute(stage, place, lambda done, total: None)
    found = {
        epoch: checkpoint.load_encoder(place.store.file(stage, f"encoder-{epoch:05}.safetensors")) for epoch in (1, 3)
    }
    last = checkpoint.load_encoder(place.store.file(stage, "encoder.safetensors"))
    assert len({checkpoint.fingerprint(encoder) for encoder in [*found.values(), last]}) == 3
    rows = list(csv.DictReader(place.store.file(stage, "curve.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "lr", "loss", "contrast", "knn", "robust_knn"]
    assert [bool(row["knn"]) for row in rows] == [False, False, True, True]
