"""Tests of the objectives on labels: TRADES' direction, gradients and start, and what an attack raises."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.heads import linear
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import kl
from robustcl.pretraining.method import Batch, Net
from robustcl.pretraining.supervision import attack, terms, units


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(Tiny(width=4), (1, 8, 8))
        return Net(encoder, {"classes": linear(encoder.width, 3)})


@pytest.fixture
def batch() -> Batch:
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(
        images=images, labels=torch.arange(8) % 3, threat=Threat("16/255"), seed=0, epoch=0, epochs=1, iteration=0
    )


def test_trades_is_the_divergence_from_the_clean_answer() -> None:
    g = torch.Generator().manual_seed(0)
    clean, adversarial = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    answers = {0: clean, 1: adversarial}
    found = terms(
        "trades", lambda x: answers[int(x)], torch.tensor(0), torch.tensor(1), torch.tensor([0, 1, 2, 0, 1]), beta=6.0
    )
    p, q = clean.softmax(1), adversarial.softmax(1)
    wanted = 6 * (p * (p / q).log()).sum(1).mean()
    assert found["divergence"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert found["divergence"].item() != pytest.approx(6 * (q * (q / p).log()).sum(1).mean().item(), rel=1e-2)
    assert found["clean"].item() == pytest.approx(F.cross_entropy(clean, torch.tensor([0, 1, 2, 0, 1])).item())


def test_trades_has_gradients_on_both_sides() -> None:
    g = torch.Generator().manual_seed(0)
    sides = [torch.randn(5, 3, generator=g, requires_grad=True) for _ in range(2)]
    labels = torch.zeros(5, dtype=torch.int64)
    found = terms("trades", lambda x: sides[int(x)], torch.tensor(0), torch.tensor(1), labels, beta=2.0)
    clean, adversarial = torch.autograd.grad(found["divergence"], sides)
    p, q = (side.detach().softmax(1) for side in sides)
    assert torch.allclose(adversarial, 2 / 5 * (q - p), atol=1e-6)
    ratio = (p / q).log()
    assert torch.allclose(clean, 2 / 5 * p * (ratio - (p * ratio).sum(1, keepdim=True)), atol=1e-6)
    assert clean.abs().max() > 1e-3


def test_the_other_objectives_are_cross_entropies_on_their_images() -> None:
    logits = {0: torch.tensor([[2.0, 0.0]]), 1: torch.tensor([[0.0, 1.0]])}
    labels, sides = torch.tensor([0]), (torch.tensor(0), torch.tensor(1))
    for objective, side in (("clean", 0), ("adversarial", 1)):
        found = terms(objective, lambda x: logits[int(x)], *sides, labels, beta=6.0)  # type: ignore[arg-type]
        assert list(found) == [objective]
        assert found[objective].item() == pytest.approx(F.cross_entropy(logits[side], labels).item())


def test_the_attack_of_trades_raises_the_divergence(net: Net, batch: Batch) -> None:
    def logits(x: Tensor) -> Tensor:
        answer: Tensor = net(x, "classes")
        return answer

    net.eval()
    noise, found = (
        attack("trades", logits, batch.images, Ascent(steps=steps, init="gaussian"), net, batch) for steps in (0, 10)
    )
    assert 0 < (noise - batch.images).abs().max() < 0.006  # 0.001 times a normal
    clean = logits(batch.images)
    start, end = kl(clean, logits(noise)).item(), kl(clean, logits(found)).item()
    assert end > 10 * start
    assert batch.ball.distance(found, batch.images).max() <= 16 / 255 + 1e-6
    assert all(p.grad is None for p in net.parameters())


def test_a_clean_start_gives_trades_nothing_to_climb(net: Net, batch: Batch) -> None:
    # The divergence is flat at the clean image, which is why TRADES starts from noise.
    net.eval()
    found = attack("trades", lambda x: net(x, "classes"), batch.images, Ascent(init="clean", steps=1), net, batch)
    noisy = attack("trades", lambda x: net(x, "classes"), batch.images, Ascent(init="gaussian", steps=1), net, batch)
    clean = net(batch.images, "classes")
    assert kl(clean, net(noisy, "classes")) > kl(clean, net(found, "classes"))


def test_the_adversarial_attack_raises_the_cross_entropy(net: Net, batch: Batch) -> None:
    net.eval()
    found = attack("adversarial", lambda x: net(x, "classes"), batch.images, Ascent(steps=10), net, batch)
    before = F.cross_entropy(net(batch.images, "classes"), batch.labels)
    assert F.cross_entropy(net(found, "classes"), batch.labels) > before


def test_attacks_of_another_iteration_start_elsewhere(net: Net, batch: Batch) -> None:
    later = Batch(**{**batch.__dict__, "iteration": 1})
    first, again, other = (
        attack("adversarial", lambda x: net(x, "classes"), batch.images, Ascent(steps=0), net, at)
        for at in (batch, batch, later)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_units_count_forward_equivalents() -> None:
    ascent = Ascent(steps=10)
    assert units("clean", ascent, encoder=False) == 1
    assert units("clean", ascent, encoder=True) == 3
    assert units("adversarial", ascent, encoder=False) == 21
    assert units("trades", ascent, encoder=True) == 27
