"""PGD's losses, targets, restarts, norms and draws, against closed forms and loops written out."""

import copy
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from robustcl.bench import pgd
from robustcl.bench.attacks import Attack
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import margins
from robustcl.bench.pgd import PGD, fgsm
from robustcl.models.errors import UserError
from robustcl.models.lean import Lean
from robustcl.models.seeding import ImageDraws, generator
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network, one_line

EPS = {"linf": Threat("1/120"), "l2": Threat("1/16", norm="l2"), "l1": Threat("1/5", norm="l1")}
DUAL: dict[str, Any] = {"linf": 1, "l2": 2, "l1": torch.inf}


def records(model: Any, images: Images, threat: Threat, attack: Attack, **more: Any) -> pd.DataFrame:
    found = judge(model, images, Trial(threat=threat, judges={"one": [attack]}, **more))
    return found[found["judge"] == "one"].reset_index(drop=True)


def linear(classes: int) -> tuple[nn.Module, Images, Tensor]:
    """A linear model, grey images that the box stays out of, and the differences of the rows of its weight."""
    g = torch.Generator().manual_seed(1)
    head = nn.Linear(64, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, 64, generator=g))
        head.bias.copy_(-head.weight.sum(1) / 2)  # grey is in the middle
    model = nn.Sequential(nn.Flatten(), head)
    x = 0.4 + 0.2 * torch.rand(40, 1, 8, 8, generator=g)
    y = model(x).argmax(1)
    apart = torch.stack([head.weight - head.weight[label] for label in y]).detach()
    return model, Images(x, y, classes=classes, name="grey"), apart


def lost(model: nn.Module, images: Images, apart: Tensor, threat: Threat) -> Tensor:
    """(n,) how far the best point of the ball is behind the decision: the closed form of a linear model."""
    logits = model(images.pixels).detach()
    reach = float(threat.eps) * torch.linalg.vector_norm(apart, DUAL[threat.norm], dim=2)
    gaps = logits - logits.gather(1, images.labels[:, None]) + reach
    best: Tensor = gaps.scatter(1, images.labels[:, None], -torch.inf).max(1).values
    return best


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
def test_towards_every_class_a_linear_model_is_solved(norm: Any, classes: int) -> None:
    """In turn towards every class is exact: no other attack can break more of a linear model."""
    model, images, apart = linear(classes)
    best = lost(model, images, apart, EPS[norm])
    attack = PGD(steps=12, loss="margin", target="each", targets=min(30, classes - 1), init="clean", share=0.0)
    right = torch.tensor(records(model, images, EPS[norm], attack)["right"].to_numpy())
    assert int((best > 0).sum()) > 0, "the case has to have lost images"
    assert right[best < -1e-4].all()
    assert not right[best > 1e-4].any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_between_two_classes_one_full_step_is_exact(norm: Any, loss: Any) -> None:
    model, images, apart = linear(2)
    best = lost(model, images, apart, EPS[norm])
    attack = PGD(steps=1, step="eps/1", init="clean", loss=loss, share=0.0)
    found = records(model, images, EPS[norm], attack)
    assert torch.tensor(found["margin"].to_numpy()).allclose(-best, atol=1e-4)
    assert (found["distance"] - float(EPS[norm].eps)).abs().max() < 1e-5
    assert set(found["attack"]) == {"fgsm-margin" if loss == "margin" else "fgsm"}
    assert 0 < found["right"].sum() < 40
    assert set(found["passes"]) == {attack.cost(2)} == {3}


def test_fgsm_is_one_full_step_up_the_cross_entropy() -> None:
    model = network()
    images = images_for(model, 40, wrong=0)
    found = records(model, images, Threat("1/20"), fgsm())
    x = images.pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), images.labels), x)
    moved = (images.pixels + 0.05 * gradient.sign()).clamp(0, 1)
    assert found["answer"].tolist() == model(moved).argmax(1).tolist()
    assert 0 < found["right"].sum() < 40


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("target", ["none", "each", "least-likely", "random"])
def test_equals_a_loop_written_out(loss: Any, target: Any) -> None:
    model, threat = network(), Threat("1/50")
    images = images_for(model, 30, wrong=0)
    attack = PGD(steps=5, loss=loss, target=target, targets=3, restarts=2, verdict="last")
    right = records(model, images, threat, attack, seed=4)["right"].tolist()
    expected = [_survives(model, images, threat, attack, row) for row in range(len(images))]
    assert right == expected
    assert 0 < sum(right) < 30


