"""Tests of A-InfoNCE on both of its bases against double loops: which term counts, how much, and for whose gradient."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustcl.models.errors import UserError
from robustcl.models.value import plain
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.losses import Hard
from robustcl.pretraining.method import Batch, Net, named, read_method
from robustcl.pretraining.methods.a_infonce import AInfoNCE, Distance
from robustcl.pretraining.methods.advcl import AdvCL
from robustcl.pretraining.methods.rocl import RoCL
from robustcl.pretraining.views import recipe
from tests.pretraining.test_losses import slow_directed, slow_hard
from tests.pretraining.test_rocl import T, batch, climbed, double, doubled, ntx

EPS, STEP, SCALE = 8 / 255, 2 / 255, 0.5 / 0.07
ADVCL = AdvCL(strong=recipe("digits"), weak=recipe("digits-weak"), weight=0, ascent=Ascent(steps=2, batch_norm="train"))
ROCL = RoCL(strong=recipe("digits"), ascent=Ascent(steps=2, step="7/1000", init="clipped"))
VIEWS = ("x1", "x2", "high")


def a_infonce(**changed: Any) -> AInfoNCE:
    fields: dict[str, Any] = {"base": ADVCL, "adapt": 0}
    return AInfoNCE(**(fields | changed))


def on_rocl(**changed: Any) -> AInfoNCE:
    return a_infonce(**{"base": ROCL, "weight": 1.0} | changed)


def climb(method: AInfoNCE, at: Batch) -> tuple[Net, dict[str, Tensor]]:
    """A net and what its inner maximisation found."""
    net = double(method)
    return net, method.adversary(net, doubled(method, at), at)


def projections(net: Net, found: dict[str, Tensor]) -> list[Tensor]:
    """Of the perturbed view and of the three clean ones."""
    return [net(found["x_cl"], "projector", "pgd"), *(net(found[name], "projector", "normal") for name in VIEWS)]


def slow_inferior(z: list[Tensor], pull: float, weight: float, hard: Hard | None = None) -> Tensor:
    """Both slots of every adversarial/clean pair hold one blended term; the matrix is a constant but for the anchor."""

    def matrix(detach: bool) -> Tensor:
        return slow_directed(z, T, detach) if hard is None else slow_hard(z, T, hard, detach)

    both, anchored, m = matrix(False), matrix(True), len(z)
    total = torch.zeros((), dtype=both.dtype)
    for u in range(m):
        for v in range(m):
            if u == v:
                continue
            if 0 in (u, v):
                clean = max(u, v)
                total = total + weight * (pull * anchored[clean, 0] + (1 - pull) * anchored[0, clean])
            else:
                total = total + both[u, v]
    return SCALE * total / (m * (m - 1))


def slow_symmetric(z: list[Tensor], hard: Hard | None = None, mirrored: bool = False, weight: float = 1.0) -> Tensor:
    terms = slow_directed(z, T) if hard is None else slow_hard(z, T, hard)
    m, total = len(z), torch.zeros((), dtype=terms.dtype)
    for u in range(m):
        for v in range(m):
            # In the released code a column is the row's own memory: the weight of each falls on both.
            factor = weight**2 if mirrored and 0 in (u, v) else 1.0
            total = total + factor * (terms[v, u] if mirrored and v == 0 else terms[u, v])
    return SCALE * total / (m * (m - 1))


Slow = Callable[[list[Tensor]], Tensor]


def assert_same_loss(method: AInfoNCE, slow: Slow) -> None:
    """Equal values, and equal gradients of every parameter."""
    at = batch()
    ours, found = climb(method, at)
    theirs = double(method)
    wanted = slow(projections(theirs, found))
    terms = method.loss(ours, found, at)
    assert terms.keys() == {"contrast"}
    assert terms["contrast"].item() == pytest.approx(wanted.item(), rel=1e-9)
    ours.zero_grad()
    terms["contrast"].backward()
    wanted.backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize(("pull", "weight"), [(0.2, 1.2), (0.0, 1.0), (0.5, 0.7)])
def test_inferior_positives_equal_the_loops(pull: float, weight: float) -> None:
    assert_same_loss(a_infonce(pull=pull, weight=weight), lambda z: slow_inferior(z, pull, weight))


def test_hard_negatives_equal_the_loops() -> None:
    assert_same_loss(a_infonce(inferior=False, hard=True), lambda z: slow_symmetric(z, Hard(beta=1, tau=0.12)))


def test_both_equal_the_loops() -> None:
    method = a_infonce(hard=True, weight=0.7, tau=0.1, beta=2.0)
    assert_same_loss(method, lambda z: slow_inferior(z, 0.2, 0.7, Hard(beta=2, tau=0.1)))


def test_neither_is_advcl() -> None:
    assert_same_loss(a_infonce(inferior=False), slow_symmetric)


def test_the_official_plain_form_counts_adversarial_to_clean_twice() -> None:
    method = a_infonce(inferior=False, form="official")
    assert_same_loss(method, lambda z: slow_symmetric(z, mirrored=True, weight=1.2))
    at = batch()
    net, found = climb(method, at)
    official, corrected = (
        form.loss(copy_of(net, found), found, at)["contrast"] for form in (method, a_infonce(inferior=False))
    )
    assert abs(official.item() - corrected.item()) > 1e-4


def copy_of(net: Net, found: dict[str, Tensor]) -> Net:
    """The net again; `found` holds graphs of the first one, whose weights are equal."""
    other = double(a_infonce())
    other.load_state_dict(net.state_dict())
    return other


def leaves(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the clean projections as leaves of the graph."""
    return found | {f"z_{name}": found[f"z_{name}"].detach().requires_grad_() for name in VIEWS}


