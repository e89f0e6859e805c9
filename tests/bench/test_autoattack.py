"""Our adapter against the package everybody cites, image by image."""

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import pandas as pd
import pytest
import torch
from pyautoattack import AutoAttack

import robustcl
from robustcl.bench.attacks import identity, judges
from robustcl.bench.autoattack import reference
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network, trained


@pytest.fixture
def short_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square with fewer queries, in the package itself, so that both sides have it; all else stays standard."""
    original = AutoAttack._set_version

    def fewer(self: Any, version: str = "standard") -> None:
        original(self, version)
        self.square.n_queries = 100

    monkeypatch.setattr(AutoAttack, "_set_version", fewer)


@pytest.fixture(scope="module")
def small() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    return trained(n=24)


def broken_by(records: pd.DataFrame) -> dict[int, str]:
    """Image -> the first attack that broke it."""
    lost = records[(records["judge"] == "autoattack") & ~records["right"]]
    return {int(image): str(attack) for image, attack in zip(lost["image"], lost["attack"], strict=True)}


def direct(model: torch.nn.Module, x: Any, y: Any, norm: str, eps: float, batch: int) -> tuple[Any, Any]:
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[]):
        engine = AutoAttack(model, norm=norm, eps=eps, seed=0, version="standard", device="cpu")
        found: tuple[Any, Any] = engine.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch)
    sys.settrace(tracer)  # its check for dynamic models removes whatever tracer there was, coverage's too
    return found


@pytest.mark.usefixtures("short_square")
@pytest.mark.parametrize(
    ("norm", "theirs", "eps", "batch"),
    [("linf", "Linf", "1/9", 7), ("l2", "L2", "3/5", 12)],
)
def test_equals_a_direct_call_image_by_image(
    small: tuple[Any, Any, Any], norm: Any, theirs: str, eps: str, batch: int
) -> None:
    model, x, y = small
    threat = Threat(eps, norm=norm)
    done = robustcl.evaluate(model, x, y, threat=threat, attacks=["autoattack"], batch_size=batch)
    x_adv, answers = direct(model, x, y, theirs, float(threat.eps), batch)
    assert done.robust["autoattack"].tolist() == (answers == y).tolist()
    assert 0 < done.robust["autoattack"].sum() < done.clean.sum(), "both outcomes have to occur"
    last = done.records.groupby("image").last()
    lost = [image for image in broken_by(done.records) if y[image] != answers[image]]
    assert last.loc[lost, "answer"].tolist() == answers[lost].tolist()
    theirs_moved = threat.distance(x_adv, x)[lost]
    assert torch.tensor(last.loc[lost, "distance"].to_numpy()).allclose(theirs_moved, atol=1e-5)


@pytest.mark.usefixtures("short_square")
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 8])
def test_few_classes_run(classes: int) -> None:
    model = network(classes)
    images = images_for(model, 4, classes=classes, wrong=1)
    before = torch.get_rng_state()
    done = robustcl.evaluate(model, images.pixels, images.labels, threat=Threat("1/10"), attacks=["autoattack"])
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator moved"
    members = [attack.name for attack in judges(["autoattack"], classes, 8)["autoattack"]]
    assert members == [m for m in reference.MEMBERS if m != "apgd-t" or classes >= 4]
    assert done.clean.sum() == 3
    assert done.robust["autoattack"].sum() <= 3
    assert set(done.records["attack"]) <= {"clean", *members}
    targets = {attack.targets for attack in reference.standard(classes, 8)}
    assert targets == {classes - 1}


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="expected at least 2"):
        reference.standard(1, 8)


@pytest.mark.usefixtures("short_square")
def test_l1_runs_and_stays_in_its_ball() -> None:
    model = network()
    images = images_for(model, 6)
    done = robustcl.evaluate(
        model, images.pixels, images.labels, threat=Threat("3/4", norm="l1"), attacks=["autoattack"]
    )
    assert (done.records["distance"] <= 0.75 + 1e-4).all()
    assert len(done.records) > 6


def test_eps_zero_asks_for_one_verdict_alone() -> None:
    model = network()
    images = images_for(model, 6)
    done = robustcl.evaluate(model, images.pixels, images.labels, threat=Threat("0"), attacks=["autoattack"])
    assert done.robust["autoattack"].tolist() == done.clean.tolist()
    assert set(done.records["passes"]) == {1}


def test_costs_are_what_is_spent_on_an_image_that_stays_right() -> None:
    """A model whose logits hardly move is not broken; the bound that the plan prints has to hold."""
    head = torch.nn.Linear(16, 10)
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.copy_(torch.arange(10.0))
    model = torch.nn.Sequential(torch.nn.Flatten(), head)
    images = Images(torch.rand(2, 1, 4, 4), torch.tensor([9, 9]), classes=10, name="fixed")
    attacks = {one.name: [one] for one in reference.standard(10, 8) if one.name != "square"}
    found = judge(model, images, Trial(threat=Threat("1/10"), judges=attacks))
    assert found["right"].all()
    for name, (attack,) in attacks.items():
        spent = found[found["attack"] == name]["passes"]
        assert attack.cost(10) / 2 < spent.max() <= attack.cost(10) * 1.02, name


class Fra31:
    """The signature of the repository's class (fra31/auto-attack), with members that note their use."""

    made: "list[Fra31]" = []  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Any = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: Any = "cuda",
        log_path: Any = None,
    ) -> None:
        self.asked = (norm, eps, seed, verbose, version, str(device))
        self.seed = seed
        self.apgd, self.apgd_targeted, self.fab, self.square = (Member() for _ in range(4))
        Fra31.made.append(self)


class Member:
    def __init__(self) -> None:
        self.n_target_classes, self.calls, self.seed = 9, 0, -1

    def perturb(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        torch.rand(3)
        return 1 - x


def test_an_autoattack_from_git_is_used_when_present(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reference.engine_name().startswith("pyautoattack ")
    fake = types.ModuleType("autoattack")
    fake.__spec__ = importlib.machinery.ModuleSpec("autoattack", None)
    fake.AutoAttack = Fra31  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", fake)
    monkeypatch.setattr(Fra31, "made", [])
    assert importlib.util.find_spec("autoattack") is fake.__spec__
    assert reference.engine_name() == "autoattack"
    model = network(5)
    images = images_for(model, 6, classes=5)
    before = torch.get_rng_state()
    done = robustcl.evaluate(
        model, images.pixels, images.labels, threat=Threat("1/1000000"), attacks=["autoattack"], seed=3
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert [engine.asked for engine in Fra31.made] == [("Linf", 1e-6, 3, False, "standard", "cpu")] * 4
    used = [
        [engine.apgd.calls, engine.apgd_targeted.calls, engine.fab.calls, engine.square.calls] for engine in Fra31.made
    ]
    assert used == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert Fra31.made[1].apgd_targeted.n_target_classes == 4
    assert Fra31.made[2].fab.seed == 3
    assert done.robust["autoattack"].tolist() == done.clean.tolist(), "1 - x is far outside the ball"


def test_the_engine_is_part_of_the_identity() -> None:
    one, other = (reference.Reference(member="square", engine=e) for e in ("pyautoattack 0.2.0", "autoattack 0.1"))
    assert identity(one) != identity(other)
    assert identity(one) == identity(reference.Reference(member="square", engine="pyautoattack 0.2.0"))