def _survives(model: nn.Module, images: Images, threat: Threat, attack: PGD, row: int) -> bool:
    """One image, as one would write it down."""
    x, y, image = images.pixels[row : row + 1], images.labels[row : row + 1], int(images.index[row])
    others = [c for c in model(x)[0].argsort(descending=True).tolist() if c != int(y)]
    drawn = int(torch.randint(9, (), generator=generator(4, "target", image)))
    goals: list[int | None] = {
        "none": [None],
        "each": others[:3],
        "least-likely": [others[-1]],
        "random": [(int(y) + 1 + drawn) % 10],
    }[attack.target]
    for restart in range(2):
        for turn, goal in enumerate(goals):
            draws = ImageDraws([image], 4, "pgd", restart * len(goals) + turn)
            point = threat.random_start(x, draws)
            for _ in range(5):
                point = point.detach().requires_grad_()
                z = model(point)
                if attack.loss == "ce":
                    loss = F.cross_entropy(z, y) if goal is None else -F.cross_entropy(z, torch.tensor([goal]))
                else:
                    loss = -margins(z, y)[0] if goal is None else z[0, goal] - z[0, int(y)]
                (g,) = torch.autograd.grad(loss, point)
                point = threat.project(point.detach() + float(threat.eps) / 4 * g.sign(), x)
            if int(model(point).argmax(1)) != int(y):
                return False
    return True


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
@pytest.mark.parametrize("target", ["none", "each", "least-likely", "random"])
def test_any_number_of_classes_and_the_cost_is_a_bound(classes: int, target: Any) -> None:
    model = network(classes)
    images = images_for(model, 12, classes=classes)
    attack = PGD(steps=3, target=target, restarts=2, loss="margin")
    found = records(model, images, Threat("1/500"), attack)
    assert found["right"].any()
    assert found["passes"].max() == attack.cost(classes)


@pytest.mark.parametrize("target", ["each", "random"])
def test_targets_do_not_depend_on_batches(target: Any) -> None:
    model = network()
    images = images_for(model, 20)
    attack = PGD(steps=4, target=target, restarts=2)
    whole, parts = (records(model, images, Threat("1/40"), attack, batch=batch) for batch in (256, 3))
    exact = ["image", "answer", "right", "step", "passes"]
    pd.testing.assert_frame_equal(whole[exact], parts[exact])
    assert set(whole["right"]) == {True, False}


class Noisy(nn.Module):
    """A model whose gradients drown in what it draws, from the global generator, in every answer."""

    def __init__(self, model: nn.Module, noise: float) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        tilt = self.noise * torch.randn(x.shape)
        answer: Tensor = self.model(x) + (tilt * (x - x.detach())).flatten(1).sum(1, keepdim=True) * torch.eye(2)[0]
        return answer


def test_the_mean_over_draws_finds_what_one_draw_misses() -> None:
    """The answers are those of a linear model, the gradients are noise around its own: averaging finds the way."""
    model, images, apart = linear(2)
    threat = EPS["linf"]
    noisy = Noisy(model, noise=3.0)
    best = lost(model, images, apart, threat)
    one, many = (records(noisy, images, threat, PGD(steps=1, step="eps/1", init="clean", samples=s)) for s in (1, 64))
    exact = -best.numpy()
    assert (many["margin"] - exact).mean() < 0.15 * (one["margin"] - exact).mean()
    assert (many["margin"] >= exact - 1e-4).all()
    assert set(many["passes"]) == {2 * 64 + 1} == {PGD(steps=1, samples=64).cost(2)}


def test_a_model_that_draws_answers_the_same_in_every_run_and_moves_no_generator() -> None:
    model = nn.Sequential(nn.Dropout(0.0), network())
    images = images_for(model, 20)

    def draws(x: Tensor) -> Tensor:
        answer: Tensor = model(x + 0.05 * torch.randn_like(x))
        return answer

    before = torch.get_rng_state()
    trial = Trial(threat=Threat("1/30"), judges={"eot": [PGD(steps=3, samples=4)]}, batch=8)
    first = judge(draws, images, trial)
    torch.rand(5)
    moved = torch.get_rng_state()
    pd.testing.assert_frame_equal(first, judge(draws, images, trial))
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(before, moved)
    other = judge(draws, images, Trial(threat=Threat("1/30"), judges=trial.judges, batch=8, seed=1))
    assert not first["margin"].equals(other["margin"])