@pytest.mark.parametrize("hard", [False, True])
def test_without_a_pull_the_pairs_leave_the_clean_features_alone(hard: bool) -> None:
    at = batch()
    net, found = climb(a_infonce(), at)
    slopes: dict[tuple[float, float], list[Tensor]] = {}
    for pull, weight in ((0.0, 0.0), (0.0, 1.2), (0.2, 1.2)):
        views = leaves(found)
        loss = a_infonce(pull=pull, weight=weight, hard=hard).loss(net, views, at)["contrast"]
        slopes[pull, weight] = list(torch.autograd.grad(loss, [views[f"z_{name}"] for name in VIEWS]))
    for nothing, without, pulled in zip(*slopes.values(), strict=True):
        torch.testing.assert_close(without, nothing, rtol=1e-9, atol=1e-12)
        assert (pulled - nothing).abs().max() > 1e-4


def test_with_the_whole_pull_the_pairs_leave_the_adversarial_features_alone() -> None:
    at = batch()
    _, found = climb(a_infonce(), at)
    slopes = []
    for weight in (0.0, 1.2):
        net = double(a_infonce())
        a_infonce(pull=1.0, weight=weight).loss(net, leaves(found), at)["contrast"].backward()
        slopes.append([p.grad for name, p in net.encoder.named_parameters() if ".pgd." in name])
    for nothing, pulled in zip(*slopes, strict=True):
        assert nothing is not None
        assert pulled is not None
        torch.testing.assert_close(pulled, nothing, rtol=1e-9, atol=1e-12)


def with_distance(method: AInfoNCE, total: float = 0.0, count: float = 0.0) -> Net:
    net = double(method)
    distance = net.beside["distance"]
    assert isinstance(distance, Distance)
    distance.total.fill_(total)
    distance.count.fill_(count)
    return net


def seen(net: Net) -> tuple[float, float]:
    distance = net.beside["distance"]
    assert isinstance(distance, Distance)
    return distance.total.item(), distance.count.item()


