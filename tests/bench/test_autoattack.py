"""The attacks of AutoAttack as we run them, against the package everybody cites, image by image."""

import dataclasses
import importlib.machinery
import importlib.util
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

import robustcl
from robustcl.bench.attacks import Attack, Engine, identity, judges
from robustcl.bench.autoattack import reference
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.versions import VERSIONS
from robustcl.bench.datasets.npz import Npz
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import fitted, images_for, network, one_line, trained

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
QUERIES = 100


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, Tensor, Tensor]:
    return trained(n=24)


def short(bench: list[Attack], queries: int = QUERIES, steps: int = 100) -> list[Attack]:
    """The same attacks, with fewer queries and steps."""
    number = {Square: {"queries": queries}, APGD: {"steps": steps}, FAB: {"steps": steps}}
    return [dataclasses.replace(attack, **number[type(attack)]) for attack in bench]


def ours(
    model: nn.Module, images: Images, threat: Threat, batch: int, name: str = "autoattack", **fewer: int
) -> pd.DataFrame:
    bench = short(judges([name], images.classes, Engine(name="reference", batch=batch))[name], **fewer)
    return judge(model, images, Trial(threat=threat, judges={name: bench}))


def direct(
    model: nn.Module,
    images: Images,
    threat: Threat,
    batch: int,
    version: Any = "standard",
    queries: int = QUERIES,
    steps: int = 100,
) -> tuple[Tensor, Tensor]:
    """Adversarial images and the answers to them, from the package's own front door."""
    tracer, x, y = sys.gettrace(), images.floats(slice(None)), images.labels
    with torch.random.fork_rng(devices=[]):
        engine = AutoAttack(
            model, norm=NAMES[threat.norm], eps=float(threat.eps), seed=0, version=version, device="cpu"
        )
        engine.square.n_queries, engine.fab.n_iter = queries, steps
        for apgd in (engine.apgd, engine.apgd_targeted):  # what follows from the steps is set where it is made
            apgd.n_iter = apgd.n_iter_orig = steps
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(f * steps), 1) for f in (0.22, 0.06, 0.03))
        found: tuple[Tensor, Tensor] = engine.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch)
    sys.settrace(tracer)  # its check for dynamic models removes whatever tracer there was, coverage's too
    return found


def same(records: pd.DataFrame, images: Images, threat: Threat, theirs: tuple[Tensor, Tensor]) -> None:
    """Verdict, answer and distance of every image are those of the direct call, and both outcomes occur."""
    x_adv, answers = theirs
    last = records.groupby("image").last().loc[images.index.tolist()]
    assert last["right"].tolist() == (answers == images.labels).tolist()
    clean = records[(records["judge"] == "clean") & records["right"]]["image"]
    assert 0 < last["right"].sum() < len(clean), "both outcomes have to occur"
    lost = torch.tensor((~last["right"] & last.index.isin(clean)).to_numpy())
    assert last["answer"][lost.tolist()].tolist() == answers[lost].tolist()
    moved = threat.distance(x_adv, images.floats(slice(None)))[lost]
    assert torch.tensor(last["distance"][lost.tolist()].to_numpy()).allclose(moved, atol=1e-5)


def as_images(x: Tensor, y: Tensor, classes: int = 10) -> Images:
    return Images(x, y, classes=classes, name="digits")


@pytest.mark.parametrize(
    ("norm", "eps", "batch", "steps", "n"),
    [("linf", "1/9", 7, 100, 8), ("l2", "3/5", 7, 12, 14), ("l1", "5/4", 7, 12, 14)],
)
def test_standard_equals_a_direct_call(
    small: tuple[Any, Any, Any], norm: Any, eps: str, batch: int, steps: int, n: int
) -> None:
    model, images, threat = small[0], as_images(small[1][:n], small[2][:n]), Threat(eps, norm=norm)
    theirs = direct(model, images, threat, batch, steps=steps)
    same(ours(model, images, threat, batch, steps=steps), images, threat, theirs)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_plus_equals_a_direct_call(small: tuple[Any, Any, Any], norm: Any) -> None:
    model, images = small[0], as_images(small[1][:8], small[2][:8])
    threat = Threat({"linf": "1/9", "l1": "5/4"}[norm], norm=norm)
    theirs = direct(model, images, threat, 5, "plus", steps=5)
    same(ours(model, images, threat, 5, "autoattack-plus", steps=5), images, threat, theirs)


