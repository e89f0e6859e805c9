"""The only owner of the tests of the checks: planted failures must be found, honest models must come out ok."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import robustcl
from robustcl.bench.attacks import Attack, Judge, judges
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.findings import Finding, Reliability, beyond, graded
from robustcl.bench.pgd import PGD
from robustcl.bench.reliability import PART, PASSES, check, cost
from robustcl.models.checkpoint import load_classifier
from robustcl.models.seeding import generator
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import plain, value
from robustcl.pretraining.images import Images
from tests.bench.tiny import trained
from tests.regression.regenerate import FOLDER, IMAGES, JUDGES, stored_threat

THREAT = Threat("1/10")
Answer = Callable[[nn.Module, Tensor], Tensor]


@value
class Square(Attack):
    """A black box in the manner of Square: random stripes at the corners of the ball, kept where the margin falls."""

    version: ClassVar[int] = 1
    queries: int = 60

    @property
    def name(self) -> str:
        return "square"

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return self.queries

    def run(self, judge: Judge) -> None:
        source, eps = generator(judge.seed, "square"), float(judge.threat.eps)
        for rows in judge.batches():
            for query in range(self.queries):
                signs = torch.randint(0, 2, (len(rows), 1, 1, judge.x.shape[3]), generator=source) * 2.0 - 1
                judge.confirm(judge.x[rows] + eps * signs, rows, query)
            judge.finish(rows)


class Defended(nn.Module):
    """An honest network behind something that changes what it answers."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.inner, self.answer = trained(10, 1)[0], answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.inner, x)


@cache
def digits(n: int = 128) -> Images:
    return Digits().load().test.take(slice(0, n))


@cache
def known() -> tuple[Tensor, Tensor]:
    train = Digits().load().train
    return train.floats(slice(0, 600)).flatten(1), one_hot(train.labels[:600], 10).float()


def checked(model: nn.Module, *names: str | Attack, threat: Threat = THREAT, n: int = 96) -> Reliability:
    trial = Trial(threat=threat, judges=judges(names or ["pgd-20"], 10), batch=64)
    return check(model, digits(n), trial, judge(model, digits(n), trial))


def found(of: Reliability, name: str) -> Finding:
    (one,) = (finding for finding in of.findings if finding.check == name)
    return one


@cache
def hardened() -> nn.Module:
    """Adversarially trained on digits, a few hundred steps of the smallest kind."""
    x, y = (part[:600] for part in (Digits().load().train.floats(slice(None)), Digits().load().train.labels))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        point = x.clone()
        for _ in range(3):
            point.requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(model(point), y), point)
            point = THREAT.project(point.detach() + 0.05 * gradient.sign(), x)
        optimiser.zero_grad()
        cross_entropy(model(point), y).backward()
        optimiser.step()
    return model.eval()


def linear() -> nn.Module:
    train = Digits().load().train
    x, y = train.floats(slice(None)).flatten(1), train.labels
    layer = nn.Linear(64, 10, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ (one_hot(y, 10).float() - 0.1)).T)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("make", [linear, lambda: trained(10, 1)[0], hardened], ids=["linear", "cnn", "hardened"])
def test_honest_models_are_ok(make: Callable[[], nn.Module], norm: str) -> None:
    threat = {"linf": THREAT, "l2": Threat("1/2", norm="l2"), "l1": Threat("2", norm="l1")}[norm]
    of = checked(make(), "pgd-20", threat=threat)
    assert of.verdict == "ok", [finding for finding in of.findings if finding.verdict != "ok"]
    assert [finding.check for finding in of.findings] == [
        "in_ball", "logits", "randomised", "zero_gradient", "eps0", "monotone_eps", "monotone_steps", "large_eps"
    ]  # fmt: skip
    assert not any(finding.next for finding in of.findings)


def test_an_honest_model_is_ok_under_a_black_box_too() -> None:
    bench: Sequence[Attack] = [PGD(steps=20, restarts=3), Square()]
    trial = Trial(threat=THREAT, judges={"both": bench}, batch=64)
    records = judge(hardened(), digits(), trial)
    of = check(hardened(), digits(), trial, records)
    assert of.verdict == "ok"
    assert found(of, "square_gain").value < 0.02


def test_the_stored_judgement_of_autoattack_is_ok() -> None:
    """An adversarially trained network with batch norm, and the records of the real AutoAttack, Square included."""
    model = load_classifier(FOLDER / "classifier.safetensors")
    trial = Trial(threat=stored_threat(), judges=judges(JUDGES, 10), batch=64)
    of = check(model, digits(IMAGES), trial, pd.read_parquet(FOLDER / "records.parquet"))
    assert of.verdict == "ok", [finding for finding in of.findings if finding.verdict != "ok"]
    assert found(of, "square_gain").found == "Square broke 0 of 96 images that autoattack's gradient attacks had left"


