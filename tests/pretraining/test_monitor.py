"""Tests of the monitor: its vote against other libraries, and that nothing of the run moves."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.profiles import schemes
from robustcl.bench.schemes.labelled import Labelled
from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Method, Net, Targets, Training, build_net
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.simclr import SimCLR
from robustcl.pretraining.monitor import Bank, Monitor, Watch, features
from robustcl.pretraining.optim import Optimiser
from robustcl.pretraining.views import recipe

TRAINING = Training(epochs=3, batch=8, optimiser=Optimiser(lr=0.05))
WATCHED = replace(TRAINING, monitor=Monitor(every=2, hold_out=4, k=3, ascent=Ascent(steps=2)))
THREAT = Threat("8/255")
DIGITS, WEAK = recipe("digits"), recipe("digits-weak")
N = 24


def images(n: int = N) -> Images:
    """Noisy blobs of three classes: something that a random network tells apart."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (n,), generator=g)
    means = torch.rand(3, 1, 8, 8, generator=g)
    pixels = (means[labels] + 0.2 * torch.randn(n, 1, 8, 8, generator=g)).clamp(0, 1)
    return Images(pixels, labels, classes=3, index=torch.arange(n) * 2 + 5, name="blobs")


def methods(training: Training) -> dict[str, Method]:
    frozen = schemes()["ALF"]
    assert isinstance(frozen, Labelled)
    return {
        "simclr": SimCLR(training=training, strong=DIGITS, hidden=8, output=8),
        "advcl": AdvCL(training=training, strong=DIGITS, weak=WEAK),
        "frozen": Labelled(training=training, weak=WEAK, trains="head", objective="clean"),
    }


def net(method: Method) -> Net:
    routes = ("pgd",) if isinstance(method, Labelled) else method.routes  # what a scheme is given is one route
    return build_net(method, Encoder(Tiny(width=4), (1, 8, 8), routes=routes), Targets(classes=3, pseudo=pseudo()), 0)


def pseudo() -> dict[int, Tensor]:
    return {2: torch.arange(N) % 2}


def run(threat: Threat | None = THREAT) -> Run:
    return Run(seed=0, threat=threat, pseudo=pseudo())


def watch(monitor: Monitor, threat: Threat | None = THREAT, n: int = 200) -> Watch:
    return monitor.watch(images(n), threat, 0, "test")


def test_the_vote_is_that_of_sklearn() -> None:
    g = torch.Generator().manual_seed(0)
    points, labels, queries = torch.randn(60, 5, generator=g), torch.arange(60) % 4, torch.randn(30, 5, generator=g)
    bank, unit = Bank(points, labels, 4), F.normalize(points, dim=1).double().numpy()
    found = bank.vote(bank.similar(queries), k=7, temperature=0.1)
    # Of unit vectors |a - b|^2 is 2 - 2 cosine.
    judge = KNeighborsClassifier(7, weights=lambda d: torch.from_numpy(1 - d**2 / 2).div(0.1).exp().numpy())
    wanted = judge.fit(unit, labels.numpy()).predict_proba(F.normalize(queries, dim=1).double().numpy())
    assert torch.allclose((found / found.sum(1, keepdim=True)).double(), torch.from_numpy(wanted), atol=1e-5)


def test_the_soft_vote_is_a_slow_loop_and_an_absent_class_is_far() -> None:
    g = torch.Generator().manual_seed(1)
    points, labels, queries = (
        torch.randn(9, 4, generator=g),
        torch.tensor([2, 0, 0, 2, 2, 0, 3, 3, 0]),
        torch.ones(2, 4),
    )
    bank = Bank(points, labels, 4)
    logits = bank.logits(bank.similar(queries), 0.2)
    for row, query in enumerate(queries):
        for label in range(4):
            near = [float(F.cosine_similarity(query, p, dim=0)) for p in points[labels == label]]
            wanted = math.log(sum(math.exp(c / 0.2) for c in near)) if near else -5
            assert float(logits[row, label]) == pytest.approx(wanted, abs=1e-5)
    whole = bank.vote(bank.similar(queries), k=100, temperature=0.2)  # more neighbours than images: all of them
    assert torch.allclose(whole[:, [0, 2, 3]].log(), logits[:, [0, 2, 3]] - 5, atol=1e-4)
    assert (whole[:, 1] == 0).all()


def test_a_cold_vote_does_not_overflow() -> None:
    bank = Bank(torch.eye(3), torch.arange(3), 3)
    assert torch.equal(bank.vote(bank.similar(torch.eye(3)), 3, 0.001), torch.eye(3))
    assert bank.logits(bank.similar(torch.eye(3)), 0.001).isfinite().all()


def test_it_measures_the_accuracy_of_the_vote_on_what_was_held_out() -> None:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=("normal", "pgd")).train()
    encoder(torch.rand(8, 1, 8, 8), "pgd")  # its statistics now differ from those of the other route
    found = watch(Monitor(every=1, hold_out=3, k=5), None)
    rest, held = images(200).hold_out(3)
    assert torch.equal(found.bank.index, rest.index)
    assert torch.equal(images(200).index[found.rows], rest.index)
    for route in ("normal", "pgd"):
        encoder.eval()
        x, y = (features(encoder, route, part).double() for part in (rest, held))
        judge = KNeighborsClassifier(5, metric="cosine", weights=lambda d: torch.from_numpy(-d / 0.1).exp().numpy())
        wanted = judge.fit(x.numpy(), rest.labels.numpy()).score(y.numpy(), held.labels.numpy())
        encoder.train()
        assert found.measure(encoder, route, 1) == {"knn": pytest.approx(wanted, abs=1e-9)}


