"""Tests of the losses: double loops in plain Python, closed forms, gradients."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.pretraining.losses import Hard, directed, kl, nt_xent, sup_con

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


def unit(given: list[Tensor]) -> list[list[Tensor]]:
    return [[row / row.norm() for row in view] for view in given]


def slow_row(z: list[list[Tensor]], u: int, i: int, temperature: float, detach: bool) -> dict[tuple[int, int], Tensor]:
    """exp(similarity / T) of the anchor of image i in view u with every other row, by (view, image)."""
    return {
        (v, k): (torch.dot(z[u][i], row.detach() if detach else row) / temperature).exp()
        for v, view in enumerate(z)
        for k, row in enumerate(view)
        if (v, k) != (u, i)
    }


def slow_directed(given: list[Tensor], temperature: float, detach: bool = False) -> Tensor:
    """Entry (u, v) by loops: the denominator of an anchor holds all other rows, its other positives among them."""
    m, n, z = len(given), len(given[0]), unit(given)
    found = torch.zeros(m, m, dtype=given[0].dtype)
    for u in range(m):
        rows = [slow_row(z, u, i, temperature, detach) for i in range(n)]
        for v in range(m):
            if u != v:
                each = [-(row[v, i] / torch.stack(list(row.values())).sum()).log() for i, row in enumerate(rows)]
                found[u, v] = torch.stack(each).mean()
    return found


def slow_hard(given: list[Tensor], temperature: float, hard: Hard, detach: bool = False) -> Tensor:
    """HCL by loops. `across`: the mean of row r divides column r; `unshifted`: the bound is that of shifted ones."""
    m, n, z = len(given), len(given[0]), unit(given)
    rows = {(u, i): slow_row(z, u, i, temperature, detach) for u in range(m) for i in range(n)}
    least = (n - 1) * m * math.exp(0 if hard.unshifted else -1 / temperature)

    def foreign(of: tuple[int, int]) -> dict[tuple[int, int], Tensor]:
        return {at: e for at, e in rows[of].items() if at[1] != of[1]}

    def mean(of: tuple[int, int]) -> Tensor:
        return torch.stack([e**hard.beta for e in foreign(of).values()]).mean()

    found = torch.zeros(m, m, dtype=given[0].dtype)
    for (u, i), row in rows.items():
        own = torch.stack([row[v, i] for v in range(m) if v != u]).mean()
        near = foreign((u, i))
        weighed = [e**hard.beta / mean(at if hard.across else (u, i)) * e for at, e in near.items()]
        negatives = (torch.stack(weighed).sum() - hard.tau * len(near) * own) / (1 - hard.tau)
        for v in set(range(m)) - {u}:
            found[u, v] = found[u, v] - (row[v, i] / (own + negatives.clamp(min=least))).log() / n
    return found


def assert_alike(fast: Loss, slow: Loss, x: list[Tensor]) -> None:
    """Equal values, and equal gradients of every entry, each with a weight of its own."""
    x = [view.requires_grad_() for view in x]
    ours, theirs = fast(x), slow(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    pulls = torch.rand(ours.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(ours, x, pulls), torch.autograd.grad(theirs, x, pulls), strict=True):
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("detach", [False, True])
def test_each_direction_equals_the_double_loop_with_its_gradient(m: int, detach: bool) -> None:
    assert_alike(lambda x: directed(x, 0.5, detach=detach), lambda x: slow_directed(x, 0.5, detach), views(m, n=4))


HARDS = [
    Hard(beta=1, tau=0.12),
    Hard(beta=2, tau=0.01),
    Hard(beta=0, tau=0.1),
    Hard(beta=0.5, tau=0.1),
    Hard(beta=1, tau=0.9),  # so much is taken off that the bound acts
]


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("slips", [{}, {"across": True}, {"unshifted": True}], ids=["right", "across", "unshifted"])
@pytest.mark.parametrize("hard", HARDS, ids=lambda hard: f"beta{hard.beta}-tau{hard.tau}")
def test_hard_negatives_equal_the_double_loop_with_their_gradient(
    hard: Hard, slips: dict[str, bool], detach: bool
) -> None:
    hard = replace(hard, **slips)
    for x in (views(3, n=4), near_views()):
        assert_alike(lambda x: directed(x, 0.5, detach=detach, hard=hard), lambda x: slow_hard(x, 0.5, hard, detach), x)


def near_views() -> list[Tensor]:
    """Views that lie so near to one another that what is taken off the negatives exceeds them: the bound acts."""
    first, *others = views(3, n=4)
    return [first, *(first + 0.1 * view for view in others)]


def test_the_slips_of_the_released_hard_negatives_move_the_loss() -> None:
    for x, tau, slip in ((views(3, n=4), 0.12, {"across": True}), (near_views(), 0.9, {"unshifted": True})):
        right, wrong = (directed(x, 0.5, hard=Hard(tau=tau, **kind)) for kind in ({}, slip))
        assert (right - wrong).abs().max() > 1e-3


@pytest.mark.parametrize("m", [2, 3])
def test_hard_negatives_without_weights_and_debiasing_in_closed_form(m: int) -> None:
    # All negatives count alike: what is left of the plain form is the mean positive in place of the sum.
    x = views(m, n=4)
    z, n = unit(x), 4
    found = directed(x, 0.5, hard=Hard(beta=0, tau=0))
    for u in range(m):
        for v in range(m):
            if u == v:
                assert found[u, v] == 0
                continue
            total = 0.0
            for i in range(n):
                row = slow_row(z, u, i, 0.5, False)
                own = sum(float(e) for (_, k), e in row.items() if k == i) / (m - 1)
                below = own + sum(float(e) for (_, k), e in row.items() if k != i)
                total -= math.log(float(row[v, i]) / below) / n
            assert float(found[u, v]) == pytest.approx(total, rel=1e-12)
    if m == 2:  # one positive is its own mean
        torch.testing.assert_close(found, directed(x, 0.5))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.005, 0.05, 0.5, 50.0])
def test_hard_negatives_stay_finite_at_every_temperature(temperature: float, beta: float) -> None:
    x = [view.float().requires_grad_() for view in views(3)]
    loss = directed(x, temperature, hard=Hard(beta=beta)).sum()
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, x):
        assert gradient.isfinite().all()


def test_the_three_view_form_of_rocl_is_twice_sup_con() -> None:
    x = views(3, n=4)

    def six(given: list[Tensor]) -> Tensor:
        """The six ordered positive directions, summed over the images and divided by 3 n."""
        z, n = unit(given), len(given[0])
        total = torch.zeros((), dtype=given[0].dtype)
        for u in range(3):
            for i in range(n):
                row = slow_row(z, u, i, 0.5, False)
                for v in {0, 1, 2} - {u}:
                    total = total - (row[v, i] / torch.stack(list(row.values())).sum()).log()
        return total / (3 * n)

    assert_alike(lambda given: 2 * sup_con(given, 0.5)[None], lambda given: six(given)[None], x)
    assert float(six(x).detach()) == pytest.approx(float(directed(x, 0.5).sum().detach()) / 3, rel=1e-12)


def test_a_detached_second_factor_keeps_the_value_and_is_not_half_of_the_gradient() -> None:
    x = [view.requires_grad_() for view in views(2)]
    torch.testing.assert_close(nt_xent(x, 0.5, detach=True), nt_xent(x, 0.5), rtol=1e-12, atol=0)
    halves = torch.cat(torch.autograd.grad(nt_xent(x, 0.5, detach=True), x))
    whole = torch.cat(torch.autograd.grad(nt_xent(x, 0.5), x))
    assert (2 * halves - whole).norm() / whole.norm() > 0.01
    wanted = torch.cat(torch.autograd.grad(slow_directed(x, 0.5, detach=True).sum() / 2, x))
    torch.testing.assert_close(halves, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("hard", [None, Hard()])
def test_with_a_detached_second_factor_the_anchor_alone_is_pulled(hard: Hard | None) -> None:
    x = [view.requires_grad_() for view in views(3)]
    terms = directed(x, 0.5, detach=True, hard=hard)
    for u in range(3):
        for v in {0, 1, 2} - {u}:
            found = torch.autograd.grad(terms[u, v], x, retain_graph=True)
            assert [bool(gradient.abs().max() > 0) for gradient in found] == [w == u for w in range(3)]
