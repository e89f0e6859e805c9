"""The only owner of FAB as our engine runs it (Croce and Hein, ICML 2020): towards targets, or over all classes.

It goes where the released code goes, step by step: to the hyperplane at which the linearised network changes its
answer, from the point and from the image, and back towards the image from where the answer is another one. The released
code looks at the nearest such point at the end of a run; here an image leaves as soon as one lies in the ball, which is
the same verdict.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcl.bench.autoattack.projections import changes, lengths, slopes
from robustcl.bench.autoattack.search import Claims, Rows, Search

_LARGEST = 0.1  # how much of the image's own way is mixed in, at most
_OVERSHOOT = 1.05
_BACK = 0.9  # of the way from the image
_SMALL, _SHORTEST = 1e-12, 1e-8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: for each of `targets` (or once) and each restart `steps` steps."""

    targeted: bool
    steps: int
    restarts: int
    targets: int


@dataclass
class Chase(Rows):
    """What FAB holds of the images that it still works with: `x` and `point` as rows (m, d), `goal` the target."""

    at: Tensor
    x: Tensor
    y: Tensor
    goal: Tensor
    point: Tensor


def attack(search: Search, plan: Plan) -> None:
    """Seek the nearest adversarial image of every image that is still right; out as soon as one lies in the ball."""
    for target in range(plan.targets if plan.targeted else 1):
        for restart in range(plan.restarts):
            at = search.left
            if not len(at):
                return
            x, y = search.x[at], search.y[at]
            point = _start(search, at) if restart else x
            goal = search.ranking[at, 1 + target] if plan.targeted else y
            state = Chase(at=at, x=search.rows_of(x), y=y, goal=goal, point=search.rows_of(point))
            _run(search, plan, state)


def _start(search: Search, at: Tensor) -> Tensor:
    """Points (m, ...) at half of the radius in a random direction, then in the box."""
    norm, x = search.threat.norm, search.x[at]
    shape = tuple(x.shape[1:])
    way = 2 * search.source.uniform(at, shape) - 1 if norm == "linf" else search.source.normal(at, shape)
    size = lengths(norm, way.flatten(1)).view(-1, *[1] * len(shape))
    return (x + float(search.threat.eps) * way / size * 0.5).clamp_(0, 1)


def _run(search: Search, plan: Plan, state: Chase) -> None:
    """So many steps with every image that does not leave before."""
    norm, eps = search.threat.norm, float(search.threat.eps)
    claims = Claims(search, search.x[state.at])
    for number in range(1, plan.steps + 1):
        gap, weights = _plane(search, state) if plan.targeted else _nearest_plane(search, state)
        points = _towards(search, state, gap, weights)
        images = search.images_of(points)
        wrong = search.answers(state.at, images).argmax(1) != state.y
        inside = lengths(norm, points - state.x) <= eps
        state.point = torch.lerp(state.x, points, torch.where(wrong, _BACK, 1.0)[:, None])
        stays = claims.settle(state.at, images, wrong & inside, number, last=number == plan.steps)
        if stays is not None:
            state.keep(stays)
            if not len(state.at):
                return


def _plane(search: Search, state: Chase) -> tuple[Tensor, Tensor]:
    """How far the target's logit is above the label's (m,), and the gradient of that (m, d)."""
    both = torch.stack([state.goal, state.y], 1)

    def gaps(logits: Tensor) -> Tensor:
        goal, own = logits.gather(1, both).unbind(1)
        return goal - own

    _, gap, gradient = search.gradient(state.at, search.images_of(state.point), gaps)
    return gap, search.rows_of(gradient)


def _nearest_plane(search: Search, state: Chase) -> tuple[Tensor, Tensor]:
    """The same for the class whose hyperplane is nearest, the first of them."""
    logits, pull = search.pullback(state.at, search.images_of(state.point))
    own = state.y[:, None]
    gaps = logits - logits.gather(1, own)
    for number in range(logits.shape[1] - 1):
        other = number + (own <= number).long()
        gap = gaps.gather(1, other)[:, 0]
        weights = search.rows_of(pull(torch.zeros_like(logits).scatter_(1, other, 1).scatter_(1, own, -1)))
        distance = gap.abs() / (_SMALL + slopes(search.threat.norm, weights))
        if not number:
            nearest, best, plane = distance, gap, weights
            continue
        closer = distance < nearest
        nearest, best = torch.where(closer, distance, nearest), torch.where(closer, gap, best)
        plane = torch.where(closer[:, None], weights, plane)
    return best, plane


def _towards(search: Search, state: Chase, gap: Tensor, weights: Tensor) -> Tensor:
    """The next points (m, d): past the hyperplane, a little towards where it is nearest to the image."""
    # Both the point and the image go to one hyperplane; how far the image is from it follows from the point.
    points = torch.stack([state.point, state.x], 1)
    beyond = torch.bmm(weights[:, None], points.transpose(1, 2))[:, 0]
    gaps = torch.stack([gap, gap + beyond[:, 1] - beyond[:, 0]], 1)
    ways, far = changes(search.threat.norm, points, weights, gaps)
    far = far.clamp_min(_SHORTEST)
    share = (far[:, :1] / far.sum(1, keepdim=True)).clamp_max(_LARGEST)
    mixed = torch.lerp(state.point, state.x, share)
    shares = torch.stack([1 - share, share], 2)
    return torch.baddbmm(mixed[:, None], _OVERSHOOT * shares, ways)[:, 0].clamp_(0, 1)