class Passes(TorchDispatchMode):
    """Counts the images that convolutions are given, forwards and input gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward = self.inputs = self.weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket is torch.ops.aten.convolution:
            self.forward += len(args[0])
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            image, weight, _ = args[-1]
            self.inputs, self.weights = self.inputs + image * len(args[0]), self.weights + weight * len(args[0])
        return func(*args, **(kwargs or {}))


def convolutional() -> tuple[nn.Module, Images]:
    """One convolution with a batch norm, and images of which an attack breaks some, each at another step."""
    torch.manual_seed(3)
    head = nn.Linear(8, 10)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    nn.init.normal_(head.weight)
    return model.eval(), images_for(model.eval(), 40, wrong=4)


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("restarts", [1, 2])
def test_the_passes_in_the_records_are_those_that_were_taken(
    every: int, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = convolutional()
    monkeypatch.setattr(pgd, "patience", lambda device: every)
    with Passes() as counted:
        found = judge(model, images, Trial(threat=Threat("1/20"), judges={"one": [PGD(restarts=restarts)]}, batch=16))
    assert set(found["right"]) == {True, False}
    with Passes() as making:
        Lean(model, images.floats(slice(2)))
    assert counted.forward + counted.inputs - making.forward == found["passes"].sum()
    assert counted.inputs > 0
    assert counted.weights == 0


@pytest.mark.parametrize("every", [3, 10])
def test_looking_seldom_at_who_is_broken_changes_the_passes_alone(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accelerator does, so as not to wait: the point that is judged is the first that was wrong as well."""
    model, images = convolutional()
    often = records(model, images, Threat("1/20"), PGD(restarts=2))
    monkeypatch.setattr(pgd, "patience", lambda device: every)
    seldom = records(model, images, Threat("1/20"), PGD(restarts=2))
    columns = ["image", "answer", "right", "step", "margin", "distance"]
    pd.testing.assert_frame_equal(often[columns], seldom[columns], check_exact=False, rtol=1e-4, atol=1e-6)
    assert len(often[~often["right"]]["step"].unique()) > 3
    assert (seldom["passes"] >= often["passes"]).all()
    assert (seldom["passes"] > often["passes"]).any()


class Unfolded(nn.Module):
    """A model of which the lean copy answers otherwise after its first three calls: most of its claims are wrong."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.copied, self.calls = model, False, 0

    def __deepcopy__(self, memo: Any) -> "Unfolded":
        other = Unfolded(copy.deepcopy(self.model))
        other.copied = True
        return other

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(x)
        return logits.roll(1, dims=1) if self.copied and self.calls > 3 else logits


def test_what_the_judge_does_not_confirm_goes_on() -> None:
    """The copy calls every image wrong at every step: nobody is lost by its word alone, all climb to the end."""
    model, images = convolutional()
    attack = PGD(steps=6, init="clean")
    found = records(Unfolded(model), images, Threat("1/100000"), attack)
    assert found["right"].all()
    assert set(found["step"]) == {-1}
    assert set(found["passes"]) == {attack.cost(10) + 5}  # a look at each claim


def test_an_l1_step_over_a_share_of_the_pixels() -> None:
    gradient = torch.tensor([[[[3.0, -2.0], [1.0, 0.0]]]])
    threat = Threat("1", norm="l1")
    assert threat.steepest(gradient).flatten().tolist() == [1, 0, 0, 0]
    assert threat.steepest(gradient, 0.5).flatten().tolist() == [0.5, -0.5, 0, 0]
    assert threat.steepest(gradient, 0.75).flatten().tolist() == pytest.approx([1 / 3, -1 / 3, 1 / 3, 0])
    for norm in ("linf", "l2"):
        other = Threat("1", norm=norm)
        assert torch.equal(other.steepest(gradient), other.steepest(gradient, 0.5))


def test_in_l1_steps_along_many_pixels_find_more() -> None:
    """Where the box stops a single pixel soon, few steps along one pixel at a time go nowhere."""
    g = torch.Generator().manual_seed(2)
    head = nn.Linear(400, 2)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, 400, generator=g))
        head.bias.zero_()
    model = nn.Sequential(nn.Flatten(), head)
    x = torch.rand(60, 1, 20, 20, generator=g)
    images = Images(x, model(x).argmax(1), classes=2, name="wide")
    threat = Threat("6", norm="l1")
    single, share = (
        int(records(model, images, threat, PGD(steps=10, init="clean", share=share))["right"].sum())
        for share in (0.0, 0.05)
    )
    assert share < single


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (PGD(), "pgd-20"),
        (PGD(restarts=5), "pgd-20x5"),
        (PGD(steps=7, loss="margin"), "pgd-margin-7"),
        (PGD(target="each"), "pgd-targeted-20"),
        (PGD(target="random", loss="margin", samples=3), "pgd-margin-random-20-eot3"),
        (PGD(target="least-likely", verdict="last"), "pgd-least-likely-20-last"),
        (fgsm(), "fgsm"),
    ],
)
def test_names_say_what_is_not_the_default(attack: PGD, name: str) -> None:
    assert attack.name == name


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"restarts": 3, "init": "clean"}, "restarts from clean images are all the same"),
        ({"loss": "dlr"}, "PGD.loss: 'dlr' is wrong, expected 'ce' or 'margin'"),
        ({"target": "all"}, "PGD.target: 'all' is wrong"),
        ({"samples": 0}, "PGD.samples: 0 is wrong"),
    ],
)
def test_wrong_fields_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        PGD(**fields)
    assert says in one_line(caught.value)
