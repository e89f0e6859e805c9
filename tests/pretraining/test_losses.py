"""Tests of the losses: double loops in plain Python, closed forms, gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.pretraining.losses import kl, nt_xent, sup_con

Loss = Callable[[list[Tensor]], Tensor]


def views(m: int, n: int = 5, d: int = 4, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64) * 3 for _ in range(m)]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def brute(given: list[Tensor], temperature: float) -> float:
    """The mean over rows and over the other views of the same image of -log p, by loops."""
    m, n = len(given), len(given[0])
    rows = [row for view in given for row in view.tolist()]
    total = 0.0
    for i, anchor in enumerate(rows):
        below = sum(math.exp(dot(anchor, other) / temperature) for k, other in enumerate(rows) if k != i)
        for j, other in enumerate(rows):
            if j != i and j % n == i % n:
                total -= math.log(math.exp(dot(anchor, other) / temperature) / below)
    return total / (m * n * (m - 1))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_the_double_loop(temperature: float) -> None:
    x = views(2)
    assert float(nt_xent(x, temperature)) == pytest.approx(brute(x, temperature), rel=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 0.5 / 0.07])
def test_sup_con_equals_the_double_loop(m: int, scale: float) -> None:
    x = views(m)
    assert float(sup_con(x, 0.5, scale)) == pytest.approx(scale * brute(x, 0.5), rel=1e-12)


def test_sup_con_of_two_views_is_nt_xent() -> None:
    x = views(2)
    assert float(sup_con(x, 0.5)) == float(nt_xent(x, 0.5))
    assert float(sup_con(x, 0.5, 0.5 / 0.07)) == pytest.approx(0.5 / 0.07 * float(nt_xent(x, 0.5)))


@pytest.mark.parametrize(("m", "n"), [(2, 1), (2, 6), (4, 6)])
def test_equal_embeddings_cost_the_log_of_how_many_others_there_are(m: int, n: int) -> None:
    row = torch.tensor([[3.0, -4.0]])
    x = [row.expand(n, 2) for _ in range(m)]
    assert float(sup_con(x, 0.5)) == pytest.approx(math.log(m * n - 1), abs=1e-6)


def test_two_opposite_pairs_in_closed_form() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    # One partner at cosine 1, two others at -1.
    assert float(nt_xent([x, x], 0.5)) == pytest.approx(math.log1p(2 * math.exp(-4)), rel=1e-12)


def test_the_order_of_views_and_images_and_the_length_of_rows_do_not_matter() -> None:
    x = views(3)
    reference = float(sup_con(x, 0.5))
    assert float(sup_con(x[::-1], 0.5)) == pytest.approx(reference, rel=1e-12)
    assert float(sup_con([view.flip(0) for view in x], 0.5)) == pytest.approx(reference, rel=1e-12)
    longer = [view * factor for view, factor in zip(x, (0.01, 1, 100), strict=True)]
    assert float(sup_con(longer, 0.5)) == pytest.approx(reference, rel=1e-12)
    assert abs(float(sup_con([x[0].flip(0), *x[1:]], 0.5)) - reference) > 1e-3  # another pairing


@pytest.mark.parametrize(
    "loss",
    [lambda x: nt_xent(x[:2], 0.5), lambda x: sup_con(x, 0.2, 3.0), lambda x: kl(x[0], x[1])],
    ids=["nt_xent", "sup_con", "kl"],
)
def test_gradients_are_right_through_every_argument(loss: Loss) -> None:
    x = [view.requires_grad_() for view in views(3, n=3, d=3)]
    assert torch.autograd.gradcheck(lambda *given: loss(list(given)), x)


def test_small_temperatures_and_equal_rows_stay_finite() -> None:
    x = [view.float().requires_grad_() for view in views(2)]
    for given in (x, [x[0], x[0]]):
        loss = nt_xent(given, 0.001)
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, x[0])
        assert gradient.isfinite().all()


def test_a_row_of_zeros_stays_finite() -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent([x, x], 0.5)
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_low_precision_is_judged_in_float32(half: torch.dtype) -> None:
    x = [view.to(half) for view in views(2)]
    exact_contrast, exact_kl = nt_xent([view.float() for view in x], 0.5), kl(x[0].float(), x[1].float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(x, 0.5), exact_contrast)
        assert torch.equal(nt_xent([view.float() for view in x], 0.5), exact_contrast)
        assert torch.equal(kl(x[0], x[1]), exact_kl)
    assert exact_contrast.dtype == torch.float32


def test_kl_equals_the_loop_over_classes() -> None:
    clean, adversarial = views(2)
    p, q = clean.softmax(1).tolist(), adversarial.softmax(1).tolist()
    total = sum(a * math.log(a / b) for r, s in zip(p, q, strict=True) for a, b in zip(r, s, strict=True))
    assert float(kl(clean, adversarial)) == pytest.approx(total / len(p), rel=1e-12)
    assert float(kl(adversarial, clean)) != pytest.approx(total / len(p), rel=1e-3)  # the direction matters


def test_kl_of_equal_answers_is_zero_and_of_sure_answers_finite() -> None:
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert float(kl(sure, sure)) == 0
    assert float(kl(sure, sure.flip(0))) == pytest.approx(1e4)


@pytest.mark.parametrize("temperature", [0.0, -0.5, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(UserError, match=r"^contrast: temperature .*, expected a number above 0$"):
        sup_con(views(2), temperature)


@pytest.mark.parametrize(
    "given",
    [
        [torch.ones(3, 4), torch.ones(2, 4)],
        [torch.ones(3, 4), torch.ones(3, 5)],
        [torch.ones(3), torch.ones(3)],
        [torch.ones(0, 4), torch.ones(0, 4)],
    ],
)
def test_shapes_that_do_not_fit_are_refused(given: list[Tensor]) -> None:
    with pytest.raises(UserError, match=r"^contrast: shapes \(.*\), expected one shape \(n, d\) for all$"):
        nt_xent(given, 0.5)
    with pytest.raises(UserError, match=r"^kl: shapes "):
        kl(*given)


def test_the_number_of_views_is_checked() -> None:
    with pytest.raises(UserError, match=r"^nt_xent: 3 views, expected 2"):
        nt_xent(views(3), 0.5)
    with pytest.raises(UserError, match=r"^contrast: 1 views, expected at least 2$"):
        sup_con(views(1), 0.5)
