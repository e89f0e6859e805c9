"""Tests of coreset selection: the search against a plain transcription of the paper's, and the loop that it is in."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.bench.schemes.labelled import Labelled
from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import NumberError, UserError
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.coreset import Coreset, greedy, select
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Batch, Method, Net, Targets, Training, Views, build_net
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.simclr import SimCLR
from robustcl.pretraining.methods.supervised import Supervised
from robustcl.pretraining.optim import Optimiser
from robustcl.pretraining.views import recipe

CORESET = Coreset(warmup=2, every=3, fraction=0.4, lr=0.5, validation=10)
TRAINING = Training(epochs=7, batch=4, optimiser=Optimiser(lr=0.05), coreset=CORESET)
DIGITS, WEAK = recipe("digits"), recipe("digits-weak")
THREAT = Threat("8/255")
N = 20


def images(labels: Tensor | None = None) -> Images:
    pixels = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(N) % 3 if labels is None else labels, classes=3, name="random")


def advcl(training: Training = TRAINING) -> Method:
    return AdvCL(training=training, strong=DIGITS, weak=WEAK, ascent=Ascent(steps=1, batch_norm="train"))


def net(method: Method) -> Net:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes)
    return build_net(method, encoder, Targets(classes=3, pseudo=run().pseudo), 0)


def run(keep: Path | None = None, stop: int | None = None) -> Run:
    def report(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    return Run(seed=0, threat=THREAT, pseudo={2: torch.arange(N) % 2}, keep=keep, report=report)


def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, list[int]]]:
    """(epoch, iteration, rows) of every step of the loop from now on; those of a selection have iterations below 0."""
    seen: list[tuple[int, int, list[int]]] = []
    data, views = images(), AdvCL.views

    def spy(self: AdvCL, batch: Batch) -> Views:
        if batch.iteration >= 0:
            same = (batch.images[:, None] == data.pixels[None]).flatten(2).all(2)
            seen.append((batch.epoch, batch.iteration, same.nonzero()[:, 1].tolist()))
        return views(self, batch)

    monkeypatch.setattr(AdvCL, "views", spy)
    return seen


def test_the_search_is_that_of_a_plain_loop_on_a_quadratic() -> None:
    g = torch.Generator().manual_seed(0)
    gradients, matrix = torch.randn(8, 5, generator=g), torch.randn(5, 5, generator=g)
    weights = [torch.randn(5, generator=g)]
    w, wanted = weights[0].clone(), list[int]()
    for _ in range(4):  # the slope of |A w|^2 / 2 is A'A w
        slope, best = matrix.T @ matrix @ w, -1
        for number in range(8):
            better = best < 0 or float(gradients[number] @ slope) > float(gradients[best] @ slope)
            if number not in wanted and better:
                best = number
        wanted.append(best)
        w = w - 0.3 * gradients[best]

    def move(direction: Tensor) -> None:
        weights[0] = weights[0] - 0.3 * direction

    assert greedy(gradients, lambda step: matrix.T @ matrix @ weights[0], move, 4) == wanted


def test_a_choice_lowers_a_linear_divergence_most() -> None:
    gradients = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0])
    after = [float(slope @ (torch.ones(4) - 0.1 * row)) for row in gradients]
    assert greedy(gradients, lambda step: slope, lambda direction: None, 7) == sorted(range(7), key=after.__getitem__)


class Plain:
    """What `select` should find, written out with deep copies, backward passes and sums over named tensors."""

    def __init__(self, start: Net, data: Images, losses: list[Callable[[Net], Tensor]], lr: float) -> None:
        self.start, self.data, self.losses, self.lr = start, data, losses, lr

    def gradient(self, at: Net, scalar: Callable[[Net], Tensor]) -> dict[str, Tensor]:
        fresh = copy.deepcopy(at)
        scalar(fresh).backward()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in fresh.named_parameters()}

    def divergence(self, step: int, at: Net) -> Tensor:
        at.eval()
        x = self.data.pixels
        draws = BatchDraws(generator(0, "coreset", 5, step))

        def apart(near: Tensor) -> Tensor:
            p, q = (at(part, "projector", "pgd").softmax(1) for part in (x, near))
            return torch.sum(p * (p.log() - q.log())) / len(x)

        return apart(CORESET.ascent(apart, x, THREAT, at, draws))

    def search(self, count: int) -> list[int]:
        each = [self.gradient(self.start, loss) for loss in self.losses]
        here, chosen = copy.deepcopy(self.start), list[int]()
        for step in range(count):
            target = self.gradient(here, partial(self.divergence, step))
            gains = [sum(float((g[n] * target[n]).sum()) for n in target) for g in each]
            best = max((n for n in range(len(each)) if n not in chosen), key=gains.__getitem__)
            chosen.append(best)
            with torch.no_grad():
                for name, p in here.named_parameters():
                    p.sub_(self.lr * each[best][name])
        return chosen


def test_the_selection_is_a_transcription_of_the_papers_algorithm() -> None:
    method, data = advcl(), images()
    start = net(method).train()
    parts = list(torch.randperm(N, generator=torch.Generator().manual_seed(1)).split(4))

    def loss(number: int, at: Net) -> Tensor:
        rows = parts[number]
        batch = Batch(
            images=data.pixels[rows],
            labels=data.labels[rows],
            threat=THREAT,
            seed=0,
            epoch=5,
            epochs=7,
            iteration=number,
            pseudo={2: rows % 2},
        )
        terms = method.loss(at, method.adversary(at, method.views(batch), batch), batch)
        return torch.stack(list(terms.values())).sum()

    before, random = copy.deepcopy(start), torch.get_rng_state()
    found = set()
    for lr in (0.001, 0.01, 0.1):
        coreset = replace(CORESET, fraction=0.6, lr=lr, validation=N)
        rows = select(coreset, start, parts, lambda at, n: loss(n, at), coreset.probe(data, THREAT, "pgd", 0, 5))
        wanted = Plain(start, data, [partial(loss, n) for n in range(5)], lr).search(3)
        assert rows.tolist() == torch.cat([parts[n] for n in wanted]).tolist()
        found.add(tuple(wanted))
    assert len(found) == 3  # the weights move in between: the choice is no ranking at the start
    assert checkpoint.fingerprint(start) == checkpoint.fingerprint(before)
    assert [part.training for part in start.modules()] == [part.training for part in before.modules()]
    assert all(p.grad is None for p in start.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    method = advcl()
    probe = CORESET.probe(images(), THREAT, "pgd", 0, 0)

    def loss(at: Net, number: int) -> Tensor:
        return next(at.parameters()).sum() * float("nan")

    with pytest.raises(NumberError, match="coreset: a gradient is not finite"):
        select(CORESET, net(method), [torch.arange(N)], loss, probe)


def test_the_loop_trains_on_everything_and_then_on_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, method = steps(monkeypatch), advcl()
    trained = net(method)
    curve = fit(method, trained, images(), run())
    rows = [sorted(row for epoch, _, part in seen if epoch == e for row in part) for e in range(7)]
    assert rows[0] == rows[1] == list(range(N))
    assert rows[2] == rows[3] == rows[4] != rows[5] == rows[6]
    assert all(len(set(part)) == len(part) == 8 for part in rows[2:])  # 0.4 of five batches of four
    orders = [[row for epoch, _, part in seen if epoch == e for row in part] for e in range(7)]
    assert orders[2] != orders[3]
    assert [n for _, n, _ in seen] == [*range(10), *(5 * epoch + n for epoch in range(2, 7) for n in range(2))]
    assert len(curve) == 7
    again = net(method)
    assert fit(method, again, images(), run()) == curve
    assert checkpoint.fingerprint(again) == checkpoint.fingerprint(trained)


def test_a_selection_moves_nothing_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []

    def everything(*given: Any) -> Tensor:
        chosen.append(select(*given))
        return torch.arange(N)

    monkeypatch.setattr("robustcl.pretraining.loop.select", everything)
    prints = []
    for method in (advcl(), advcl(replace(TRAINING, coreset=None))):
        trained = net(method)
        fit(method, trained, images(), run())
        prints.append(checkpoint.fingerprint(trained))
    assert prints[0] == prints[1]
    assert [len(rows) for rows in chosen] == [8, 8]


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_that_was_stopped_keeps_its_coreset(stop: int, tmp_path: Path) -> None:
    method, keep = advcl(), tmp_path / "state"
    whole, resumed = net(method), net(method)
    wanted = fit(method, whole, images(), run())
    with pytest.raises(KeyboardInterrupt):
        fit(method, net(method), images(), run(keep, stop))
    assert ("coreset" in checkpoint.read(keep).tensors) == (stop > 2)
    assert fit(method, resumed, images(), run(keep)) == wanted
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)


def test_labels_do_not_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, method = steps(monkeypatch), advcl()
    fit(method, net(method), images(), run())
    half = len(seen)
    fit(method, net(method), images(torch.zeros(N, dtype=torch.int64)), run())
    assert seen[:half] == seen[half:]


def test_a_method_without_a_projector_is_probed_on_its_features() -> None:
    method = Supervised(training=TRAINING, weak=WEAK, objective="adversarial", ascent=Ascent(steps=1))
    curve = fit(method, net(method), images(), run())
    assert len(curve) == 7


def test_a_method_that_is_not_adversarial_is_one_line() -> None:
    clean = SimCLR(training=TRAINING, strong=DIGITS)
    frozen = Labelled(training=TRAINING, weak=WEAK, trains="head", objective="adversarial")
    for method in (clean, frozen):
        with pytest.raises(UserError, match=r"^fit: rcs needs an adversarial method") as caught:
            fit(method, net(method), images(), run())
        assert "\n" not in str(caught.value)


def test_due_and_count() -> None:
    assert [epoch for epoch in range(12) if CORESET.due(epoch)] == [2, 5, 8, 11]
    assert [Coreset(fraction=f).count(98) for f in (0.05, 0.2, 1, 1e-6)] == [5, 20, 98, 1]


def test_it_reads_from_a_table_and_what_is_left_out_keeps_its_default() -> None:
    found = read(Training, {"coreset": {"fraction": 0.1, "ascent": {"step": "eps/2"}}}, "suite.training")
    assert found.coreset == Coreset(fraction=0.1, ascent=Ascent(steps=3, step="eps/2"))
    assert read(Training, plain(found), "again") == found


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"fraction": 0}, "t.coreset.fraction: 0 is wrong, expected greater than 0"),
        ({"fraction": 1.1}, "t.coreset.fraction: 1.1 is wrong, expected less than or equal to 1"),
        ({"every": 0}, "t.coreset.every: 0 is wrong, expected greater than 0"),
        ({"warmup": -1}, "t.coreset.warmup: -1 is wrong, expected greater than or equal to 0"),
        ({"lr": 0}, "t.coreset.lr: 0 is wrong, expected greater than 0"),
        ({"part": 1}, "t.coreset: unknown key 'part'"),
        ({"ascent": {"batch_norm": "train"}}, "t.coreset: ascent.batch_norm is 'train', expected 'eval'"),
        ({"ascent": {"init": "clean"}}, "t.coreset: ascent.init is 'clean', where the divergence has no slope"),
    ],
)
def test_a_wrong_coreset_is_one_line(table: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}") as caught:
        read(Training, {"coreset": table}, "t")
    assert "\n" not in str(caught.value)