def apart(net: Net, found: dict[str, Tensor]) -> float:
    """The mean distance of clean and attacked features, in train mode on the clean route."""
    clean, attacked = (net.encoder(found[name], "normal") for name in ("origin", "x_cl"))
    return float((clean - attacked).square().sum(1).sqrt().mean().detach())


def test_the_distance_is_collected_over_the_first_epochs_and_then_stays() -> None:
    method, wanted = a_infonce(adapt=2), []
    net = with_distance(method)
    for epoch in (0, 0, 1, 2, 5):
        at = batch(epoch=epoch, epochs=10)
        found = method.adversary(net, doubled(method, at), at)
        if epoch < 2:
            wanted.append(apart(copy.deepcopy(double_like(net)), found))
        method.loss(net, found, at)
        assert seen(net)[0] / seen(net)[1] == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert len(wanted) == 3


def double_like(net: Net) -> Net:
    """A net with the weights of `net`."""
    other = with_distance(a_infonce(adapt=2))
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.parametrize("pull", [0.2, 0.3])
def test_the_pull_follows_the_distance_within_its_bounds(pull: float) -> None:
    at = batch(epoch=3, epochs=10)
    _, found = climb(a_infonce(), at)
    now = apart(double(a_infonce()), found)

    def loss(method: AInfoNCE, net: Net) -> float:
        return method.loss(net, found, at)["contrast"].item()

    def fixed(used: float) -> float:
        return loss(a_infonce(pull=used), double(a_infonce()))

    def adaptive(usual: float, nearest: float, adapt: int = 3) -> float:
        method = a_infonce(pull=pull, adapt=adapt, nearest=nearest)
        return loss(method, with_distance(method, total=4 * usual, count=4))

    assert fixed(0.5) != pytest.approx(fixed(pull), rel=1e-4)
    cases = {
        (0.9 * now, 0.5 * now): pull,  # further apart than usual
        (2.0 * now, 1.1 * now): 0.5,  # nearer than the nearest
        (2.0 * now, 0.5 * now): pull + (0.5 - pull) * (2.0 - 1) / (2.0 - 0.5),
        (1.1 * now, 0.1 * now): pull + (0.5 - pull) * (1.1 - 1) / (1.1 - 0.1),
        (1.0001 * now, 2.0 * now): 0.5,  # the usual distance is below the nearest
    }
    for (usual, nearest), used in cases.items():
        assert adaptive(usual, nearest) == pytest.approx(fixed(used), rel=1e-6)
    assert adaptive(2.0 * now, 0.5 * now, adapt=4) == pytest.approx(fixed(pull), rel=1e-6)  # still collecting


def test_the_two_more_forwards_are_in_train_mode_on_the_clean_route_without_a_gradient() -> None:
    at = batch()
    counts = []
    for adapt in (0, 2):
        method = a_infonce(adapt=adapt)
        net, found = climb(method, at)
        norm = net.get_submodule("encoder.body.stem.1.branches.normal")
        before = int(norm.get_buffer("num_batches_tracked"))
        method.loss(net, found, at)
        counts.append(int(norm.get_buffer("num_batches_tracked")) - before)
    assert counts == [0, 2]
    assert not a_infonce(adapt=2, inferior=False).adaptive
    assert not on_rocl(adapt=30).adaptive


def official_attack(net: Net, views: dict[str, Tensor], start: Tensor, objective: Slow) -> Tensor:
    """Two steps in train mode with every view forwarded each time."""
    x = start
    for _ in range(2):
        x = x.detach().requires_grad_()
        z = [net(x, "projector", "pgd"), *(net(views[name], "projector", "normal").detach() for name in VIEWS)]
        (slope,) = torch.autograd.grad(objective(z), x)
        x = climbed(x, slope, views["origin"], EPS, STEP)
    return x


