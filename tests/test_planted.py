"""Planted regressions, each caught by the check and by the sequential gate, early; honest models are not."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustcl
from robustcl.bench.attacks import judges
from robustcl.bench.budget import blocks
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.evaluate import Trial, judge
from robustcl.guard import rows_of_evaluation
from robustcl.models.threat import Threat
from robustcl.reports.baseline import Baseline, Row
from robustcl.reports.check import Check, check_rows
from robustcl.reports.follow import conclude, follow, watch

THREAT = Threat("3/20")
EPS, CLEAN = 0.15, 20  # so much weight of clean images sets the two routes apart


class Net(nn.Module):
    """Two layers with a batch norm for clean images and one for adversarial ones, which is deployed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        self.norms = nn.ModuleDict({"normal": nn.BatchNorm1d(64), "adversarial": nn.BatchNorm1d(64)})
        self.route, self.mean, self.std = "adversarial", 0.3, 0.4

    def forward(self, x: Tensor) -> Tensor:
        held = self.first((x.flatten(1) - self.mean) / self.std)
        found: Tensor = self.last(self.norms[self.route](held).relu())
        return found

    def on(self, route: str) -> "Net":
        self.route = route
        return self


def trained(eps: float, seed: int = 0) -> Net:
    """Clean images through the one batch norm, those of three steps of PGD through the other."""
    torch.manual_seed(seed)
    train = Digits().load().train
    x, y, net = train.floats(slice(None)), train.labels, Net()
    optimiser, loss = torch.optim.Adam(net.parameters(), lr=0.01), nn.functional.cross_entropy
    for _ in range(150):
        rows = torch.randint(len(y), (256,))
        part, point = x[rows], x[rows].clone()
        for _ in range(3):
            point.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(net.on("adversarial")(point), y[rows]), point)
            point = (point + eps / 2 * gradient.sign()).detach()
            point = torch.minimum(torch.maximum(point, part - eps), part + eps).clamp(0, 1)
        both = loss(net.on("adversarial")(point), y[rows]) + CLEAN * loss(net.on("normal")(part), y[rows])
        optimiser.zero_grad()
        both.backward()
        optimiser.step()
    return net.on("adversarial").eval()


@pytest.fixture(scope="module")
def honest() -> Net:
    return trained(EPS)


@pytest.fixture(scope="module")
def blessed(honest: Net) -> tuple[Row, ...]:
    clean, robust = rows(honest)
    assert clean.accuracy > 0.95
    assert 0.5 < robust.accuracy < 0.95
    return clean, robust


def rows(model: Net) -> tuple[Row, ...]:
    """Clean and robust accuracy on all test images."""
    test = Digits().load().test
    x, y = test.floats(slice(None)), test.labels
    done = robustcl.evaluate(model, x, y, threat=THREAT, attacks=["pgd-5"], checks=False)
    return rows_of_evaluation(done, x, y, "net")


def gate(model: Net, blessed: tuple[Row, ...], margin: float = 0.05) -> Check:
    """The sequential gate in memory."""
    test, held = Digits().load().test, judges(["pgd-5"], 10)
    images = type(test)(test.floats(slice(None)), test.labels, classes=10, name="test")
    parts, trial = blocks(images, 32), Trial(threat=THREAT, judges=held)
    clean = judge(model, images, Trial(threat=THREAT, judges={}))
    found = list(
        follow(
            watch(blessed, "baseline", margin, 0.05),
            clean,
            len(parts),
            lambda number, names: judge(model, parts[number], trial),
            {"pgd-5": ["pgd-5"]},
        )
    )
    return conclude(watch(blessed, "baseline", margin, 0.05), found[-1], "", len(images))


def test_the_same_network_is_ok_and_a_retrained_one_no_regression(honest: Net, blessed: tuple[Row, ...]) -> None:
    assert check_rows(rows(honest), Baseline(rows=blessed), margin=0.05).outcome == "ok"
    assert gate(honest, blessed).outcome == "ok"
    assert gate(trained(EPS, seed=1), blessed).outcome != "regression"


def smaller_eps(honest: Net) -> Net:
    return trained(0.01)


def wrong_route(honest: Net) -> Net:
    return copy.deepcopy(honest).on("normal")


def lost_normalisation(honest: Net) -> Net:
    net = copy.deepcopy(honest)
    net.mean, net.std = 0.0, 1.0
    return net


@pytest.mark.parametrize("plant", [smaller_eps, wrong_route, lost_normalisation])
def test_a_planted_regression_is_caught(honest: Net, blessed: tuple[Row, ...], plant: Callable[[Net], Net]) -> None:
    planted = plant(honest)
    done = check_rows(rows(planted), Baseline(rows=blessed), margin=0.05)
    assert done.outcome == "regression"
    clean, robust = done.rows
    assert robust.outcome == "regression"
    if plant is not lost_normalisation:
        assert clean.outcome == "ok", "a gate on clean accuracy alone sees nothing"
    found = gate(planted, blessed)
    assert found.outcome == "regression"
    (note, *_) = found.notes
    assert "attacked 360 of 360" not in note
