"""AutoLoRa: whose gradient each pass is, the weights of the terms, and what is deployed."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.finetuning import Start, finetune
from robustcl.bench.schemes.autolora import AutoLoRa, by_bypass, natural
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run
from robustcl.pretraining.method import Batch, Net, Targets, Training, build_net
from robustcl.pretraining.optim import Automatic
from robustcl.pretraining.views import recipe

SCHEME = AutoLoRa(
    weak=recipe("digits-weak"),
    training=Training(epochs=3, batch=8, schedule=Automatic(checkpoints=(0.4,))),
    validation=4,
)


def images(n: int = 32) -> Images:
    pixels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n) % 3, classes=3, name="random")


def batch(iteration: int = 0) -> Batch:
    data = images()
    return Batch(
        images=data.pixels, labels=data.labels, threat=Threat("8/255"), seed=0, epoch=0, epochs=1, iteration=iteration
    )


@pytest.fixture
def net() -> Net:
    made = build_net(SCHEME, Encoder(Tiny(width=4), (1, 8, 8)), Targets(classes=3), seed=0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from zero, where nothing has a gradient
        for part in [*made.heads.parameters()]:
            part.copy_(torch.randn(part.shape, generator=g) / 4)
        natural(made).fill_(0.4)
    return made.train()


def moved(net: Net, loss: torch.Tensor) -> dict[str, bool]:
    """Which parts of the net a loss has a gradient for."""
    net.zero_grad()
    loss.backward()
    parts: dict[str, nn.Module] = {"encoder": net.encoder, "bypass": net.heads["bypass"], "head": net.heads["classes"]}
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for name, part in parts.items()
    }


def test_clean_images_move_bypass_and_head_adversarial_ones_encoder_and_head(net: Net) -> None:
    step = batch()
    views = SCHEME.adversary(net, SCHEME.views(step), step)
    assert moved(net, SCHEME.loss(net, views, step)["clean"]) == {"encoder": False, "bypass": True, "head": True}
    assert moved(net, SCHEME.loss(net, views, step)["adversarial"]) == {"encoder": True, "bypass": False, "head": True}
    assert all(moved(net, SCHEME.loss(net, views, step)["divergence"]).values()), "by both passes"


def test_the_loss_is_the_formula(net: Net) -> None:
    step = batch()
    views = SCHEME.adversary(net, SCHEME.views(step), step)
    net.eval()
    found = SCHEME.loss(net, views, step)
    p, q = by_bypass(net, views["clean"]), net(views["adversarial"], "classes")
    far = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()
    wanted = 0.6 * F.cross_entropy(p, step.labels) + 0.4 * F.cross_entropy(q, step.labels) + 6 * 0.4 * far
    assert sum(found.values()).item() == pytest.approx(wanted.item(), rel=1e-5)  # type: ignore[union-attr]


def test_the_attack_climbs_the_cross_entropy_of_the_encoder_alone(net: Net) -> None:
    step = batch()
    views = SCHEME.adversary(net, SCHEME.views(step), step)
    assert step.ball.distance(views["adversarial"], views["clean"]).max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        for part in net.heads["bypass"].parameters():
            part.mul_(-3)
    assert torch.equal(SCHEME.adversary(net, SCHEME.views(step), step)["adversarial"], views["adversarial"])
    net.eval()
    before, after = (F.cross_entropy(net(views[name], "classes"), step.labels) for name in ("clean", "adversarial"))
    assert after > before


def test_the_accuracy_is_measured_each_quarter_on_all_training_images_by_way_of_the_bypass(net: Net) -> None:
    scheme, data = replace(SCHEME, weak=recipe("none")), images()
    with torch.no_grad():  # so that every class is answered
        net.eval().heads["classes"].bias -= by_bypass(net, data.pixels).mean(0)  # type: ignore[operator]
        net.train()
    measured = []
    for step in range(9):
        natural(net).fill_(-1)
        scheme.survey(net, data, batch(step), step, 9)
        measured.append(float(natural(net)) >= 0)
    assert [step for step, was in enumerate(measured) if was] == [0, 3, 5, 7]
    natural(net).fill_(-1)
    modes = [part.training for part in net.modules()]
    scheme.survey(net, data, batch(), 0, 1)
    assert [part.training for part in net.modules()] == modes
    net.eval()
    right = (by_bypass(net, data.pixels).argmax(1) == data.labels).float().mean()
    assert float(natural(net)) == pytest.approx(right.item())
    assert right != (net(data.pixels, "classes").argmax(1) == data.labels).float().mean()


def test_the_classifier_has_no_bypass_and_is_the_best_of_validation() -> None:
    encoder = Encoder(Tiny(width=4), (1, 8, 8))
    tensors = set(encoder.state_dict())
    done = finetune(SCHEME, Start(encoder=encoder), images(), Run(seed=0, threat=Threat("8/255")))
    assert list(done.classifiers) == ["best_val"]
    assert set(done.classifiers["best_val"].encoder.state_dict()) == tensors
    assert len(done.history) == 3
    assert all("robust_val" in row for row in done.history)
