"""Choosing an epoch on held-out images: against a loop by hand, without moving the training, and after a stop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.schemes.labelled import Labelled
from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.seeding import generator
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Epoch, Run, fit
from robustcl.pretraining.method import Method, Net, Targets, Training, build_net
from robustcl.pretraining.methods.supervised import Supervised
from robustcl.pretraining.optim import Automatic, Optimiser
from robustcl.pretraining.selection import Validation, chosen
from robustcl.pretraining.views import recipe

THREAT = Threat("16/255")
SCHEME = Labelled(
    training=Training(epochs=5, batch=8, optimiser=Optimiser(lr=0.3)),
    weak=recipe("digits-weak"),
    trains="all",
    objective="adversarial",
    ascent=Ascent(steps=1),
)


def images(n: int = 24, seed: int = 0) -> Images:
    """Images whose class is a bright row, so that few epochs learn something."""
    pixels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) / 2
    labels = torch.arange(n) % 3
    pixels[torch.arange(n), 0, labels] += 0.3
    return Images(pixels, labels, classes=3, index=torch.arange(n) * 2 + seed, name="rows")


def net(method: Method = SCHEME) -> Net:
    return build_net(method, Encoder(Tiny(width=4), (1, 8, 8)), Targets(classes=3), seed=0)


def validation(threat: Threat | None = THREAT) -> Validation:
    return Validation(images(12, seed=9), threat, seed=3)


def run(keep: Path | None = None, validation: Validation | None = None) -> Run:
    return Run(seed=0, threat=THREAT, keep=keep, validation=validation)


def by_hand(trained: Net, held: Images) -> tuple[float, float]:
    """Clean and PGD-20 accuracy, written out."""
    trained.eval()
    x, y, eps = held.floats(slice(None)), held.labels, float(THREAT.eps)
    noise = [torch.rand(64, generator=generator(3, "validation", image)) for image in held.index.tolist()]
    point = x + eps * (2 * torch.stack(noise).view_as(x) - 1)
    for _ in range(20):
        point = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(trained(point, "classes"), y, reduction="sum"), point)
        step = point.detach() + eps / 4 * slope.sign()
        point = (x + (step - x).clamp(-eps, eps)).clamp(0, 1)
    right = trained(x, "classes").argmax(1) == y
    robust = right & (trained(point, "classes").argmax(1) == y)
    return int(right.sum()) / len(held), int(robust.sum()) / len(held)


def test_every_epoch_is_measured_as_by_hand_and_the_best_weights_are_kept() -> None:
    held = validation()
    seen: list[tuple[float, float]] = []
    prints: list[str] = []

    def snapshot(epoch: int, encoder: Encoder) -> None:
        seen.append(by_hand(trained, held.images))
        prints.append(checkpoint.fingerprint(trained))
        trained.train()

    scheme, trained = replace(SCHEME, training=replace(SCHEME.training, snapshots=(1, 2, 3, 4, 5))), net()
    history = fit(scheme, trained, images(), replace(run(validation=held), snapshot=snapshot))
    assert [(row["val"], row["robust_val"]) for row in history] == seen
    assert len({row["robust_val"] for row in history}) > 2, "an easy or a hopeless task would show nothing"
    best = max(range(5), key=lambda epoch: seen[epoch][1])
    assert best < 4, "the last epoch would be chosen without a choice"
    trained.load_state_dict(held.best)
    assert checkpoint.fingerprint(trained) == prints[best]
    assert chosen(history, "robust_val") == best + 1


def test_a_clean_scheme_is_chosen_by_clean_accuracy_without_a_threat() -> None:
    held = validation(None)
    history = fit(replace(SCHEME, objective="clean"), net(), images(), Run(seed=0, validation=held))
    assert all("robust_val" not in row for row in history)
    assert held.column == "val"


def test_validation_moves_no_draw_of_the_training() -> None:
    prints, curves = [], []
    for held in (None, validation(), validation(None)):
        trained = net()
        history = fit(SCHEME, trained, images(), run(validation=held))
        curves.append([{key: part for key, part in row.items() if "val" not in key} for row in history])
        prints.append(checkpoint.fingerprint(trained))
    assert prints[0] == prints[1] == prints[2]
    assert curves[0] == curves[1] == curves[2]


def test_measuring_leaves_the_net_as_it_was() -> None:
    trained = net().train()
    trained.heads.eval()
    before, modes = checkpoint.fingerprint(trained), [part.training for part in trained.modules()]
    validation().measure(trained, [{"epoch": 1}])
    assert checkpoint.fingerprint(trained) == before
    assert [part.training for part in trained.modules()] == modes
    assert all(p.grad is None for p in trained.parameters())


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_run_that_was_stopped_keeps_the_best_so_far(tmp_path: Path, after: int) -> None:
    whole, wanted = net(), validation()
    history = fit(SCHEME, whole, images(), run(validation=wanted))

    def stop(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    keep = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(SCHEME, net(), images(), replace(run(keep, validation()), report=stop))
    resumed, held = net(), validation()
    assert fit(SCHEME, resumed, images(), run(keep, held)) == history
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)
    assert held.best.keys() == wanted.best.keys()
    assert all(torch.equal(held.best[name], part) for name, part in wanted.best.items())


def test_the_state_of_another_validation_is_refused(tmp_path: Path) -> None:
    keep = tmp_path / "state"
    fit(SCHEME, net(), images(), run(keep, validation()))
    for other in (None, validation(None), Validation(images(11, seed=9), THREAT, 3), Validation(images(12), THREAT, 3)):
        with pytest.raises(UserError, match="the kept state of another run"):
            fit(SCHEME, net(), images(), run(keep, other))


def test_of_equal_epochs_the_earliest_is_chosen() -> None:
    rows: list[Epoch] = [{"val": 0.2}, {"val": 0.5}, {"val": 0.4}, {"val": 0.5}]
    assert chosen(rows, "val") == 2
    assert chosen([], "val") == 0
    held, still = validation(None), net(Supervised(weak=recipe("digits-weak")))
    history: list[Epoch] = []
    for _ in range(2):
        history.append({})
        held.measure(still, history)
        with torch.no_grad():
            still.heads["classes"].bias.add_(1)  # type: ignore[operator]
    assert history[0] == history[1]
    assert not torch.equal(held.best["heads.classes.bias"], still.state_dict()["heads.classes.bias"] - 1)


def test_an_automatic_rate_needs_a_validation() -> None:
    method = Supervised(training=Training(epochs=1, batch=8, schedule=Automatic()), weak=recipe("digits-weak"))
    with pytest.raises(UserError, match="fit: the rate 'automatic' follows a validation, which finetuning alone has"):
        fit(method, net(method), images(), run())


def test_an_automatic_rate_falls_and_brings_the_best_weights_back(tmp_path: Path) -> None:
    schedule = Automatic(checkpoints=(0.25, 0.5), rising=1)
    method = replace(SCHEME, training=replace(SCHEME.training, epochs=8, schedule=schedule))
    loaded: list[str] = []

    class Watched(Net):
        def load_state_dict(self, *given: object, **more: object) -> object:
            found = super().load_state_dict(*given, **more)  # type: ignore[arg-type]
            loaded.append(checkpoint.fingerprint(self))
            return found

    def watched() -> Net:
        made = net()
        made.__class__ = Watched
        return made

    whole, held = watched(), validation()
    history = fit(method, whole, images(), run(validation=held))
    rates = [row["lr"] for row in history]
    assert rates == pytest.approx([0.3] * 3 + [0.15] * 2 + [0.075] * 3)
    assert len(loaded) == 2

    def stop(done: int, total: int) -> None:
        if done == 3:  # between the epoch of the checkpoint and what follows from it
            raise KeyboardInterrupt

    keep = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(method, net(), images(), replace(run(keep, validation()), report=stop))
    resumed = net()
    assert fit(method, resumed, images(), run(keep, validation())) == history
    assert checkpoint.fingerprint(resumed) == checkpoint.fingerprint(whole)
