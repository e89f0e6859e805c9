"""The automatic rate of AutoLoRa against the rule written out, on values made for it."""

import pytest

from robustcl.models.errors import UserError
from robustcl.pretraining.optim import Automatic

FLAT, UP = [0.3] * 50, [epoch / 100 for epoch in range(50)]


def rates(values: list[float], schedule: Automatic, epochs: int = 50) -> list[float]:
    """The rate of every epoch, as a loop that knows the values of the epochs before it sees it."""
    found = []
    for epoch in range(epochs):
        pieces = schedule.after(values[:epoch], epochs)
        found.append(pieces.lr(0.1, epoch, 0, 1, epochs))
    return found


def written_out(values: list[float], points: list[int]) -> list[float]:
    """The rule of the paper, step by step."""
    rate, last, best, lowered, found = 0.1, 0, 0.0, False, []
    for epoch in range(50):
        found.append(rate)
        if epoch not in points:
            continue
        rose = sum(values[j + 1] > values[j] for j in range(last, epoch))
        now = max(values[: epoch + 1])
        stuck = last > 0 and not lowered and now == best
        lowered = rose < 0.75 * (epoch - last) or stuck
        rate, last, best = (rate / 2 if lowered else rate), epoch, now
    return found


POINTS = [16, 24, 28, 36, 40, 42, 44, 46, 48]
SAW = [(epoch % 5) / 10 + epoch / 1000 for epoch in range(50)]
LATE = [*UP[:30], *UP[30:][::-1]]
DIP = [0.9, *UP[1:]]  # it rises all the time and never reaches its best again


@pytest.mark.parametrize("values", [FLAT, UP, SAW, LATE, DIP])
def test_the_rate_is_that_of_the_rule(values: list[float]) -> None:
    assert rates(values, Automatic()) == pytest.approx(written_out(values, POINTS))


def test_it_stays_while_validation_rises_and_falls_at_every_checkpoint_where_it_does_not() -> None:
    assert rates(UP, Automatic()) == [0.1] * 50
    flat = rates(FLAT, Automatic())
    assert [epoch for epoch in range(1, 50) if flat[epoch] < flat[epoch - 1]] == [point + 1 for point in POINTS]
    assert flat[-1] == pytest.approx(0.1 / 2**9)


def test_the_best_that_does_not_move_lowers_it_every_other_time() -> None:
    # By the second condition alone, which asks that the rate was not lowered the last time.
    found = rates(DIP, Automatic())
    lowered = [epoch - 1 for epoch in range(1, 50) if found[epoch] < found[epoch - 1]]
    assert lowered == [24, 36, 42, 46]


def test_checkpoints_are_shares_or_epochs() -> None:
    assert Automatic(checkpoints=(16.0,)).after(FLAT[:17], 50).starts == (0, 17)
    assert Automatic(checkpoints=(0.32,)).after(FLAT[:17], 50).starts == (0, 17)
    assert Automatic(checkpoints=(0.32,)).after(FLAT[:16], 50).starts == (0,)
    assert Automatic(checkpoints=(0.01,)).after(FLAT[:4], 5).starts == (0,), "epoch 0 is none"


@pytest.mark.parametrize("wrong", [{"factor": 1.0}, {"factor": 0.0}, {"rising": 2.0}, {"checkpoints": (0.0,)}])
def test_what_is_impossible_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Automatic(**wrong)  # type: ignore[arg-type]