class Noisy(nn.Module):
    """A model that draws from the global generator in every answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.model(x + 0.01 * torch.randn_like(x))
        return answer


def test_rand_equals_a_direct_call_on_a_model_that_draws(small: tuple[Any, Any, Any]) -> None:
    model, images, threat = Noisy(small[0]), as_images(small[1][:12], small[2][:12]), Threat("1/9")
    before = torch.get_rng_state()
    records = ours(model, images, threat, 7, "autoattack-rand", steps=10)
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator moved"
    assert set(records["attack"]) == {"clean", "apgd-ce-10-eot20", "apgd-dlr-10-eot20"}
    same(records, images, threat, direct(model, images, threat, 7, "rand", steps=10))
    pd.testing.assert_frame_equal(records, ours(model, images, threat, 7, "autoattack-rand", steps=10))


@pytest.mark.skipif("ROBUSTCL_DATA" not in os.environ, reason="ROBUSTCL_DATA names no folder with mnist.npz")
@pytest.mark.parametrize(("norm", "eps"), [("linf", "1/10"), ("l2", "3/2")])
def test_a_classifier_of_real_digits_gets_the_verdicts_of_a_direct_call(norm: Any, eps: str) -> None:
    train, test = Npz(path=Path(os.environ["ROBUSTCL_DATA"]) / "mnist.npz", train=4000).load()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        layers = [nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(256, 10))
    fitted(model, train, steps=600, batch=128)
    images, threat = test.sample(64), Threat(eps, norm=norm)
    records = ours(model, images, threat, 50, queries=1000)
    clean = records[records["judge"] == "clean"]["right"]
    assert clean.mean() > 0.9, "a classifier worth the name"
    same(records, images, threat, direct(model, images, threat, 50, queries=1000))
    print(f"\n{threat}: clean {clean.sum()}/64, robust {records.groupby('image').last()['right'].sum()}/64, as direct")


MEMBERS: dict[str, Attack] = {
    "apgd-ce": APGD(steps=20),
    "apgd-dlr": APGD(loss="dlr", steps=20),
    "apgd-t": APGD(loss="targeted", steps=20, targets=3),
    "fab": FAB(targeted=False, steps=20),
    "fab-t": FAB(steps=20, targets=3),
    "square": Square(queries=200),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_every_attack_finds_what_there_is(name: str, norm: Any) -> None:
    """The closed form: an image is lost iff its margin is below eps times the dual norm of a difference of rows."""
    g = torch.Generator().manual_seed(1)
    head = nn.Linear(64, 5)
    with torch.no_grad():
        head.weight.copy_(torch.randn(5, 64, generator=g))
        head.bias.zero_()
    model = nn.Sequential(nn.Flatten(), head)
    x = 0.4 + 0.2 * torch.rand(40, 1, 8, 8, generator=g)  # the box stays out of it
    y = model(x).argmax(1)
    threat = Threat({"linf": "1/60", "l2": "1/8", "l1": "3/10"}[norm], norm=norm)
    order = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    logits, apart = model(x).detach(), torch.stack([head.weight - head.weight[label] for label in y]).detach()
    reach = float(threat.eps) * torch.linalg.vector_norm(apart, order, dim=2)
    best = (logits - logits.gather(1, y[:, None]) + reach).scatter(1, y[:, None], -torch.inf).max(1).values
    found = judge(model, as_images(x, y, 5), Trial(threat=threat, judges={name: [MEMBERS[name]]}))
    right = torch.tensor(found[found["attack"] != "clean"]["right"].to_numpy())
    assert 5 < (best > 0).sum() < 35
    assert right[best < 0].all(), "what cannot be broken is not"
    broken = int((~right).sum())
    share = {"square": 0.2, "apgd-dlr": 0.9}.get(name, 0.95 if norm != "l1" else 0.85)
    assert broken >= share * int((best > 0.05).sum()), f"{broken} of {int((best > 0).sum())}"


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 1000])
@pytest.mark.parametrize("version", VERSIONS)
def test_few_and_many_classes(classes: int, version: str) -> None:
    model = network(classes)
    images = images_for(model, 4, classes=classes, wrong=1)
    before = torch.get_rng_state()
    bench = judges([version], classes, Engine(name="reference", batch=8))[version]
    names = [attack.name for attack in VERSIONS[version](10, engine="reference", batch=8)]
    few = {"apgd-t": 4, "apgd-dlr-100x5": 3, "apgd-dlr-eot20": 3}
    assert [attack.name for attack in bench] == [name for name in names if classes >= few.get(name, 2)]
    targets = {a.targets for a in bench if isinstance(a, APGD | FAB) and a.name in ("apgd-t", "fab-t")}
    if version == "autoattack" and classes < 10:
        assert targets == {classes - 1}
    quick = [dataclasses.replace(a, restarts=1) if isinstance(a, FAB) else a for a in short(bench, 20, 3)]
    found = judge(model, images, Trial(threat=Threat("1/50"), judges={version: quick}))
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator moved"
    assert found[found["judge"] == "clean"]["right"].sum() == 3
    assert set(found["attack"]) <= {"clean", *(attack.name for attack in quick)}
    assert len(found) > 4


@pytest.mark.parametrize(("name", "classes", "needs"), [("apgd-dlr", 2, 3), ("apgd-t", 3, 4)])
def test_a_loss_for_more_classes_is_refused_in_one_line(name: str, classes: int, needs: int) -> None:
    with pytest.raises(UserError) as caught:
        judges([name], classes, Engine(name="reference", batch=8))
    expected = f"attacks: {name}: its loss needs {needs} classes, the model has {classes}; try apgd-ce or pgd-margin-20"
    assert one_line(caught.value) == expected


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="a model of 1 class, expected at least 2"):
        judges(["autoattack"], 1, Engine(name="reference", batch=8))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_square_on_images_of_four_pixels_is_refused_in_one_line(norm: Any) -> None:
    model = network()
    with pytest.raises(UserError, match=rf"square-100: images of side 4, expected at least 5 in {norm}"):
        ours(model, images_for(model, 6), Threat("1/1000", norm=norm), 8, "square")


def test_l1_stays_in_its_ball() -> None:
    model = network()
    images = images_for(model, 6)
    records = ours(model, images, Threat("3/4", norm="l1"), 256)
    assert (records["distance"] <= 0.75 + 1e-4).all()
    assert len(records) > 6


def test_eps_zero_asks_for_one_verdict_alone() -> None:
    model = network()
    images = images_for(model, 6)
    done = robustcl.evaluate(model, images.pixels, images.labels, threat=Threat("0"), attacks=["autoattack"])
    assert done.robust["autoattack"].tolist() == done.clean.tolist()
    assert set(done.records["passes"]) == {1}


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("version", VERSIONS)
def test_costs_are_what_is_spent_on_an_image_that_stays_right(norm: Any, version: str) -> None:
    """A model whose logits hardly move is not broken; the bound that the plan prints has to hold."""
    head = nn.Linear(36, 10)
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.copy_(torch.arange(10.0))
    model = nn.Sequential(nn.Flatten(), head)
    pixels = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.tensor([9, 9]), classes=10, name="fixed")
    attacks = {
        one.name: [one] for one in short(VERSIONS[version](10, engine="reference", batch=8), steps=15, queries=60)
    }
    found = judge(model, images, Trial(threat=Threat("1/10", norm=norm), judges=attacks))
    assert found["right"].all()
    for name, (attack,) in attacks.items():
        spent = found[found["judge"] == name]["passes"]
        assert spent.max() == attack.cost(10, norm), name


def test_nothing_is_logged_and_no_warning_leaks(caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    """Where a gradient is zero, the package says so in a log; here that is a column, not a line."""
    model = nn.Sequential(nn.Flatten(), nn.Hardtanh(-1e-9, 1e-9), nn.Linear(16, 10))
    images = images_for(model, 4, wrong=0)
    with caplog.at_level(logging.DEBUG):
        for name in VERSIONS:
            ours(model, images, Threat("1/100"), 8, name, steps=5)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_fields_reach_the_engine() -> None:
    """Counted passes: twice the restarts, steps, queries and draws cost what they should."""
    head = nn.Linear(16, 10)
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.copy_(torch.arange(10.0))
    model = nn.Sequential(nn.Flatten(), head)
    images = Images(torch.full((1, 1, 4, 4), 0.5), torch.tensor([9]), classes=10, name="grey")
    asked = [APGD(steps=10), APGD(steps=20), APGD(steps=10, restarts=2), APGD(steps=10, samples=2), FAB(steps=10)]
    asked += [FAB(steps=10, targets=2), FAB(steps=10, restarts=2), Square(queries=50), Square(queries=50, restarts=2)]
    bench = {str(number): [attack] for number, attack in enumerate(asked)}
    found = judge(model, images, Trial(threat=Threat("1/100"), judges=bench))
    spent = found[found["judge"] != "clean"]["passes"].tolist()
    costs = [attack.cost(10) for attack in asked]
    assert spent[:7] == costs[:7]
    assert all(0 < few <= most for few, most in zip(spent[7:], costs[7:], strict=True)), "Square asks for news alone"
    assert len(set(costs)) >= 7
    assert [attack.name for attack in asked] == [
        *("apgd-ce-10", "apgd-ce-20", "apgd-ce-10x2", "apgd-ce-10-eot2", "fab-t-10"),
        *("fab-t-10", "fab-t-10x2", "square-50", "square-50x2"),
    ]


def test_an_autoattack_from_git_is_used_when_present(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reference.package().startswith("pyautoattack ")
    fake = types.ModuleType("autoattack")
    fake.__spec__ = importlib.machinery.ModuleSpec("autoattack", None)
    square = types.ModuleType("autoattack.square")
    made: list[dict[str, Any]] = []

    class Theirs:
        def __init__(self, predict: nn.Module, **given: Any) -> None:
            made.append(given)

        def perturb(self, x: Tensor, y: Tensor) -> Tensor:
            return 1 - x

    square.SquareAttack = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", fake)
    monkeypatch.setitem(sys.modules, "autoattack.square", square)
    assert importlib.util.find_spec("autoattack") is fake.__spec__
    assert reference.package() == "autoattack"
    model = network(5)
    images = images_for(model, 6, classes=5)
    done = robustcl.evaluate(
        model, images.pixels, images.labels, threat=Threat("1/1000000"), attacks=["square"], seed=3, engine="reference"
    )
    (given,) = made
    assert (given["norm"], given["eps"], given["seed"], given["n_queries"]) == ("Linf", 1e-6, 3, 5000)
    assert done.robust["square"].tolist() == done.clean.tolist(), "1 - x is far outside the ball"


def test_the_engine_is_part_of_the_identity() -> None:
    one, other = (Square(engine=e) for e in ("pyautoattack 0.2.0", "autoattack 0.1"))
    assert identity(one) != identity(other)
    assert identity(one) == identity(Square(engine="pyautoattack 0.2.0"))
