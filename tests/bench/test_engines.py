"""AutoAttack as a whole: our engine beside the released package, exact and in half precision."""

import functools
from itertools import combinations

import pandas as pd
import pytest
from scipy.stats import binomtest

from robustcl.bench.attacks import Engine, identity, judges
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.engine import Member
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.fingerprint import engine_of, fingerprint
from robustcl.bench.judge import Attack
from robustcl.models.errors import UserError
from robustcl.models.threat import Norm, Threat
from tests.bench.engines import digits, same, threat

N = 160


def members(**run: object) -> list[Attack]:
    """`standard`, with fewer steps, targets and queries."""
    return [
        APGD(steps=30, restarts=1, **run),  # type: ignore[arg-type]
        APGD(steps=20, loss="targeted", targets=4, **run),  # type: ignore[arg-type]
        FAB(steps=15, targets=4, **run),  # type: ignore[arg-type]
        Square(queries=150, **run),  # type: ignore[arg-type]
    ]


@functools.cache
def verdicts(norm: Norm, engine: str, seed: int = 0, precision: str = "float32") -> pd.Series:
    """Whether each image is robustly right."""
    run = {"engine": engine} | ({"precision": precision} if engine == "fast" else {"batch": 64})
    model, images = digits(n=N)
    found = judge(model, images, Trial(threat=threat(norm), judges={"aa": members(**run)}, seed=seed))
    right: pd.Series = found[found["judge"].isin(["aa", "clean"])].groupby("image")["right"].all()
    return right


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_all_attacks_one_after_the_other_give_the_packages_verdicts(norm: Norm) -> None:
    replayed, released = verdicts(norm, "replay"), verdicts(norm, "reference")
    same(replayed.to_frame("right"), released.to_frame("right"))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_our_draws_and_half_precision_differ_as_another_seed_of_the_package(norm: Norm, precision: str) -> None:
    released = [verdicts(norm, "reference", seed) for seed in (0, 1, 2)]
    noise = max(int((a != b).sum()) for a, b in combinations(released, 2))
    ours = verdicts(norm, "fast", 0, precision)
    lost, won = int((released[0] & ~ours).sum()), int((~released[0] & ours).sum())
    assert lost + won <= noise + 2
    assert lost + won == 0 or binomtest(lost, lost + won).pvalue > 0.05  # McNemar's exact test


def test_an_engine_is_part_of_the_identity_and_its_batch_only_where_draws_depend_on_it() -> None:
    found = {
        (name, batch): [
            identity(attack) for attack in judges(["autoattack"], 10, Engine(name=name, batch=batch))["autoattack"]
        ]
        for name in ("fast", "replay", "reference")
        for batch in (8, 16)
    }
    assert found["fast", 8] == found["fast", 16]
    assert len({str(held) for held in found.values()}) == 5


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (Engine(), "; fast 1; sha:"),
        (Engine(precision="bfloat16"), "; fast 1; bfloat16; sha:"),
        (Engine(name="replay", batch=32), "; batch 32; replay 1; sha:"),
        (Engine(name="reference", batch=512), "; batch 512; pyautoattack "),
    ],
)
def test_a_fingerprint_says_who_ran_it_and_is_read_back(engine: Engine, says: str) -> None:
    held = judges(["autoattack"], 10, engine)["autoattack"]
    text = fingerprint("autoattack", held, Threat("8/255"), 0, 10)
    assert says in text
    assert engine_of(text) == engine
    assert engine_of("pgd-20@20it step eps/4; linf 1/5; seed 0; sha:e784a60c") is None


@pytest.mark.parametrize("name", ["fast 9", "fast 0", "quick", "pyauto"])
def test_an_engine_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown engine '{name}', expected one of fast, replay, reference"):
        Engine(name=name)


def test_precision_of_the_reference_is_refused() -> None:
    with pytest.raises(UserError, match="precision 'bfloat16', expected float32 with the engine 'pyautoattack"):
        Engine(name="reference", precision="bfloat16")
    assert all(
        attack.fixed_batch is None for attack in judges(["autoattack"], 10)["autoattack"] if isinstance(attack, Member)
    )
