"""Tests of the probe: an encoder that knows nothing is refused, a random one is told apart from a trained one."""

import math

import pytest
import torch
from scipy.stats import binom

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining import probe as module
from robustcl.pretraining.images import Images
from robustcl.pretraining.monitor import features
from robustcl.pretraining.probe import probe


def images(classes: int = 4, n: int = 400, noise: float = 0.3) -> Images:
    """Each class is a pattern of its own under noise."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % classes
    patterns = torch.rand(classes, 1, 8, 8, generator=generator)
    pixels = (patterns[labels] + noise * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 1)
    return Images(pixels, labels, classes=classes, name="patterns")


def encoder(**rest: object) -> Encoder:
    return Encoder(Tiny(width=4, blocks=(1,)), (1, 8, 8), seed=1, **rest).eval()  # type: ignore[arg-type]


def test_an_encoder_that_knows_its_images_passes_with_exact_numbers() -> None:
    found = probe(encoder(), images(noise=0.05), "x")
    assert found.asked == 80
    assert found.chance == pytest.approx(0.25)
    assert found.right > 70
    assert found.p == pytest.approx(binom.sf(found.right - 1, 80, 0.25))
    assert f"kNN {found.right / 80:.1%} of 80 held-out" in str(found)


def test_an_untrained_encoder_is_warned_of_though_it_is_above_chance() -> None:
    found = probe(encoder(), images(noise=0.05), "x")  # random features tell these patterns apart as well
    assert not found.above_random
    assert "warning: not clearly better than an untrained encoder" in str(found)


def test_a_trained_encoder_is_told_apart_from_an_untrained_one(monkeypatch: pytest.MonkeyPatch) -> None:
    known, hard = encoder(), images(noise=0.6)
    truth = {tuple(p.flatten().tolist()): int(label) for p, label in zip(hard.pixels, hard.labels, strict=True)}

    def oracle(one: Encoder, route: str | None, asked: Images) -> torch.Tensor:
        if one is not known:
            return torch.rand(len(asked), 4, generator=torch.Generator().manual_seed(len(asked)))
        labels = [truth[tuple(p.flatten().tolist())] for p in asked.pixels]
        return torch.eye(4)[labels]

    monkeypatch.setattr(module, "features", oracle)
    found = probe(known, hard, "x")
    assert (found.right, found.above_random) == (80, True)
    assert found.p == pytest.approx(0.25**80)
    assert found.p_random == pytest.approx(0.5 ** (80 - found.random_right))
    assert "\n" not in str(found)


def test_an_encoder_that_knows_nothing_is_refused() -> None:
    dead = encoder()
    with torch.no_grad():
        for part in dead.parameters():
            part.zero_()
    with pytest.raises(
        UserError, match=r"^x: kNN .* chance 25.0%.*expected p below 1e-06; set probe = false"
    ) as caught:
        probe(dead, images(), "x")
    assert "\n" not in str(caught.value)


def test_chance_is_that_of_the_commonest_class() -> None:
    whole = images(n=1200, noise=0.05)
    labels = torch.where(torch.arange(1200) % 10 < 9, 0, whole.labels)
    skewed = Images(whole.pixels, labels, classes=4, name="skewed")
    with pytest.raises(UserError, match="chance"):
        probe(encoder(), skewed, "x")


def test_too_few_images_cannot_tell() -> None:
    assert math.ceil(math.log(1e-6) / math.log(0.25)) == 10
    with pytest.raises(UserError, match="7 held-out images are too few"):
        probe(encoder(), images(n=35), "x")


def test_the_encoder_and_the_generator_stay_as_they_are() -> None:
    one, state = encoder().train(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    probe(one, images(noise=0.05), "x")
    assert one.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_who_votes_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def spy(one: Encoder, route: str | None, given: Images) -> torch.Tensor:
        seen.append(set(given.index.tolist()))
        return features(one, route, given)

    monkeypatch.setattr(module, "features", spy)
    probe(encoder(), images(noise=0.05), "x")
    bank, asked, *again = seen
    assert (len(bank), len(asked), again) == (320, 80, [bank, asked])
    assert not bank & asked


def test_features_that_are_no_numbers_are_refused() -> None:
    broken = encoder()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.inf)
    with pytest.raises(UserError, match="NaN or infinite"):
        probe(broken, images(), "x")