def test_attacks_lower_the_vote_the_more_the_stronger_they_are() -> None:
    encoder, seen = Encoder(Tiny(width=4), (1, 8, 8), seed=3), []
    for eps in ("0", "8/255", "64/255"):
        found = watch(Monitor(every=1, k=5), Threat(eps)).measure(encoder, None, 1)
        assert found["robust_knn"] <= found["knn"]
        seen.append(found["robust_knn"])
    assert seen[0] == found["knn"] > 0.6
    assert seen[0] >= seen[1] > seen[2]
    assert seen[2] <= 0.1


def test_a_measurement_leaves_everything_as_it_was() -> None:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=("normal", "pgd")).train()
    encoder.body.eval()
    encoder.switch.take("pgd")
    next(encoder.parameters()).requires_grad_(False)
    before, random = copy.deepcopy(encoder), torch.get_rng_state()
    first = watch(Monitor(every=1)).measure(encoder, "normal", 1)
    assert checkpoint.fingerprint(encoder) == checkpoint.fingerprint(before)
    assert [part.training for part in encoder.modules()] == [part.training for part in before.modules()]
    assert [p.requires_grad for p in encoder.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in encoder.parameters())
    assert encoder.switch.active == "pgd"
    assert torch.equal(torch.get_rng_state(), random)
    assert watch(Monitor(every=1)).measure(encoder, "normal", 1) == first


def test_at_most_so_many_images_are_asked() -> None:
    found = watch(Monitor(every=1, hold_out=4, images=7))
    assert len(found.held) == 7
    assert len(found.bank) == 150
    assert set(found.held.index.tolist()) <= set(images(200).hold_out(4)[1].index.tolist())


@pytest.mark.parametrize("name", ["simclr", "advcl", "frozen"])
def test_a_watched_run_is_the_run_on_the_other_images(name: str) -> None:
    method, bare = methods(WATCHED)[name], methods(TRAINING)[name]
    watched, alone = net(method), net(bare)
    curve = fit(method, watched, images(), run())
    kept = torch.isin(images().index, images().hold_out(4)[0].index)
    part = replace(run(), pseudo={k: labels[kept] for k, labels in pseudo().items()})
    wanted = fit(bare, alone, images().hold_out(4)[0], part)
    assert checkpoint.fingerprint(watched) == checkpoint.fingerprint(alone)
    assert [{key: row[key] for key in wanted[0]} for row in curve] == wanted
    assert ["knn" in row for row in curve] == ["robust_knn" in row for row in curve] == [False, True, True]
    assert all(0 <= row["robust_knn"] <= row["knn"] <= 1 for row in curve[1:])


def test_without_a_threat_there_is_no_robust_vote() -> None:
    method = methods(WATCHED)["simclr"]
    curve = fit(method, net(method), images(), run(None))
    assert "knn" in curve[-1]
    assert "robust_knn" not in curve[-1]


def test_it_reads_from_a_table_and_what_is_left_out_keeps_its_default() -> None:
    found = read(Training, {"monitor": {"every": 5, "ascent": {"step": "eps/8"}}}, "suite.training")
    assert found.monitor == Monitor(every=5, ascent=Ascent(steps=10, step="eps/8"))
    assert read(Training, plain(found), "again") == found
    assert read(Training, {}, "empty").monitor is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "t.monitor.every: missing, expected a value"),
        ({"every": 0}, "t.monitor.every: 0 is wrong, expected greater than 0"),
        ({"every": 1, "hold_out": 1}, "t.monitor.hold_out: 1 is wrong, expected greater than or equal to 2"),
        ({"every": 1, "temperature": 0}, "t.monitor.temperature: 0 is wrong, expected greater than 0"),
        ({"every": 1, "k": 0}, "t.monitor.k: 0 is wrong, expected greater than 0"),
        ({"every": 1, "ever": 1}, "t.monitor: unknown key 'ever', expected one of .*; did you mean 'every'?"),
        ({"every": 1, "ascent": {"batch_norm": "train"}}, "t.monitor: ascent.batch_norm is 'train', which moves"),
        ({"every": 1, "ascent": {"stepz": 1}}, "t.monitor.ascent: unknown key 'stepz', .*; did you mean 'step'"),
    ],
)
def test_a_wrong_monitor_is_one_line(table: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}") as caught:
        read(Training, {"monitor": table}, "t")
    assert "\n" not in str(caught.value)


def test_too_few_images_are_one_line() -> None:
    method = methods(replace(TRAINING, monitor=Monitor(every=1)))["simclr"]
    with pytest.raises(UserError, match=r"^fit: monitor.hold_out is 10, expected at most the number of images, 6$"):
        fit(method, net(method), images(6), replace(run(), pseudo={}))
