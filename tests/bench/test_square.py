"""Square of our own engine against the released one, image by image, and what has to hold of it whatever it finds."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustcl.bench.autoattack.attacks import Square
from robustcl.bench.autoattack.bumps import bumps
from robustcl.bench.autoattack.search import Search
from robustcl.bench.autoattack.windows import Grid
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Counted, Judge
from robustcl.models import lean
from robustcl.models.lean import Lean
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import trained

NORMS = ("linf", "l2", "l1")
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
EPS = {"linf": "1/9", "l2": "3/5", "l1": "5/4"}
WIDE = {"linf": "1/40", "l2": "1/2", "l1": "1"}
APART = {"linf": "2/5", "l2": "2", "l1": "6"}  # zeros and ones lie further apart
QUERIES = 60


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Images]:
    model, x, y = trained(n=24)
    return model, Images(x, y, classes=10, name="digits")


def wide() -> tuple[nn.Module, Images]:
    """A random convolutional network with batch norm, and images of three channels that are not square."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten()]
        head = nn.Linear(120, 5)
        model = nn.Sequential(*body, head)
        x = torch.rand(23, 3, 10, 13)
        model(x)
    with torch.no_grad():
        head.bias.sub_(model.eval()(x).mean(0))  # so that every class occurs
        y = model(x).argmax(1)
    return model, Images(x, y, classes=5, name="random")


def records(model: nn.Module, images: Images, threat: Threat, attack: Square, **trial: Any) -> pd.DataFrame:
    """What Square says of every image that it was tried on."""
    found = judge(model, images, Trial(threat=threat, judges={"square": [attack]}, **trial))
    return found[found["judge"] == "square"].reset_index(drop=True)


