"""Planted regressions, each caught by the sequential gate before all images are attacked; honest models are not."""

import copy

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
from robustcl.reports.baseline import Row
from robustcl.reports.check import Check
from robustcl.reports.follow import conclude, follow, watch

THREAT = Threat("1/10")


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
        both = loss(net.on("adversarial")(point), y[rows]) + loss(net.on("normal")(part), y[rows])
        optimiser.zero_grad()
        both.backward()
        optimiser.step()
    return net.on("adversarial").eval()


@pytest.fixture(scope="module")
def honest() -> Net:
    return trained(0.1)


@pytest.fixture(scope="module")
def blessed(honest: Net) -> tuple[Row, ...]:
    test = Digits().load().test
    x, y = test.floats(slice(None)), test.labels
    done = robustcl.evaluate(honest, x, y, threat=THREAT, attacks=["pgd-5"], checks=False)
    assert 0.5 < done.robust["pgd-5"].mean() < 0.95
    return rows_of_evaluation(done, x, y, "net")


def gate(model: Net, rows: tuple[Row, ...], margin: float = 0.05) -> Check:
    """The sequential gate in memory."""
    test, held = Digits().load().test, judges(["pgd-5"], 10, 32)
    images = type(test)(test.floats(slice(None)), test.labels, classes=10, name="test")
    parts, trial = blocks(images, 32), Trial(threat=THREAT, judges=held)
    clean = judge(model, images, Trial(threat=THREAT, judges={}))
    found = list(
        follow(
            watch(rows, "baseline", margin, 0.05),
            clean,
            len(parts),
            lambda number, names: judge(model, parts[number], trial),
            {"pgd-5": ["pgd-5"]},
        )
    )
    return conclude(watch(rows, "baseline", margin, 0.05), found[-1], "", len(images))


def test_the_same_network_is_ok_and_a_retrained_one_no_regression(honest: Net, blessed: tuple[Row, ...]) -> None:
    assert gate(honest, blessed).outcome == "ok"
    assert gate(trained(0.1, seed=1), blessed).outcome != "regression"


def smaller_eps(honest: Net) -> Net:
    return trained(0.01)


def wrong_route(honest: Net) -> Net:
    # What a checkpoint is that was loaded without the batch norm of its route. The other trained route of so small a
    # network loses 3 points, which 360 images do not tell from 5.
    net = copy.deepcopy(honest)
    net.norms["adversarial"] = nn.BatchNorm1d(64)
    return net


def lost_normalisation(honest: Net) -> Net:
    net = copy.deepcopy(honest)
    net.mean, net.std = 0.0, 1.0
    return net


@pytest.mark.parametrize("plant", [smaller_eps, wrong_route, lost_normalisation])
def test_a_planted_regression_is_caught(honest: Net, blessed: tuple[Row, ...], plant: object) -> None:
    found = gate(plant(honest), blessed)  # type: ignore[operator]
    assert found.outcome == "regression"
    (note, *_) = found.notes
    assert "attacked 360 of 360" not in note