def hard(inner: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = inner(x)
    return 5 * one_hot(logits.argmax(1), 10).float() + 0 * logits


def quantised(inner: nn.Module, x: Tensor) -> Tensor:
    return Tensor(inner((4 * x).round() / 4))


def noisy(inner: nn.Module, x: Tensor) -> Tensor:
    return Tensor(inner(x + 0.2 * torch.randn_like(x)))


def wary(inner: nn.Module, x: Tensor) -> Tensor:
    """Answers with the nearest of known images, without a gradient, once the margins of the image look attacked."""
    images, answers = known()
    nearest = torch.cdist(x.detach().flatten(1), images).argmin(1)
    alarm = x[..., [0, -1]].mean((1, 2, 3))[:, None] > 0.06
    logits: Tensor = inner(x)
    return torch.where(alarm, 20 * answers[nearest] + 0 * logits, logits)


@pytest.mark.parametrize(
    ("answer", "name", "verdict"),
    [
        (lambda inner, x: inner(x).softmax(1), "logits", "unreliable"),
        (hard, "zero_gradient", "unreliable"),
        (quantised, "zero_gradient", "unreliable"),
        (quantised, "large_eps", "unreliable"),
        (lambda inner, x: 1000 * inner(x), "zero_gradient", "unreliable"),
        (lambda inner, x: 1000 * inner(x), "logits", "suspect"),
        (noisy, "randomised", "unreliable"),
        (wary, "monotone_eps", "unreliable"),
    ],
    ids=["softmax", "argmax", "quantised", "quantised-far", "saturated", "large", "noisy", "wary"],
)
def test_planted_failures_are_found(answer: Answer, name: str, verdict: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        of = checked(Defended(answer))
    assert found(of, name).verdict == verdict, found(of, name)
    assert found(of, name).next
    assert of.verdict == "unreliable"
    assert "pgd-20" in found(of, name).judges or not found(of, name).judges


def test_square_beats_masked_gradients() -> None:
    masked = Defended(quantised)
    trial = Trial(threat=THREAT, judges={"both": [PGD(steps=20), Square()]}, batch=64)
    records = judge(masked, digits(), trial)
    of = found(check(masked, digits(), trial, records), "square_gain")
    broken = records.query("attack == 'square' and not right")
    assert of.verdict == "unreliable"
    assert of.value == len(broken) / 128 > 0.05


def test_saturation_blinds_the_cross_entropy_alone() -> None:
    """A logit scale does nothing to the apgd-t of AutoAttack, whose loss does not depend on it."""
    of = checked(Defended(lambda inner, x: 1000 * inner(x)), "pgd-5", "apgd-t", n=16)
    assert of.against("pgd-5")
    assert of.against("apgd-t") == ()
    assert checked(Defended(lambda inner, x: 1000 * inner(x)), "apgd-t", n=16).verdict == "ok"


def test_log_probabilities_are_logits() -> None:
    of = checked(Defended(lambda inner, x: inner(x).log_softmax(1)))
    assert of.verdict == "ok"
    assert "log-probabilities" in found(of, "logits").found


def test_few_classes_are_told() -> None:
    few = Images(digits().pixels, digits().labels % 2, classes=2, name="parity")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    trial = Trial(threat=THREAT, judges=judges(["pgd-3"], 2))
    of = check(model, few, trial, judge(model, few, trial))
    assert "without apgd-t" in found(of, "logits").found


def test_points_outside_the_ball_are_found() -> None:
    model, trial = linear(), Trial(threat=THREAT, judges=judges(["pgd-3", "pgd-5"], 10))
    records = judge(model, digits(), trial)
    records.loc[records.query("judge == 'pgd-5'").index[0], "distance"] = 0.11
    of = check(model, digits(), trial, records)
    assert found(of, "in_ball").verdict == "unreliable"
    assert of.against("pgd-3") == ()
    assert [one.check for one in of.against("pgd-5")] == ["in_ball"]


def test_an_answer_that_depends_on_the_draw_is_lost_at_eps_zero() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        of = checked(Defended(lambda inner, x: inner(x + 0.5 * torch.randn_like(x))))
    assert found(of, "eps0").verdict == "unreliable"


def test_more_steps_that_break_less_are_found() -> None:
    """A model that counts how often it was asked for a gradient, and gives false ones later."""

    class Tiring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.asked = linear(), 0

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            self.asked = self.asked + 1 if x.requires_grad else 0
            return logits if self.asked < 6 else 2 * logits.detach() - logits

    of = checked(Tiring())
    assert found(of, "monotone_steps").verdict == "unreliable", found(of, "monotone_steps")


def test_a_model_without_any_gradient_is_told_so() -> None:
    def frozen(inner: nn.Module, x: Tensor) -> Tensor:
        return Tensor(inner(x)).detach()

    of = checked(Defended(frozen), Square())
    assert found(of, "zero_gradient").verdict == "unreliable"
    assert found(of, "large_eps").verdict == "unreliable"


def test_a_judge_that_begins_with_square_tells_on_the_others() -> None:
    """Two columns, PGD and Square, and not one judge of both: the PGD column is not to be believed either."""
    masked = Defended(quantised)
    trial = Trial(threat=THREAT, judges={"pgd-20": [PGD(steps=20)], "square": [Square()]}, batch=64)
    records = judge(masked, digits(), trial)
    of = found(check(masked, digits(), trial, records), "square_gain")
    right = records.groupby(["judge", "image"])["right"].all().unstack("judge")
    assert of.value == (right["pgd-20"] & ~right["square"].astype(bool)).sum() / 128 > 0.05
    assert of.verdict == "unreliable"
    assert of.judges == ("pgd-20",)


def test_gradients_that_are_no_numbers_count_as_none() -> None:
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * float("nan")

    of = checked(Defended(lambda inner, x: inner(Root.apply(x))))  # type: ignore[no-untyped-call]
    assert found(of, "zero_gradient").verdict == "unreliable"


def test_checks_are_cheap_repeat_and_leave_the_model_alone() -> None:
    model = Defended(lambda inner, x: inner(x))
    model.train()
    before = [p.grad.clone() if p.grad is not None else torch.zeros(()) for p in model.parameters()]
    trial = Trial(threat=THREAT, judges=judges(["pgd-3"], 10), batch=64)
    records = judge(model, digits(), trial)
    one = check(model, digits(), trial, records, part=32)
    assert one == check(model, digits(), replace(trial, batch=7), records, part=32)
    assert one.images == 32
    assert 10 * 32 <= one.passes <= PASSES * 32 == cost(32)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(
        torch.equal(p.grad, held) for p, held in zip(model.parameters(), before, strict=True) if p.grad is not None
    )
    pd.testing.assert_frame_equal(records, judge(model, digits(), trial))
    assert robustcl.models.value.read(Reliability, plain(one), "x") == one


def test_the_cost_is_counted_and_small() -> None:
    images, model = digits(), trained(10, 1)[0]
    with torch.no_grad():
        right = Images(images.pixels, model(images.floats(slice(None))).argmax(1), classes=10, name="right")
    trial = Trial(threat=THREAT, judges=judges(["pgd-1"], 10))
    assert check(model, right, trial, judge(model, right, trial)).passes == cost(len(right)) == PASSES * PART
    assert cost(10_000) <= 3 * sum(attack.cost(10) for attack in judges(["autoattack"], 10)["autoattack"])


def test_counts_are_graded_by_what_chance_explains() -> None:
    assert not beyond(0, 128, 0.0)
    assert beyond(1, 128, 0.0)
    assert graded(2, 300, 0.002, 0.02) == "ok", "two images of 300 are no evidence of more than 0.2 %"
    assert graded(4, 300, 0.002, 0.02) == "suspect"
    assert graded(15, 300, 0.002, 0.02) == "unreliable"
    assert graded(25, 10_000, 0.002, 0.02) == "ok"
    assert graded(40, 10_000, 0.002, 0.02) == "suspect"


def test_evaluate_checks_unless_told_not_to() -> None:
    masked = Defended(quantised)
    images = digits()
    done = robustcl.evaluate(masked, images.pixels, images.labels, threat=THREAT, attacks=["pgd-5"])
    assert done.reliability is not None
    assert done.reliability.verdict == "unreliable"
    text = str(done)
    assert "reliability: unreliable" in text
    assert "!(1" in text
    assert "Try next:" in text
    assert done.fingerprints["pgd-5"] in text.replace("\n", " ")
    bare = robustcl.evaluate(masked, images.pixels, images.labels, threat=THREAT, attacks=["pgd-5"], checks=False)
    assert bare.reliability is None
    assert "reliability: unchecked" in str(bare)
    assert bare.records.equals(done.records)