def both(model: nn.Module, images: Images, threat: Threat, **fields: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The released code's records and ours, with the same draws."""
    theirs, ours = (
        records(model, images, threat, Square(engine=engine, **fields)) for engine in ("reference", "replay")
    )
    return theirs, ours


@pytest.mark.parametrize(("classes", "restarts"), [(10, 1), (2, 2)])
@pytest.mark.parametrize("norm", NORMS)
def test_verdicts_are_those_of_the_released_code(norm: Any, classes: int, restarts: int) -> None:
    model, x, y = trained(classes, n=24)
    images, threat = (
        Images(x, y, classes=classes, name="digits"),
        Threat((EPS if classes > 2 else APART)[norm], norm=norm),
    )
    theirs, ours = both(model, images, threat, queries=QUERIES, restarts=restarts, batch=7)
    assert ours["right"].tolist() == theirs["right"].tolist()
    assert 0 < ours["right"].sum() < len(ours), "both outcomes have to occur"
    lost = ~ours["right"]
    assert ours["answer"][lost].tolist() == theirs["answer"][lost].tolist()
    assert torch.tensor(ours["distance"][lost].tolist()).allclose(torch.tensor(theirs["distance"][lost].tolist()), 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_colours_and_images_that_are_not_square(norm: Any) -> None:
    model, images = wide()
    theirs, ours = both(model, images, Threat(WIDE[norm], norm=norm), queries=QUERIES, batch=9)
    assert ours["right"].tolist() == theirs["right"].tolist()
    assert 0 < ours["right"].sum() < len(ours), "both outcomes have to occur"


def judged(model: nn.Module, images: Images, threat: Threat, attack: Square, batch: int = 256) -> Judge:
    """The judge after the attack, with its points."""
    x, y = images.floats(slice(None)), images.labels
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:, 0]
    found = Judge(
        Counted(model),
        x[right],
        y[right],
        right.tolist(),
        threat=threat,
        seed=0,
        batch=batch,
        classes=images.classes,
        keep_points=True,
    )
    attack.run(found)
    return found


@pytest.mark.parametrize("kind", ["digits", "wide"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_best_points_are_those_of_the_released_code(
    norm: Any, kind: str, digits: tuple[nn.Module, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 40 queries, of the images that are broken and of those that are not.

    In l1 the released code takes what rounding leaves of an unchanged pixel for a change and blows it up to length 1:
    images that are moved by 1e-7 go elsewhere within 20 queries. So the network may not round otherwise either.
    """
    monkeypatch.setattr(lean, "lighter", lambda *_: None)
    model, images = digits if kind == "digits" else wide()
    threat = Threat((EPS if kind == "digits" else WIDE)[norm], norm=norm)
    ours = judged(model, images, threat, Square(engine="replay", queries=40, batch=100))
    given = {"norm": NAMES[norm], "eps": float(threat.eps), "n_queries": 40, "resc_schedule": False}
    released = SquareAttack(model, **given)
    released.init_hyperparam(ours.x)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        _, points = released.attack_single_run(ours.x.clone(), ours.y)
    assert ours.point is not None
    assert (points - ours.x).abs().max() > 0.01
    assert 0 < (ours.step >= 0).sum() < len(ours.y)
    assert (ours.point - points).abs().max() < 3e-6
    assert (ours.outside < 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_finds_the_same_in_every_batch_and_order(norm: Any, digits: tuple[nn.Module, Images]) -> None:
    model, images = digits
    threat, attack = Threat(EPS[norm], norm=norm), Square(engine="fast", queries=QUERIES, restarts=2)
    whole = records(model, images, threat, attack, batch=64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2))
    parts = records(model, images.take(order), threat, attack, batch=9)
    assert 0 < whole["right"].sum() < len(whole)
    columns = ["image", "answer", "right", "step", "passes"]
    pd.testing.assert_frame_equal(whole[columns], parts.sort_values("image").reset_index(drop=True)[columns])


@pytest.mark.parametrize("norm", NORMS)
def test_looking_every_tenth_query_finds_the_same(
    norm: Any, digits: tuple[nn.Module, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, where nothing is known of the images between two looks."""
    model, images = digits
    threat, attack = Threat(EPS[norm], norm=norm), Square(engine="fast", queries=QUERIES)
    each = records(model, images, threat, attack)
    before: Callable[..., None] = Search.__init__

    def seldom(self: Search, *given: Any) -> None:
        before(self, *given)
        self.every = 10

    monkeypatch.setattr(Search, "__init__", seldom)
    tenth = records(model, images, threat, attack)
    assert tenth["right"].tolist() == each["right"].tolist()
    assert 0 < each["right"].sum() < len(each)


class Coarse(nn.Module):
    """A model whose answers are whole numbers, so that ties are common."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = (self.model(x) / 3).round()
        return answer


@pytest.mark.parametrize("norm", NORMS)
def test_ties_are_given_up_where_the_released_code_gives_up(norm: Any, digits: tuple[nn.Module, Images]) -> None:
    model, images, threat = Coarse(digits[0]), digits[1], Threat({**EPS, "l1": "3"}[norm], norm=norm)
    theirs, ours = both(model, images, threat, queries=QUERIES, restarts=2, batch=11)
    assert ours["right"].tolist() == theirs["right"].tolist()
    assert 0 < ours["right"].sum() < len(ours)
    beyond = records(model, images, threat, Square(engine="fast", queries=QUERIES, restarts=2))
    assert (ours["right"] & (ours["margin"] == 0)).any(), "no tie was left"
    assert beyond["right"].sum() <= ours["right"].sum()


def test_a_search_in_bfloat16_goes_on_until_float32_agrees(digits: tuple[nn.Module, Images]) -> None:
    model, images = digits
    full = judged(model, images, Threat("1/9"), Square(engine="fast", queries=QUERIES))
    half = judged(model, images, Threat("1/9"), Square(engine="fast", queries=QUERIES, precision="bfloat16"))
    assert half.point is not None
    with torch.no_grad():
        answers = model(half.point).argmax(1)
    assert ((answers != half.y) == (half.step >= 0)).all()
    assert ((half.step >= 0) != (full.step >= 0)).sum() <= 2
    assert 0 < (half.step >= 0).sum() < len(half.y)


@pytest.mark.parametrize(("norm", "restarts"), [("linf", 1), ("l2", 1), ("l2", 2), ("l1", 1)])
def test_costs_are_what_is_spent_on_an_image_that_stays_right(norm: Any, restarts: int) -> None:
    """In linf at most: what changes nothing is not asked."""
    head = nn.Linear(64, 3)
    with torch.no_grad():
        head.weight.mul_(1e-3)
        head.bias.copy_(torch.arange(3.0))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Images(x, torch.tensor([2, 2]), classes=3, name="fixed")
    attack = Square(engine="fast", queries=60, restarts=restarts)
    spent = records(nn.Sequential(nn.Flatten(), head), images, Threat("1/20", norm=norm), attack)["passes"]
    least = 0.3 if norm == "linf" else 1
    assert (spent <= attack.cost(3)).all()
    assert (spent >= least * attack.cost(3)).all()


class Calls(TorchDispatchMode):
    """Counts what torch is asked to do outside the model."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self.inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("norm", "most"), [("linf", 33), ("l2", 71)])
def test_a_query_makes_few_calls(
    norm: Any, most: int, digits: tuple[nn.Module, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: what is spent beside the model decides on small images and on accelerators."""
    model, images = digits
    calls, answers = Calls(), Lean.answers

    def hidden(self: Lean, given: Tensor) -> Tensor:
        calls.inside = True
        answer = answers(self, given)
        calls.inside = False
        return answer

    monkeypatch.setattr(Lean, "answers", hidden)
    counts = []
    for queries in (200, 400):  # one side of the windows
        calls.found.clear()
        with calls:
            records(model, images, Threat("1/10000", norm=norm), Square(engine="fast", queries=queries))
        counts.append(calls.found.total())
    assert (counts[1] - counts[0]) / 200 <= most


@pytest.mark.parametrize("order", [2, 1])
def test_bumps_are_those_of_the_released_code(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    released = SquareAttack(nn.Identity(), norm=f"L{order}", eps=1.0)
    released.device = torch.device("cpu")
    for turned, drawn in enumerate((0.4, 0.6)):
        monkeypatch.setattr(torch, "rand", lambda *_, drawn=drawn: torch.tensor([drawn]))
        for side in (1, 2, 3, 4, 5, 8, 13):
            ours = bumps(side, order, torch.device("cpu"))
            assert torch.allclose(ours[turned], released.eta(side), atol=1e-7), side


def test_sides_follow_the_published_schedule() -> None:
    released = SquareAttack(nn.Identity(), norm="Linf", eps=1.0, resc_schedule=False)
    grid = Grid((3, 28, 40), last=False, device=torch.device("cpu"))
    queries = [*range(0, 60), 199, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4001, 6001, 8001, 9999]
    shares = [released.p_selection(query) for query in queries]
    assert [grid.side(query, 1) for query in queries] == [
        min(max(round((share * 28 * 40) ** 0.5), 1), 28) for share in shares
    ]
    assert all(grid.side(query, 3) % 2 for query in queries[20:])
    assert min(grid.side(query, 3) for query in queries) == 3
    small = Grid((1, 8, 6), last=False, device=torch.device("cpu"))
    assert small.side(0, 3) == 6
