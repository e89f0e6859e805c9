"""Tests of AP-DPE: its puzzles taken apart again, h and its sign against plain loops, its attack, second order."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.routing import batch_norm_mode
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Batch, Net, Targets, Views, build_net, named
from robustcl.pretraining.methods.ap_dpe import APDPE, AttentionPooling, join, log_det, permutations, split
from robustcl.pretraining.views import recipe

N, EPS = 6, 8 / 255


def ap_dpe(**changed: Any) -> APDPE:
    return APDPE(**{"weak": recipe("none"), "layers": 1, **changed})


def batch(n: int = N, height: int = 8, width: int = 8, iteration: int = 0) -> Batch:
    images = torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0))
    ball, labels = Threat("8/255"), torch.zeros(n, dtype=torch.long)
    return Batch(images=images, labels=labels, threat=ball, seed=4, epoch=0, epochs=1, iteration=iteration)


def build(method: APDPE, blocks: tuple[int, ...] = (1, 1), seed: int = 1) -> Net:
    encoder = Encoder(Tiny(width=4, blocks=blocks), (1, 8, 8), seed=seed)
    return build_net(method, encoder, Targets(classes=3), seed=seed).train()


def patch(image: Tensor, place: int) -> Tensor:
    size = image.shape[-1] // 4
    row, column = divmod(place, 4)
    return image[..., row * size : (row + 1) * size, column * size : (column + 1) * size]


def test_rotations_are_undone_by_their_answers() -> None:
    step = batch(n=10)
    views = ap_dpe().views(step)
    for turned, k, image in zip(views["rotation"], views["rotation_answer"].tolist(), step.images, strict=True):
        back = turned
        for _ in range(4 - k):
            back = back.transpose(1, 2).flip(1)  # a quarter turn to the left
        assert torch.equal(back, image)
    counts = views["rotation_answer"].bincount(minlength=4)
    assert counts.sum() == 10
    assert counts.max() <= 3


def test_patches_come_to_their_places_by_their_permutation() -> None:
    orders, forced = permutations(4), 0
    assert torch.equal(orders, permutations(4))
    assert not torch.equal(orders, permutations(5))
    assert orders.shape == (31, 16)
    assert torch.equal(orders[0], torch.arange(16))
    assert torch.equal(orders.sort(1).values, torch.arange(16).expand(31, 16))
    for iteration in range(2):
        step = batch(n=400, iteration=iteration)
        views = ap_dpe().views(step)
        forced += int((views["jigsaw_answer"] == 0).sum())
        for mixed, answer, image in zip(
            views["jigsaw"][:60], views["jigsaw_answer"][:60], step.images[:60], strict=True
        ):
            for place, origin in enumerate(orders[answer].tolist()):
                assert torch.equal(patch(mixed, place), patch(image, origin))
    assert abs(forced / 800 - (0.1 + 0.9 / 31)) < 0.04
    assert views["jigsaw_answer"].max() == 30


def test_split_and_join_are_inverse() -> None:
    images = batch().images
    parts = split(images)
    assert all(torch.equal(parts[:, place], patch(images, place)) for place in range(16))
    assert torch.equal(join(parts), images)


@pytest.mark.parametrize("released", [True, False])
def test_selfie_scores_the_masked_patches_by_the_visible_ones(released: bool) -> None:
    method, step = ap_dpe(double_softmax=released), batch()
    net, views = build(method).eval(), method.views(step)
    assert torch.equal(views["selfie"], step.images)
    order = views["selfie_answer"].tolist()
    assert sorted(order) == list(range(16))
    total, head = torch.zeros(()), net.heads["selfie"]
    for image in step.images:
        z = [net.encoder.body.trunk(patch(image, place)[None]).mean((2, 3))[0] for place in range(16)]
        places = head(torch.stack([z[place] for place in order[4:]])[None], torch.tensor(order[:4]))[0]
        for i in range(4):
            scores = torch.stack([torch.dot(places[i], z[place]) for place in order[:4]])
            total = total - (scores.softmax(0) if released else scores).log_softmax(0)[i] / N
    torch.testing.assert_close(method.task(net, "selfie", step.images, views), total)
    # What a masked patch shows changes no visible one, and so not what is said of its place.
    blank = join(split(step.images).index_fill(1, torch.tensor(order[:4]), 0.0))
    seen = [net.encoder.map(split(x)[:, order[4:]].flatten(0, 1)) for x in (step.images, blank)]
    assert torch.equal(*seen)


def test_places_are_told_apart_by_row_and_column() -> None:
    head = build(ap_dpe()).heads["selfie"]
    assert isinstance(head, AttentionPooling)
    z, places = torch.rand(2, 12, 4), torch.tensor([0, 7, 13, 15])
    out = head(z, places)
    for i, (row, column) in enumerate([(0, 0), (1, 3), (3, 1), (3, 3)]):
        embedded = head.rows[row] + head.columns[column] - head.rows[0] - head.columns[0]
        torch.testing.assert_close(out[:, i] - out[:, 0], embedded.expand(2, 4))


def slow(gradients: list[Tensor]) -> float:
    """h as a loop over images."""
    found = []
    for rows in zip(*gradients, strict=True):
        g = torch.stack([row.flatten() / torch.linalg.vector_norm(row) for row in rows], 1)
        found.append(math.log(torch.linalg.det(g.T @ g + 1e-5 * torch.eye(len(rows), dtype=g.dtype)).item()))
    return sum(found) / len(found)


def test_h_is_that_of_a_loop_over_images() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [1e-4 * torch.randn(5, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    assert log_det(gradients).item() == pytest.approx(slow(gradients), rel=1e-6)
    alike = [gradients[0], 2 * gradients[0], gradients[0] + 1e-2 * gradients[1]]
    assert log_det(alike).item() == pytest.approx(slow(alike), rel=1e-6)
    assert log_det(alike) < log_det(gradients)
    still = torch.zeros(2, 4, requires_grad=True)  # a gradient of zero leaves no NaN behind
    (again,) = torch.autograd.grad(log_det([still, torch.ones(2, 4), torch.eye(2, 4)]), still)
    assert again.isfinite().all()


@pytest.mark.parametrize(("sign", "factor"), [("released", 0.1), ("diverse", -0.1)])
def test_the_terms_are_those_of_the_paper(sign: str, factor: float) -> None:
    method, step = ap_dpe(sign=sign), batch()
    net = build(method).double().eval()
    images = {name: view.double() if view.is_floating_point() else view for name, view in method.views(step).items()}
    origins = torch.cat([images[task] for task in method.tasks])
    views = images | {"adversarial": (origins + 0.01).clamp(0, 1)}
    terms, gradients = method.loss(net, views, step), []
    for number, task in enumerate(method.tasks):
        x = views["adversarial"][number * N : (number + 1) * N].clone().requires_grad_()
        loss = method.task(net, task, x, views)
        gradients.append(torch.autograd.grad(loss, x)[0])
        torch.testing.assert_close(terms[f"{task}_adversarial"], loss / 6)
        torch.testing.assert_close(terms[task], method.task(net, task, views[task], views) / 6)
    assert terms["diversity"].item() == pytest.approx(factor * slow(gradients), rel=1e-8)
    assert len(terms) == 7


def test_a_task_alone_has_the_mean_of_clean_and_adversarial() -> None:
    method, step = named("ap_dpe/rotation", {"weak": "none"}), batch()
    assert isinstance(method, APDPE)
    net, views = build(method).eval(), method.views(step)
    assert set(views) == {"rotation", "rotation_answer"}
    x = views["rotation"].flip(0)
    terms = method.loss(net, views | {"adversarial": x}, step)
    plain = [F.cross_entropy(net(one, "rotation"), views["rotation_answer"]) / 2 for one in (views["rotation"], x)]
    assert [float(term.detach()) for term in terms.values()] == pytest.approx([p.item() for p in plain])


def losses(method: APDPE, net: Net, x: Tensor, views: Views) -> Tensor:
    with batch_norm_mode(net, True):
        parts = zip(method.tasks, x.chunk(len(method.tasks)), strict=True)
        return torch.stack([method.task(net, task, part, views).detach() for task, part in parts])


def test_the_attack_raises_every_loss_within_ball_and_box() -> None:
    method, step = ap_dpe(), batch()
    net = build(method)
    views = method.adversary(net, method.views(step), step)
    origins, x = torch.cat([views[task] for task in method.tasks]), views["adversarial"]
    assert not x.requires_grad
    assert ((x - origins).abs() <= EPS + 1e-6).all()
    assert ((x >= 0) & (x <= 1)).all()
    assert (losses(method, net, x, views) > losses(method, net, origins, views)).all()
    assert all(p.grad is None for p in net.parameters())


def test_one_step_follows_the_gradients_of_the_loss_and_of_h() -> None:
    # The sign of each task's gradient plus 0.1 times that of h, as the released code takes them, apart.
    method = ap_dpe(ascent=Ascent(steps=1, step="2/255", init="clean", batch_norm="train"), diversity=5.0)
    step, net = batch(), build(method)
    views = method.views(step)
    found = method.adversary(net, views, step)["adversarial"].chunk(3)
    inputs = [views[task].clone().requires_grad_() for task in method.tasks]
    each = [method.task(net, task, x, views) for task, x in zip(method.tasks, inputs, strict=True)]
    first = [torch.autograd.grad(loss, x, create_graph=True)[0] for loss, x in zip(each, inputs, strict=True)]
    second = torch.autograd.grad(log_det(first), inputs)
    for x, g, h, adversarial in zip(inputs, first, second, found, strict=True):
        direction = (g + 5 * h).detach().sign()
        wanted = (x.detach() + 2 / 255 * direction).clamp(0, 1)
        assert (adversarial == wanted).float().mean() > 0.99
        assert (direction != g.sign()).any()


@pytest.mark.parametrize("name", ["body.stem.0.weight", "body.stages.0.0.conv2.weight"])
def test_second_order_gradients_reach_the_weights(name: str) -> None:
    method, step = ap_dpe(diversity=2.0, ascent=Ascent(steps=1, batch_norm="train")), batch()
    net = build(method).double()
    images = {key: view.double() if view.is_floating_point() else view for key, view in method.views(step).items()}
    views = images | {"adversarial": torch.cat([images[task] for task in method.tasks]) * 0.9 + 0.05}
    weight = net.encoder.get_parameter(name)

    def outer(term: str | None = None) -> Tensor:
        terms = method.loss(net, views, step)
        return terms[term] if term else torch.stack(list(terms.values())).sum()

    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for term in (None, "diversity"):
        (gradient,) = torch.autograd.grad(outer(term), weight)
        numbers = []
        for side in (1e-7, -1e-7):
            weight.data.add_(direction, alpha=side)
            numbers.append(outer(term).item())
            weight.data.sub_(direction, alpha=side)
        slope = (numbers[0] - numbers[1]) / 2e-7
        assert slope != 0
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def test_jigsaw_has_a_last_stage_of_its_own_beside_rotation_alone() -> None:
    net = build(ap_dpe())
    own, ours = net.heads["jigsaw_top"].state_dict(), net.encoder.body.top().state_dict()
    assert {key.replace("branches.normal.", "") for key in own} == {key.replace("branches.normal.", "") for key in ours}
    assert not torch.equal(own["0.0.conv1.weight"], ours["0.0.conv1.weight"])
    assert "jigsaw_top" not in build(ap_dpe(tasks=("jigsaw",), diversity=0)).heads
    other = build(ap_dpe(), seed=2).heads["jigsaw_top"].state_dict()
    assert not torch.equal(own["0.0.conv1.weight"], other["0.0.conv1.weight"])


def test_a_single_stage_leaves_the_stem_as_trunk() -> None:
    method, step = ap_dpe(), batch()
    net = build(method, blocks=(1,))
    terms = method.loss(net, method.adversary(net, method.views(step), step), step)
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("blocks", [(1,), (1, 1), (1, 2, 1)])
def test_the_encoder_is_its_top_on_its_map(blocks: tuple[int, ...]) -> None:
    encoder, x = Encoder(Tiny(width=4, blocks=blocks), (1, 8, 8), mean=(0.5,), std=(0.2,)).eval(), batch().images
    found = encoder.map(x, "normal")
    assert found.shape[1] == encoder.body.map_width
    assert torch.equal(encoder.finish(found), encoder(x))
    assert torch.equal(encoder.top()(found), encoder(x))


def test_a_map_of_other_channels_is_one_line() -> None:
    with pytest.raises(UserError, match=r"encoder: images of shape \(2, 3, 8, 8\), expected \(n, 1, h, w\)"):
        Encoder(Tiny(width=4), (1, 8, 8)).map(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(("arm", "tasks", "epochs"), [("rotation", 1, 100), ("jigsaw", 1, 100), ("selfie", 1, 200)])
def test_the_arms_of_one_task(arm: str, tasks: int, epochs: int) -> None:
    method = named(f"ap_dpe/{arm}")
    assert isinstance(method, APDPE)
    assert method.tasks == (arm,)
    assert method.diversity == 0
    assert method.units == 26
    training = method.training
    assert (training.epochs, training.batch, training.optimiser.lr) == (epochs, 128, 0.1)
    assert training.optimiser.weight_decay == (1e-4 if arm == "selfie" else 3e-4)
    assert training.optimiser.nesterov == (arm == "selfie")


def test_the_default_is_the_released_ensemble() -> None:
    method = APDPE()
    assert (method.units, method.sign, named("ap_dpe/diverse")) == (147, "released", APDPE(sign="diverse"))
    assert APDPE(diversity=0).units == 78  # the spec's count without second order
    assert method.training.schedule.lr(0.001, 0, 0, 10, 150) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tasks": ()}, "expected at least one, each once"),
        ({"tasks": ("rotation", "rotation")}, "expected at least one, each once"),
        ({"tasks": ("selfie",)}, "diversity 0.1 of the one task selfie, expected 0 or more tasks"),
    ],
)
def test_wrong_tasks_are_one_line(changed: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ap_dpe(**changed)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (6, 6), (10, 10)])
def test_wrong_sizes_are_one_line(height: int, width: int) -> None:
    with pytest.raises(UserError, match=rf"ap_dpe: images of {height}x{width} pixels, expected squares"):
        ap_dpe().views(batch(height=height, width=width))
