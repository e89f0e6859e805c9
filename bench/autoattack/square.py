"""The only owner of Square as our engine runs it (Andriushchenko et al., ECCV 2020): random search by squares."""

from dataclasses import dataclass

from robustcl.bench.autoattack.search import Search
from robustcl.bench.judge import Judge
from robustcl.models.errors import UserError


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
    raise NotImplementedError
