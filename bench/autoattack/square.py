"""The only owner of Square as our engine runs it (Andriushchenko et al., ECCV 2020): random search by squares.

It goes where the released code goes, query by query; what differs is said where it does. A proposal that changes
nothing is not asked about, and an image leaves at its first success: every state is one of an image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcl.bench.autoattack.bumps import L1Bumps, L2Bumps
from robustcl.bench.autoattack.draws import Replay
from robustcl.bench.autoattack.proposals import Hunt, Proposals, Signs
from robustcl.bench.autoattack.search import Claims, Search
from robustcl.bench.autoattack.windows import Grid
from robustcl.bench.judge import Judge
from robustcl.models.errors import UserError

_KINDS: dict[str, type[Proposals]] = {"linf": Signs, "l2": L2Bumps, "l1": L1Bumps}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: `restarts` times `queries` queries."""

    queries: int
    restarts: int


def check(judge: Judge, name: str) -> None:
    """Errors: `UserError` for images that are too small for the tiles that l2 and l1 begin with."""
    side = min(judge.x.shape[-2:])
    if judge.threat.eps and judge.threat.norm != "linf" and side < 5:
        raise UserError(f"{name}: images of side {side}, expected at least 5 in {judge.threat.norm}")


def attack(search: Search, plan: Plan) -> None:
    """Propose squares to every image that is still right; out as soon as one breaks it."""
    c, h, w = search.x.shape[1:]
    last = search.model.last and search.threat.norm != "l1"  # the package's l1 projection rounds in the other order
    grid = Grid((c, h, w), last=last, device=search.x.device)
    lowest = torch.full((len(search.rows), 1), torch.inf, device=search.x.device)
    moves = _KINDS[search.threat.norm](search, grid)
    for _ in range(plan.restarts):
        at = search.left
        if not len(at):
            return
        state = _run(search, plan.queries, moves, at)
        lower = (state.margin < lowest[state.at])[:, 0]
        at = state.at[lower]
        lowest[at], search.point[at] = state.margin[lower], grid.images(state.point[lower])


def _run(search: Search, queries: int, moves: Proposals, at: Tensor) -> Hunt:
    """One restart: what is still right at its end."""
    state = moves.hunt(at, search.x[at], search.y[at])
    images = moves.grid.images
    claims = Claims(search, images(state.point))

    def settle(wrong: Tensor, step: int) -> None:
        """Who is broken leaves the state."""
        stays = claims.settle(state.at, images(state.point), wrong[:, 0], step, last=step == queries)
        if stays is None:
            return
        if search.every == 1 and isinstance(search.source, Replay):
            # The released code gives up a tie for the rest of the restart, whoever wins it; elsewhere it goes on.
            stays = stays & (state.margin != 0)[:, 0]
        search.book(state.at[~stays], state.asked[~stays])
        state.keep(stays)

    margin = _margins(search.model.answers(images(state.point)), state.y)
    state.margin = margin.nan_to_num(torch.inf)
    settle(~(margin > 0), 0)
    for query in range(queries):
        if not len(state.at):
            break
        moves.propose(state, query)
        margin = _asked(search, state, moves)
        low = float(margin.min()) if search.every == 1 else math.nan  # a look that makes an accelerator wait
        better = margin < state.margin
        if math.isnan(low):  # what is no number is shown to the judge as well, who says so
            better = better | margin.isnan()
        state.margin = torch.fmin(margin, state.margin)  # the minimum, and never what is no number
        moves.back(state, better)
        if not low > 0:
            settle(better & ~(margin > 0), query + 1)
    search.book(state.at, state.asked)
    return state


def _asked(search: Search, state: Hunt, moves: Proposals) -> Tensor:
    """(m, 1) margins of the proposals; where nothing is new, that of the point itself, which is not asked again.

    To find out where nothing is new makes an accelerator wait: there, all are asked.
    """
    points, y, rows = state.point, state.y, None
    new = moves.new() if search.every == 1 else None
    state.asked += 1 if new is None else new
    if new is not None:
        rows = new.nonzero()[:, 0]
        if len(rows) < len(new):
            points, y = points.index_select(0, rows), y.index_select(0, rows)
    if not len(points):
        return state.margin
    margin = _margins(search.model.answers(moves.grid.images(points)), y)
    return margin if rows is None or len(rows) == len(state.at) else state.margin.index_copy(0, rows, margin)


def _margins(logits: Tensor, y: Tensor) -> Tensor:
    """(m, 1) the logit of the label (m, 1) minus the best other one."""
    return logits.gather(1, y) - logits.scatter(1, y, -torch.inf).amax(1, keepdim=True)
