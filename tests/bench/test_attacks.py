"""PGD, wrapped callables and the judge's bookkeeping, against closed forms and an independent loop."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import robustcl
from robustcl.bench.attacks import Attack, Engine, Judge, identity, judges
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.pgd import PGD
from robustcl.models.errors import UserError
from robustcl.models.seeding import generator
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import value
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network, one_line

EPS = Threat("1/10")


class Spy(nn.Module):
    """A model that keeps what it was asked and counts what passed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        answer: Tensor = self.model(x)
        return answer


def records(model: Any, images: Images, threat: Threat, *attacks: Any, seed: int = 0, batch: int = 256) -> pd.DataFrame:
    return judge(model, images, Trial(threat=threat, judges=judges(attacks, images.classes), seed=seed, batch=batch))


def rows(frame: pd.DataFrame, attack: str) -> pd.DataFrame:
    return frame[frame["attack"] == attack].reset_index(drop=True)


def linear(size: int) -> nn.Sequential:
    head = nn.Linear(size**2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, size**2, generator=torch.Generator().manual_seed(3)))
        head.bias.zero_()
    return nn.Sequential(nn.Flatten(), head)


def test_pgd_on_a_linear_classifier_is_the_closed_form() -> None:
    model = linear(4)
    images = images_for(model, 40, classes=2, wrong=3)
    found = rows(records(model, images, EPS, PGD(steps=20, verdict="last")), "pgd-20-last")
    weight = next(model.parameters()).detach()
    x, y = images.pixels, images.labels
    towards = (weight[1] - weight[0]).sign().view(1, 1, 4, 4) * (1 - 2 * y.view(-1, 1, 1, 1))
    with torch.no_grad():
        logits = model((x + 0.1 * towards).clamp(0, 1))
    margin = (logits[:, 0] - logits[:, 1]) * (1 - 2 * y)
    assert len(found) == 37
    assert 0 < found["right"].sum() < 37, "the case has to have both outcomes"
    assert found["right"].tolist() == (margin > 0)[3:].tolist()
    assert torch.tensor(found["margin"].to_numpy()).allclose(margin[3:].float(), atol=1e-5)


def test_pgd_in_l2_on_a_linear_classifier_is_the_closed_form() -> None:
    model = linear(4)
    images = images_for(model, 30, classes=2, wrong=0)
    images = Images(images.pixels * 0.2 + 0.4, images.labels, classes=2, name="grey")  # the box stays out of it
    with torch.no_grad():
        images.labels.copy_(model(images.pixels).argmax(1))
    found = rows(records(model, images, Threat("1/4", norm="l2"), PGD(steps=50, verdict="last")), "pgd-50-last")
    weight = next(model.parameters()).detach()
    with torch.no_grad():
        logits = model(images.pixels)
    margin = (logits[:, 0] - logits[:, 1]) * (1 - 2 * images.labels) - 0.25 * (weight[1] - weight[0]).norm()
    assert torch.tensor(found["margin"].to_numpy()).allclose(margin, atol=1e-4)
    assert found["right"].tolist() == (margin > 0).tolist()


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, start: Tensor) -> Tensor:
    """PGD as everybody writes it, its last iterate judged; returns whether each image is still right."""
    point = start
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
        point = point.detach() + eps / 4 * gradient.sign()
        point = torch.min(torch.max(point, x - eps), x + eps).clamp(0, 1)
    with torch.no_grad():
        right: Tensor = model(point).argmax(1) == y
    return right


@pytest.mark.parametrize("steps", [1, 7])
def test_last_verdict_is_an_independent_pgd_from_the_same_start(steps: int) -> None:
    model = network()
    images = images_for(model, 60, wrong=0)
    found = rows(records(model, images, Threat("1/20"), PGD(steps=steps, verdict="last"), seed=5), f"pgd-{steps}-last")
    uniform = [torch.rand(17, generator=generator(5, "pgd", 0, int(i)))[:16] for i in images.index]
    start = images.pixels + 0.05 * (2 * torch.stack(uniform).view(-1, 1, 4, 4) - 1)
    right = plain_pgd(model, images.pixels, images.labels, 0.05, steps, start)
    assert 0 < int(right.sum()) < 60
    assert found["right"].tolist() == right.tolist()


