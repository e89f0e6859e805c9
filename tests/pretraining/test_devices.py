"""Two processes that share every batch train what one process trains on the whole batch."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustcl.bench.judged import records_of
from robustcl.bench.runner import make, prepare
from robustcl.models.errors import UserError
from robustcl.models.seeding import BatchDraws, PartDraws, generator
from robustcl.models.share import Share
from robustcl.models.shared_norm import grouped
from robustcl.models.value import plain
from robustcl.pretraining.method import Training, identity, named
from tests.bench.tiny import Quiet, visible, write_suite
from tests.pretraining import pair

ROOT = Path(__file__).parents[2]
LOOSE = {"bfloat16": 0.02, "uneven": 1e-9}  # relative


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pair of processes that did everything, and of which the second one was killed at last."""
    folder = tmp_path_factory.mktemp("pair")
    pair.stopped(folder / "alone.safetensors")
    write_suite(folder)
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.pretraining.pair", str(rank), "2", str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, -9], said
    (folder / "said").write_text(said[0][0])
    return folder


def found(both: Path, rank: int = 0) -> dict[str, pair.Result]:
    held: dict[str, pair.Result] = torch.load(both / f"found-{rank}.pt")
    return held


@pytest.mark.parametrize("name", pair.CASES)
def test_two_processes_train_what_one_trains(both: Path, name: str) -> None:
    history, weights = found(both)[name]
    alone, single = pair.CASES[name]()
    loose = LOOSE.get(name, 1e-11)  # float64 rounds at 1e-16; a step of a method that normalises by little amplifies it
    assert [list(row) for row in history] == [list(row) for row in alone]
    for row, expected in zip(history, alone, strict=True):
        assert row == pytest.approx(expected, rel=loose)
    assert weights.keys() == single.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, single[key], rtol=loose, atol=loose)


def test_both_processes_hold_the_same_bits(both: Path) -> None:
    ours, theirs = found(both), found(both, 1)
    for name, (history, weights) in ours.items():
        assert history == theirs[name][0], name
        assert all(torch.equal(tensor, theirs[name][1][key]) for key, tensor in weights.items()), name


def test_groups_move_the_numbers(both: Path) -> None:
    held = found(both)
    for name in pair.GROUPED:
        assert held[name][0][0]["loss"] != pytest.approx(held[f"{name} in 2 groups"][0][0]["loss"], rel=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(both: Path) -> None:
    history, weights = pair.trained("acl", epochs=2)
    assert not (both / "shared-1.safetensors").exists(), "the first process alone writes"
    for again, net in (pair.trained("acl", keep=both / "shared-0.safetensors", epochs=2), found(both)["resumed"]):
        assert again == [pytest.approx(row, rel=1e-12) for row in history]
        for key, tensor in net.items():
            torch.testing.assert_close(tensor, weights[key], rtol=1e-12, atol=1e-12)


def test_a_suite_is_trained_together_and_attacked_one_stage_each(both: Path, tmp_path: Path) -> None:
    made, alone = (prepare(both / "tiny.toml", runs=runs) for runs in (both / "shared", tmp_path))
    assert made.missing == []
    make(alone, Quiet(), workers=1)
    assert visible(both / "shared").keys() == visible(tmp_path).keys(), "the keys are the same"
    for stage in made.plan.stages:
        note = made.place.store.note(stage)["made"]
        assert note["processes"] == 2
        if stage.label == "evaluate at SLF at 1/10":
            ours, theirs = (records_of(stage, job.place.store) for job in (made, alone))
            assert (ours["answer"] == theirs["answer"]).mean() > 0.9  # trained in float32, which rounds otherwise


def test_a_process_that_is_gone_ends_the_others_in_one_line(both: Path) -> None:
    expected = "a process of this run is gone; what is finished stays, the same command goes on from there\n"
    assert (both / "said").read_text() == expected


def test_what_cannot_be_shared_is_refused_in_every_process(both: Path) -> None:
    ours, theirs = (json.loads((both / f"refused-{rank}.json").read_text()) for rank in range(2))
    assert ours == theirs
    assert ours == {
        "whole": "fit: ap_dpe draws turns and orders over the whole batch and differentiates twice by its images, "
        "expected one process and training.groups = 1",
        "small": "fit: a batch of 2 images in 2 parts, expected at least 4",
        "groups": "fit: training.groups is 3, expected a number of processes that divides it",
        "alike": "fit: 1 of 2 processes have other images or fields than the first one",
    }


def test_a_synchronised_norm_is_one_norm(both: Path) -> None:
    ours, theirs = (torch.load(both / f"norm-{rank}.pt") for rank in range(2))
    for shared, again, single in zip(ours, theirs, pair.norm_of(None), strict=True):
        assert torch.equal(shared, again)
        torch.testing.assert_close(shared, single, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [Share(n=7, world=3), Share(n=7, world=2, groups=4), Share(n=4, world=4)], ids=str)
def test_parts_cover_a_batch_once_and_in_order(share: Share) -> None:
    parts = [replace(share, rank=rank) for rank in range(share.world)]
    whole = torch.arange(2 * share.n)  # two views
    views = torch.cat([part.take(whole).view(2, -1) for part in parts], 1)
    assert torch.equal(views.flatten(), whole)
    assert min(share.sizes) >= 1


def test_draws_of_the_parts_are_those_of_the_whole() -> None:
    def draws() -> BatchDraws:
        return BatchDraws(generator(0, "test"))

    share = Share(n=5, world=2)
    whole = draws().uniform(10, 3)
    for rank in range(2):
        part = replace(share, rank=rank)
        own = PartDraws(draws(), part).uniform(2 * part.sizes[rank], 3)
        assert torch.equal(own, part.take(whole))


def test_groups_are_norms_of_their_own_whose_statistics_are_meant() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(2 * 6, 3, dtype=torch.float64), nn.BatchNorm1d(3).double()
    alone = [nn.BatchNorm1d(3).double() for _ in range(2)]
    answer = grouped(norm, x, Share(n=6, groups=2))
    rows = [torch.tensor([0, 1, 2, 6, 7, 8]), torch.tensor([3, 4, 5, 9, 10, 11])]  # two views, one below the other
    for one, own in zip(alone, rows, strict=True):
        torch.testing.assert_close(answer[own], one(x[own]))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norm, name), (getattr(alone[0], name) + getattr(alone[1], name)) / 2)
    assert norm.num_batches_tracked == 1


def test_one_group_is_no_part_of_an_identity_and_several_are() -> None:
    assert "groups" not in plain(Training())
    assert plain(Training(groups=2))["groups"] == 2
    assert identity(named("acl")) != identity(named("acl", {"training": {"groups": 2}}))


def test_a_method_that_draws_for_whole_batches_is_told_so() -> None:
    batch = pair.batch_of(Share(n=4, world=2))
    with pytest.raises(UserError, match="the method draws its order for a whole batch, expected one process"):
        batch.generator("order")