HN = Hard(beta=1, tau=0.12)
ATTACKS: dict[str, tuple[dict[str, Any], Slow]] = {
    "plain": ({"hard": True}, slow_symmetric),
    "hard": ({"hard": True, "attack": "hard"}, lambda z: slow_symmetric(z, HN)),
    "official": ({"form": "official"}, lambda z: slow_symmetric(z, mirrored=True, weight=1.2)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_climbs_what_it_says(name: str) -> None:
    changed, objective = ATTACKS[name]
    method, at = a_infonce(**changed), batch()
    _, found = climb(method, at)
    views = {view: found[view] for view in (*VIEWS, "origin")}
    start = at.ball.random_start(views["origin"], at.draws("contrast"))
    x = official_attack(double(method), views, start, objective)
    assert torch.allclose(found["x_cl"], x, rtol=0, atol=1e-7)


def test_the_plain_attack_is_that_of_the_base_and_ip_plays_no_part_in_it() -> None:
    at = batch()
    base = ADVCL.adversary(double(ADVCL), doubled(ADVCL, at), at)["x_cl"]
    for method in (a_infonce(), a_infonce(hard=True), a_infonce(pull=0.0, weight=3.0)):
        assert torch.equal(climb(method, at)[1]["x_cl"], base)
    assert not torch.equal(climb(a_infonce(hard=True, attack="hard", beta=4.0), at)[1]["x_cl"], base)


def rocl_views(at: Batch) -> tuple[Net, dict[str, Tensor], list[Tensor]]:
    net, found = climb(on_rocl(), at)
    three = torch.cat([found["x_adv"], found["x1"], found["x2"]])
    return net, found, list(double(on_rocl())(three, "projector").chunk(3))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("inferior", [False, True])
def test_on_rocl_the_directions_weigh_the_pull_and_the_rest(inferior: bool, hard: bool) -> None:
    at = batch("157/5000")
    net, found, z = rocl_views(at)
    terms = slow_hard(z, T, HN, True) if hard else slow_directed(z, T, True)
    p = 0.2
    weights = [[0, 1 - p, 1 - p], [p, 0, 1], [p, 1, 0]] if inferior else [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    wanted = (torch.tensor(weights) * terms).sum() / 3
    ours = on_rocl(inferior=inferior, hard=hard).loss(net, found, at)["contrast"]
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-7)


def test_on_rocl_the_official_bound_is_right() -> None:
    at = batch("157/5000")
    net, found, z = rocl_views(at)
    method = on_rocl(inferior=False, hard=True, form="official", tau=0.9)
    wanted = slow_hard(z, T, Hard(beta=1, tau=0.9, across=True), True).sum() / 3
    assert method.loss(net, found, at)["contrast"].item() == pytest.approx(wanted.item(), rel=1e-7)


def test_on_rocl_without_either_it_is_rocl() -> None:
    at = batch("157/5000")
    _, found, _ = rocl_views(at)
    method = on_rocl(inferior=False)
    terms, base = (of.loss(double(of), found, at) for of in (method, ROCL))
    assert terms.keys() == base.keys() == {"contrast", "adversarial"}
    for name, term in terms.items():
        assert term.item() == pytest.approx(base[name].item(), rel=1e-9)
    assert torch.equal(climb(method, at)[1]["x_adv"], ROCL.adversary(double(ROCL), doubled(ROCL, at), at)["x_adv"])


@pytest.mark.parametrize("changed", [{}, {"hard": True}, {"hard": True, "inferior": False}])
def test_on_rocl_the_second_term_stays_plain(changed: dict[str, Any]) -> None:
    # The released code leans and hardens the term of three views alone.
    at = batch("157/5000")
    net, found, _ = rocl_views(at)
    one, other = double(on_rocl())(torch.cat([found["x_adv"], found["x2"]]), "projector").chunk(2)
    ours = on_rocl(**changed).loss(net, found, at)["adversarial"]
    assert ours.item() == pytest.approx(ntx(one, other).item() / 256, rel=1e-9)


def test_a_hard_attack_without_hard_negatives_is_one_line() -> None:
    with pytest.raises(UserError, match="attack is 'hard' without hard negatives, expected hard = true") as caught:
        read_method({"method": "a_infonce", "attack": "hard"}, "x")
    assert "\n" not in str(caught.value)


def test_a_base_reads_from_a_table_and_back() -> None:
    method = read_method({"method": "a_infonce", "base": {"name": "rocl"}}, "x")
    assert isinstance(method, AInfoNCE)
    assert method.base == RoCL()
    given = {"method": "a_infonce", "base": {"name": "advcl", "temperature": 0.3, "weight": 0}}
    method = read_method(given, "x")
    assert isinstance(method, AInfoNCE)
    assert method.base == AdvCL(temperature=0.3, weight=0)
    for one in (method, read_method({"method": "a_infonce", "base": {"name": "rocl"}}, "x")):
        written = json.loads(json.dumps(plain(one)))
        assert "training" not in written["base"]
        assert read_method({"method": "a_infonce", **written}, "x") == one
    # What a table leaves out of the base stays as published, the name too.
    nameless = read_method({"method": "a_infonce", "base": {"temperature": 0.3}}, "x")
    assert isinstance(nameless, AInfoNCE)
    assert nameless.base == AdvCL(temperature=0.3)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"name": "rolc"}, r"^x\.base: unknown name 'rolc', expected one of advcl, rocl; did you mean 'rocl'\?$"),
        (
            {"name": "rocl", "divisr": 1},
            r"^x\.base: unknown key 'divisr', expected one of .*; did you mean 'divisor'\?$",
        ),
        ({"name": "rocl", "temperature": 0}, r"^x\.base\S*: .*greater than 0"),
        ({"name": "advcl", "contrasted": ["t1+d", "t2+d"]}, r"^x.*expected those of AdvCL"),
        (7, r"^x\.base"),
    ],
)
def test_a_wrong_base_is_one_line(base: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_method({"method": "a_infonce", "base": base}, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rate", "changed"),
    [
        ("a_infonce", 1.0, {"inferior": True, "hard": False, "pull": 0.2, "weight": 1.2, "adapt": 30, "nearest": 0.4}),
        ("a_infonce/hn", 1.2, {"inferior": False, "hard": True, "beta": 1.0, "tau": 0.12}),
        ("a_infonce/iphn", 2.0, {"inferior": True, "hard": True, "weight": 0.7, "beta": 1.0, "tau": 0.1, "adapt": 30}),
        ("a_infonce/official", 0.5, {"inferior": False, "hard": False}),
        ("a_infonce/official-hn", 1.2, {"inferior": False, "hard": True, "beta": 1.0, "tau": 0.12}),
        ("a_infonce/rocl-ip", 0.1, {"inferior": True, "hard": False, "pull": 0.2, "weight": 1.0}),
        ("a_infonce/rocl-hn", 0.2, {"inferior": False, "hard": True, "beta": 1.0, "tau": 0.12}),
        ("a_infonce/rocl-iphn", 0.3, {"inferior": True, "hard": True, "pull": 0.2, "weight": 1.0, "tau": 0.12}),
    ],
)
def test_the_arms_have_the_settings_released_for_cifar10(name: str, rate: float, changed: dict[str, Any]) -> None:
    method = named(name)
    assert isinstance(method, AInfoNCE)
    assert {key: getattr(method, key) for key in changed} == changed
    training, on = method.training, isinstance(method.base, RoCL)
    assert on == ("rocl" in name)
    assert (training.epochs, training.batch) == (1000 if on else 400, 512)
    first = training.schedule.lr(training.optimiser.lr, 0, 0, 98, training.epochs)
    if on:  # warmed up from the rate to 15 times as much
        assert training.optimiser.lr == pytest.approx(15 * rate)
        assert first == pytest.approx(rate * (1 + 14 / 10))
    else:
        assert training.optimiser.lr == rate
        assert first == 0.01
        last = training.schedule.lr(training.optimiser.lr, 399, 97, 98, 400)
        assert last == pytest.approx(rate * 0.001, rel=1e-6)
