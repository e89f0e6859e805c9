"""Tests of LARS against a transcription in plain Python, and of the schedules against the numbers of the papers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.value import plain, read, value
from robustcl.pretraining.methods.dynacl import DynACL
from robustcl.pretraining.methods.lp_aff import LPAFF
from robustcl.pretraining.methods.rocl import RoCL
from robustcl.pretraining.optim import LARS, Constant, Cosine, Optimiser, Pieces, Schedule, Steps

ADVCL = Cosine(floor=5e-4, warmup=10, warmup_from=0.01, per="epoch", shift=1)
ACL = Cosine(floor=1e-6, warmup=10, per="iteration", shift=1, warmup_shift=1, decay="rest")
ROCL = Cosine(warmup=10, warmup_from=0.1, warmup_per="epoch", warmup_shift=1, decay="late")


def norm(x: list[float]) -> float:
    return math.sqrt(sum(a * a for a in x))


def transcribed(p: list[float], gradients: list[list[float]], rates: list[float], decay: float) -> list[float]:
    v = [0.0] * len(p)
    for g, lr in zip(gradients, rates, strict=True):
        tiny = norm(p) < 1e-15 or norm(g) < 1e-15
        local = 1.0 if tiny else 0.001 * norm(p) / (norm(g) + decay * norm(p))
        v = [0.9 * b + lr * local * (a + decay * w) for a, b, w in zip(g, v, p, strict=True)]
        p = [w - b for w, b in zip(p, v, strict=True)]
    return p


def test_lars_equals_its_transcription() -> None:
    g = torch.Generator().manual_seed(0)
    starts = [torch.randn(6, generator=g).double(), torch.zeros(4).double(), torch.randn(2, generator=g).double()]
    steps = [[torch.randn(p.shape, generator=g).double() for p in starts] for _ in range(4)]
    for step in steps:
        step[2] = torch.zeros(2).double()  # a gradient of zero: what moves it is the decay, at the full rate
    rates = [5.0, 4.0, 0.5, 0.25]  # a schedule: each rate stays in the buffer with the step that it was taken at
    parameters = [torch.nn.Parameter(p.clone()) for p in starts]
    optimiser = LARS(parameters, lr=99.0, momentum=0.9, weight_decay=0.01)
    for step, rate in zip(steps, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient
        optimiser.step()
    for number, (p, start) in enumerate(zip(parameters, starts, strict=True)):
        wanted = transcribed(start.tolist(), [step[number].tolist() for step in steps], rates, 0.01)
        assert p.tolist() == pytest.approx(wanted, rel=1e-12)


def transcribed_wrapper(p: list[float], gradients: list[list[float]], rates: list[float], decay: float) -> list[float]:
    """torchlars around SGD with momentum: the gradient is scaled, the rate multiplies the buffer."""
    v = [0.0] * len(p)
    for g, lr in zip(gradients, rates, strict=True):
        rests = norm(p) == 0 or norm(g) == 0
        local = 1.0 if rests else 0.001 * norm(p) / (norm(g) + decay * norm(p) + 1e-8)
        v = [0.9 * b + local * (a + decay * w) for a, b, w in zip(g, v, p, strict=True)]
        p = [w - lr * b for w, b in zip(p, v, strict=True)]
    return p


@pytest.mark.parametrize("size", [1.0, 1e-7])  # 1e-7: where the 1e-8 that is added to the norm of the gradient counts
def test_torchlars_equals_its_transcription(size: float) -> None:
    g = torch.Generator().manual_seed(0)
    starts = [torch.randn(6, generator=g).double(), torch.zeros(4).double(), torch.randn(2, generator=g).double()]
    steps = [[size * torch.randn(p.shape, generator=g).double() for p in starts] for _ in range(3)]
    for step in steps:
        step[2] = torch.zeros(2).double()
    rates = [1.5, 0.24, 0.8]
    parameters = [torch.nn.Parameter(p.clone()) for p in starts]
    optimiser = Optimiser(name="torchlars", lr=99.0, momentum=0.9, weight_decay=1e-6).build(parameters)
    for step, rate in zip(steps, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient
        optimiser.step()
    for number, (p, start) in enumerate(zip(parameters, starts, strict=True)):
        wanted = transcribed_wrapper(start.tolist(), [step[number].tolist() for step in steps], rates, 1e-6)
        assert p.tolist() == pytest.approx(wanted, rel=1e-9)
        assert p.tolist() != start.tolist()


def test_a_new_rate_acts_at_once_in_torchlars_and_later_in_acls_form() -> None:
    last = {}
    for name in ("lars", "torchlars"):
        p = torch.nn.Parameter(torch.ones(3).double())
        optimiser = Optimiser(name=name, weight_decay=0).build([p])
        for rate in (1.0, 0.0):
            before = p.detach().clone()
            optimiser.param_groups[0]["lr"] = rate
            p.grad = torch.ones(3).double()
            optimiser.step()
        last[name] = bool(torch.equal(p.detach(), before))
    assert last == {"lars": False, "torchlars": True}


def test_lars_takes_the_first_step_of_a_zero_tensor_at_the_full_rate() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([1.0, -2.0, 0.0])
    LARS([p], lr=5.0).step()
    assert p.tolist() == [-5.0, 10.0, 0.0]


def test_lars_moves_by_a_share_of_the_norm_whatever_the_gradients_size() -> None:
    moved = []
    for size in (1e-6, 1e6):
        p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        p.grad = torch.tensor([0.0, size])
        LARS([p], lr=1.0).step()
        moved.append(4 - p.tolist()[1])
    assert moved == pytest.approx([0.005, 0.005], rel=1e-4)


def test_lars_leaves_what_has_no_gradient_and_gives_the_loss_of_a_closure() -> None:
    still, p = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimiser = LARS([still, p], lr=0.1)

    def closure() -> Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 2
    assert still.eq(1).all()
    assert p.lt(1).all()


def test_lars_goes_on_from_its_state() -> None:
    def train(p: torch.nn.Parameter, optimiser: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            p.grad = torch.tensor([1.0, float(step)])
            optimiser.step()

    whole, first = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    train(whole, LARS([whole], lr=5.0), range(4))
    before = LARS([first], lr=5.0)
    train(first, before, range(2))
    second = torch.nn.Parameter(first.detach().clone())
    after = LARS([second], lr=1.0)
    after.load_state_dict(before.state_dict())
    train(second, after, range(2, 4))
    assert torch.equal(whole, second)


def test_optimisers_are_built_as_described() -> None:
    p = [torch.nn.Parameter(torch.ones(2))]
    sgd = Optimiser(lr=0.5, momentum=0.8, weight_decay=0.01, nesterov=True).build(p)
    assert isinstance(sgd, torch.optim.SGD)
    wanted: dict[str, Any] = {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.01}
    assert sgd.param_groups[0].items() >= {**wanted, "nesterov": True, "dampening": 0}.items()
    lars = Optimiser(name="lars", lr=0.5, momentum=0.8, weight_decay=0.01).build(p)
    assert isinstance(lars, LARS)
    assert lars.param_groups[0].items() >= {**wanted, "trust": 0.001}.items()


@pytest.mark.parametrize("fields", [{"name": "lars"}, {"name": "sgd", "momentum": 0}])
def test_nesterov_needs_sgd_with_momentum(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="nesterov is true, expected it for 'sgd'"):
        Optimiser(nesterov=True, **fields)


def rate(schedule: Schedule, base: float, epoch: int, iteration: int = 0, epochs: int = 1000) -> float:
    return schedule.lr(base, epoch, iteration, 98, epochs)


def cosine(share: float, high: float, low: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def test_advcl_rates() -> None:
    target = 0.499877
    assert cosine(0.01, 0.5, 5e-4) == pytest.approx(target, abs=5e-7)
    assert rate(ADVCL, 0.5, 0) == 0.01
    assert rate(ADVCL, 0.5, 5) == pytest.approx((0.01 + target) / 2, abs=1e-6)
    last = rate(ADVCL, 0.5, 9, 97)
    assert last == pytest.approx(0.01 + 979 / 980 * (cosine(0.01, 0.5, 5e-4) - 0.01))
    # One iteration further, the climb would be at its target.
    assert last + (last - rate(ADVCL, 0.5, 9, 96)) == pytest.approx(target, abs=5e-7)
    for epoch in (10, 11, 500, 998):
        for iteration in (0, 97):
            assert rate(ADVCL, 0.5, epoch, iteration) == pytest.approx(cosine((epoch + 1) / 1000, 0.5, 5e-4))
    assert rate(ADVCL, 0.5, 999) == pytest.approx(5e-4)


def test_acl_rates() -> None:
    # The released code steps the schedule before the optimiser: iteration i, from 0, runs at the rate of i + 1.
    assert rate(ACL, 5.0, 0) == pytest.approx(5 / 980)
    assert rate(ACL, 5.0, 4, 97) == pytest.approx(2.5)
    assert rate(ACL, 5.0, 9, 97) == 5.0  # at iteration 10 * 98
    assert rate(ACL, 5.0, 9, 96) == pytest.approx(5 * 979 / 980)
    for epoch, iteration in ((10, 0), (500, 13), (999, 0)):
        share = (epoch * 98 + iteration + 1 - 980) / (98_000 - 980)
        assert rate(ACL, 5.0, epoch, iteration) == pytest.approx(cosine(share, 5.0, 1e-6))
    assert rate(ACL, 5.0, 999, 97) == pytest.approx(1e-6)


def test_rocl_rates() -> None:
    assert rate(ROCL, 1.5, 0) == pytest.approx(0.24)  # the first epoch
    assert rate(ROCL, 1.5, 0, 97) == pytest.approx(0.24)
    assert rate(ROCL, 1.5, 4) == pytest.approx(0.8)
    assert rate(ROCL, 1.5, 9) == 1.5  # the tenth
    assert rate(ROCL, 1.5, 10) == 1.5
    assert rate(ROCL, 1.5, 999) == pytest.approx(cosine(0.989, 1.5, 0))  # not annealed to zero


def test_a_plain_cosine_begins_at_the_base_and_nears_the_floor() -> None:
    per_epoch, per_iteration = Cosine(floor=0.1), Cosine(floor=0.1, per="iteration")
    assert [rate(per_epoch, 1.0, epoch, 50, epochs=4) for epoch in range(4)] == pytest.approx(
        [cosine(epoch / 4, 1.0, 0.1) for epoch in range(4)]
    )
    assert rate(per_iteration, 1.0, 2, 49, epochs=4) == pytest.approx(cosine(2.5 / 4, 1.0, 0.1))


@pytest.mark.parametrize("decay", ["whole", "rest", "late"])
def test_a_warm_up_as_long_as_the_run_divides_by_nothing(decay: Any) -> None:
    schedule = Cosine(warmup=2, decay=decay)
    rates = [rate(schedule, 1.0, epoch, iteration, epochs=2) for epoch in range(2) for iteration in range(98)]
    assert all(0 <= now <= 1 for now in rates)


def test_steps_count_epochs() -> None:
    schedule = Steps(milestones=(15, 20), factor=0.1)
    wanted = {0: 0.1, 14: 0.1, 15: 0.01, 19: 0.01, 20: 0.001, 24: 0.001}
    assert {epoch: rate(schedule, 0.1, epoch, epochs=25) for epoch in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("epochs", [4, 30, 100, 110])
def test_steps_count_shares_of_the_run(epochs: int) -> None:
    # 0.55 * 100 is a little more than 55 in floating point, and epoch 55 counts all the same.
    schedule = Steps(milestones=(0.1, 0.5, 0.55), factor=0.5)
    rates = [rate(schedule, 1.0, epoch, epochs=epochs) for epoch in range(epochs)]
    starts = [math.ceil(epochs / 10), math.ceil(epochs / 2), math.ceil(epochs * 55 / 100)]
    assert rates == [0.5 ** sum(epoch >= start for start in starts) for epoch in range(epochs)]


def test_rocls_own_recipe_has_the_published_rates() -> None:
    training = RoCL().training

    def now(epoch: int, iteration: int = 0) -> float:
        return training.schedule.lr(training.optimiser.lr, epoch, iteration, 98, training.epochs)

    assert training.optimiser == Optimiser(name="torchlars", lr=1.5, momentum=0.9, weight_decay=1e-6)
    assert (training.epochs, training.batch) == (1000, 512)
    assert [now(0), now(0, 97)] == pytest.approx([0.24, 0.24])
    assert [now(epoch) for epoch in range(10)] == pytest.approx([0.1 * (1 + 14 * (e + 1) / 10) for e in range(10)])
    assert now(9) == 1.5
    assert now(999) == now(999, 97) == pytest.approx(cosine(0.989, 1.5, 0))


def test_dynacls_rate_changes_by_epoch() -> None:
    training = DynACL().training
    for epoch in range(1000):
        wanted = 5.0 * (epoch + 1) / 10 if epoch < 10 else cosine((epoch - 10) / 990, 5.0, 1e-6)
        for iteration in (0, 97):
            assert training.schedule.lr(5.0, epoch, iteration, 98, 1000) == pytest.approx(wanted, rel=1e-9)


def test_pieces_hold_the_last_factor_that_was_reached() -> None:
    schedule = Pieces(starts=(0, 2, 0.5), factors=(0.1, 1, 0.01))
    assert [rate(schedule, 2.0, epoch, 50, epochs=8) for epoch in range(8)] == [0.2] * 2 + [2.0] * 2 + [0.02] * 4
    wanted = [0.01] * 10 + [0.1] * 10 + [0.01] * 10 + [0.001] * 5
    assert [rate(LPAFF().training.schedule, 0.1, epoch, epochs=35) for epoch in range(35)] == pytest.approx(wanted)
    # A run of another length is cut in the same shares.
    short = [rate(LPAFF().training.schedule, 0.1, epoch, epochs=7) for epoch in range(7)]
    assert short == pytest.approx([0.01] * 2 + [0.1] * 2 + [0.01] * 2 + [0.001])


@pytest.mark.parametrize(
    "fields",
    [
        {"starts": (0, 10), "factors": (1,)},
        {"starts": (), "factors": ()},
        {"starts": (1,), "factors": (1,)},
    ],
)
def test_pieces_that_do_not_fit_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected as many; the first start is 0") as caught:
        Pieces(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"starts": (0, -1), "factors": (1, 1)}, {"factors": (-1,)}, {"starts": (0.0, 9e999)}]
)
def test_pieces_take_finite_numbers_from_zero(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^Pieces\."):
        Pieces(**fields)


def test_constant_is_constant() -> None:
    assert {rate(Constant(), 0.3, epoch, iteration) for epoch in (0, 999) for iteration in (0, 97)} == {0.3}


@value
class Holder:
    """A value with a schedule, as a method has one."""

    schedule: Schedule = ADVCL


@pytest.mark.parametrize(
    "schedule",
    [ADVCL, ACL, ROCL, Steps(milestones=(0.5, 30), factor=0.2), Constant(), Pieces(starts=(0, 0.5), factors=(1, 2))],
)
def test_a_schedule_reads_back_from_what_it_is_written_as(schedule: Schedule) -> None:
    assert read(Holder, plain(Holder(schedule=schedule)), "test") == Holder(schedule=schedule)


def test_a_table_names_its_schedule() -> None:
    assert read(Holder, {"schedule": {"name": "steps", "milestones": [3]}}, "test").schedule == Steps(milestones=(3,))
    assert read(Holder, {"schedule": {"floor": 0.1}}, "test").schedule == Cosine(
        floor=0.1, warmup=10, warmup_from=0.01, per="epoch", shift=1
    )
    with pytest.raises(UserError, match="cosine"):
        read(Holder, {"schedule": {"name": "cosin"}}, "test")