def test_last_verdict_never_finds_more_than_the_first() -> None:
    model = network(seed=2)
    images = images_for(model, 60, wrong=0)
    first, last = (
        rows(records(model, images, Threat("1/20"), attack), attack.name)
        for attack in (PGD(steps=9), PGD(steps=9, verdict="last"))
    )
    assert not (first["right"] & ~last["right"]).any()
    assert 0 < first["right"].sum() < 60


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_records_do_not_depend_on_batch_size_or_order(norm: Any) -> None:
    model = network()
    images = images_for(model, 30)
    threat = Threat({"linf": "1/20", "l2": "1/5", "l1": "1/2"}[norm], norm=norm)
    whole = records(model, images, threat, "pgd-8")
    for other in (
        records(model, images, threat, "pgd-8", batch=7),
        records(model, images.take(torch.randperm(30, generator=torch.Generator().manual_seed(1))), threat, "pgd-8"),
    ):
        exact = ["image", "label", "judge", "attack", "answer", "right", "step", "passes"]
        pd.testing.assert_frame_equal(whole[exact], other[exact])
        for column in ("margin", "distance"):
            assert torch.tensor(whole[column]).allclose(torch.tensor(other[column]), atol=1e-5)
    assert set(rows(whole, "pgd-8")["right"]) == {True, False}


def test_another_seed_starts_elsewhere() -> None:
    model = network()
    images = images_for(model, 30)
    one, other = (rows(records(model, images, EPS, "pgd-0", seed=seed), "pgd-0")["margin"] for seed in (0, 1))
    assert (one != other).any()


def test_non_increasing_in_steps_and_robust_is_clean() -> None:
    model = network()
    images = images_for(model, 60)
    found = records(model, images, Threat("1/25"), *(f"pgd-{k}" for k in (1, 2, 4, 8, 16)))
    clean = set(found[(found["judge"] == "clean") & found["right"]]["image"])
    before = clean
    sizes = []
    for k in (1, 2, 4, 8, 16):
        right = set(rows(found, f"pgd-{k}").query("right")["image"])
        assert right <= before
        before = right
        sizes.append(len(right))
        assert set(rows(found, f"pgd-{k}")["image"]) == clean, "whoever is wrong clean is not attacked"
    assert sizes[-1] < sizes[0] < len(clean)
    shorter, longer = rows(found, "pgd-4"), rows(found, "pgd-16")
    broken = ~shorter["right"]
    assert (shorter["step"][broken] == longer["step"][broken]).all(), "a longer run passes through the same iterates"


