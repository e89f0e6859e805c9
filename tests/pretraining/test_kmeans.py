"""Tests of k-means: scikit-learn's steps from the same centres, its inertia, and clusters that lost their points."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor

from robustcl.pretraining import kmeans as module
from robustcl.pretraining.kmeans import kmeans, lloyd


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits() -> Tensor:
    return torch.from_numpy(load_digits().data / 16).float()


def test_steps_from_the_same_centres_are_those_of_scikit_learn() -> None:
    x = digits()
    start = x[torch.randperm(len(x), generator=source())[:10]]
    theirs = KMeans(10, init=start.numpy(), n_init=1, tol=0).fit(x.numpy())
    centres, labels, inertia = lloyd(x, start, least=0)
    assert np.array_equal(labels.numpy(), theirs.labels_)
    torch.testing.assert_close(centres, torch.from_numpy(theirs.cluster_centers_), rtol=0, atol=1e-5)
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-5)


@pytest.mark.parametrize(("k", "part"), [(10, 1000), (10, 60), (50, 20)])
def test_the_inertia_is_as_low_as_that_of_scikit_learn(k: int, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", part)  # with 60 and 20 points per cluster only some of the points seed
    x = digits()
    ours = np.mean([kmeans(x, k, source(seed), restarts=5)[1] for seed in range(4)])
    theirs = np.mean([KMeans(k, n_init=5, random_state=seed).fit(x.numpy()).inertia_ for seed in range(4)])
    assert ours <= 1.005 * theirs


def test_the_inertia_is_that_of_the_labels() -> None:
    x = digits()
    labels, inertia = kmeans(x, 20, source())
    centres = torch.stack([x[labels == of].mean(0) for of in range(20)])
    within = float((x - centres[labels]).square().sum())
    # The labels are of the centres of one step before, so that the means can only be nearer.
    assert 0.999 * inertia <= within <= inertia


def test_a_generator_decides_the_labels_and_restarts_do_not_harm() -> None:
    x = digits()
    first, again = kmeans(x, 10, source()), kmeans(x, 10, source())
    assert torch.equal(first[0], again[0])
    assert kmeans(x, 10, source(), restarts=5)[1] <= first[1]


def test_a_cluster_that_lost_its_points_takes_the_farthest() -> None:
    x = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    far_away = torch.tensor([[0.05], [5.05], [100.0]])
    labels = lloyd(x, far_away)[1]
    assert labels.tolist() == [0, 0, 1, 1, 2]


def test_as_many_clusters_as_points_and_equal_points() -> None:
    x = digits()[:12]
    assert len(kmeans(x, 12, source())[0].unique()) == 12
    labels, inertia = kmeans(torch.ones(8, 3), 2, source())
    assert inertia == 0
    assert set(labels.tolist()) <= {0, 1}


def test_sums_do_not_depend_on_how_they_are_added() -> None:
    x, labels = digits(), torch.arange(1797) % 7
    expected = torch.stack([x[labels == of].sum(0) for of in range(7)])
    torch.testing.assert_close(module._sums(x, labels, 7), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_same_twice() -> None:
    x = digits().cuda()
    first, again = kmeans(x, 10, source()), kmeans(x, 10, source())
    assert torch.equal(first[0], again[0])
    assert first[1] == pytest.approx(kmeans(digits(), 10, source())[1], rel=0.02)