def test_non_increasing_in_eps() -> None:
    model = network()
    images = images_for(model, 60)
    counts = [
        int(rows(records(model, images, Threat(eps), "pgd-20"), "pgd-20")["right"].sum())
        for eps in ("0", "1/50", "1/20", "1/5")
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 58
    assert counts[-1] < 20


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_eps_zero_changes_no_answer(norm: Any) -> None:
    model = network()
    images = images_for(model, 30)
    found = records(model, images, Threat("0", norm=norm), "pgd-5", "autoattack")
    attacked = found[found["judge"] != "clean"]
    assert len(attacked) == 28 * 5
    assert attacked["right"].all()
    assert (attacked["distance"] == 0).all()
    assert (attacked["step"] == -1).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_the_model_is_asked_last_is_inside_ball_and_box(norm: Any) -> None:
    spy = Spy(network())
    images = images_for(spy.model, 20, wrong=0)
    threat = Threat({"linf": "1/5", "l2": "1", "l1": "2"}[norm], norm=norm)
    found = rows(records(spy, images, threat, PGD(steps=6, verdict="last")), "pgd-6-last")
    point = spy.seen[-1]
    assert point.shape == images.pixels.shape
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1
    assert (threat.distance(point, images.pixels) <= float(threat.eps) + 1e-5).all()
    assert (found["distance"] <= float(threat.eps) + 1e-5).all()
    assert (found["distance"] > 0).any()


def garbage(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    return torch.full_like(x, 1e6) * (torch.rand(x.shape, generator=g) - 0.5).sign()


def liar(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    """Moves labels and images it was lent, and brings an image of another class far outside the ball."""
    far = x.roll(1, 0).clone()
    y.add_(1).remainder_(10)
    x.zero_()
    return far


def test_garbage_outside_the_ball_is_projected_before_judging() -> None:
    spy = Spy(network())
    images = images_for(spy.model, 20, wrong=0)
    found = rows(records(spy, images, Threat("1/50"), garbage), "garbage")
    point = spy.seen[-1]
    assert ((point - images.pixels).abs() <= 0.02 + 1e-6).all()
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1
    assert (found["distance"] <= 0.02 + 1e-6).all()
    with torch.no_grad():
        assert found["answer"].tolist() == spy.model(point).argmax(1).tolist()


def test_a_lying_attack_is_not_believed() -> None:
    model = network()
    images = images_for(model, 20, wrong=0)
    before = images.pixels.clone(), images.labels.clone()
    far = images.pixels.roll(1, 0)
    with torch.no_grad():
        assert (model(far).argmax(1) != images.labels).any(), "unprojected these images do break the model"
    found = rows(records(model, images, Threat("1/100000"), liar), "liar")
    assert found["right"].all()
    assert torch.equal(images.pixels, before[0])
    assert torch.equal(images.labels, before[1])


@value
class Lazy(Attack):
    """Finishes nothing."""

    version = 1

    @property
    def name(self) -> str:
        return "lazy"

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return 0

    def run(self, judge: Judge) -> None:
        pass


def test_an_attack_that_leaves_images_is_an_error() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="lazy: left 10 images unfinished"):
        records(model, images_for(model), EPS, Lazy())


def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    """As a user writes it: gradients are on."""
    x = x.requires_grad_()
    F.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    return x + float(threat.eps) * x.grad.sign()


def test_a_plain_callable_works_through_evaluate() -> None:
    model = network()
    images = images_for(model, 40)
    done = robustcl.evaluate(model, images.pixels, images.labels, threat=Threat("1/20"), attacks=[fgsm])
    x, y = images.pixels, images.labels
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
    moved = x + 0.05 * gradient.sign()
    with torch.no_grad():
        expected = (model(moved.clamp(0, 1)).argmax(1) == y) & (model(x).argmax(1) == y)
    assert done.robust["fgsm"].tolist() == expected.tolist()
    assert 0 < done.robust["fgsm"].sum() < 38
    assert all(p.grad is None for p in model.parameters())
    found = done.records[done.records["attack"] == "fgsm"]
    assert set(found["passes"]) == {3}, "one pass, one gradient, one verdict"


def short(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    return x[:1]


def test_a_callable_of_another_shape_is_refused() -> None:
    model = network()
    with pytest.raises(UserError) as caught:
        records(model, images_for(model), EPS, short)
    assert "attack short: did not return images of shape (10, 1, 4, 4)" in one_line(caught.value)


def test_counted_passes_are_the_hand_count() -> None:
    model = network()
    images = images_for(model, 60)
    found = records(model, images, Threat("1/25"), "pgd-6")
    assert (rows(found, "clean")["passes"] == 1).all()
    pgd = rows(found, "pgd-6")
    step = pgd["step"]
    # A gradient is asked at iterates 0 to step (2 each) and one verdict is given.
    expected = step.where(step >= 0, 6).map(lambda s: 2 * min(s + 1, 6) + 1)
    assert pgd["passes"].tolist() == expected.tolist()
    assert PGD(steps=6).cost(10) == 13 == pgd["passes"].max()
    assert len(set(pgd["passes"])) > 2


def test_restarts_find_at_least_as_much_and_cost_as_said() -> None:
    model = network()
    images = images_for(model, 60)
    threat = Threat("1/25")
    one = rows(records(model, images, threat, PGD(steps=2)), "pgd-2")
    many = rows(records(model, images, threat, PGD(steps=2, restarts=5)), "pgd-2x5")
    assert not (many["right"] & ~one["right"]).any()
    assert (many["passes"][many["right"]] == PGD(steps=2, restarts=5).cost(10)).all()


@pytest.mark.parametrize(
    ("name", "near"),
    [("autoatack", "autoattack"), ("pgd20", "pgd-20"), ("apgd-c", "apgd-ce"), ("sqare", "square"), ("pgd", "pgd-20")],
)
def test_unknown_names_give_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        judges([name], 10)
    text = one_line(caught.value)
    assert f"unknown attack '{name}'" in text
    assert f"did you mean '{near}'?" in text


@pytest.mark.parametrize("names", [[], ["clean"], [3]])
def test_no_attack_and_what_is_none(names: list[Any]) -> None:
    with pytest.raises(UserError) as caught:
        judges(names, 10)
    assert one_line(caught.value).startswith("attacks: ")


def test_identities_tell_attacks_apart() -> None:
    asked: list[Any] = ["pgd-3", "pgd-4", "pgd-3x2", PGD(steps=3, verdict="last"), "apgd-ce", "square", "fgsm"]
    asked += ["pgd-margin-3", "pgd-targeted-3", "pgd-3-eot4", "fab", "fab-t", "apgd-dlr", "apgd-t", "square-100"]
    found = [str(identity(next(iter(judges([one], 10).values()))[0])) for one in asked]
    found += [str(identity(judges([f], 10)[f.__name__][0])) for f in (garbage, liar)]
    found.append(str(identity(judges(["apgd-ce"], 10, Engine(name="replay"))["apgd-ce"][0])))
    assert len(set(found)) == len(found) == 18
