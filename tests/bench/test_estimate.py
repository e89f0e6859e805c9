"""The only owner of the tests of AA-estimate as a judge: who is drawn, what is refused, a run from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import robustcl
from robustcl.bench.attacks import from_identity, identity, judges
from robustcl.bench.design import Costs, allot, strata
from robustcl.bench.estimate import Drawn, Screen, asked_share, designs, uniforms
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.fingerprint import fingerprint
from robustcl.bench.forms import read_judges
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.reports.frame import frame
from robustcl.reports.verdicts import summary
from tests.bench.tiny import images_for, network, one_line, write_suite

THREAT = Threat("1/60")
COSTS = Costs(phases=[2033, 7733], screen=64, broken=25)


def quick(share: int = 40) -> Any:
    """An estimate of attacks that take no time."""
    apgd, square = judges(["apgd-ce-5", "square-20"], 10).values()
    screen = Screen(attack=judges(["pgd-margin-3"], 10)["pgd-margin-3"][0])
    return [screen, Drawn(attack=apgd[0], phase=0, share=share), Drawn(attack=square[0], phase=1, share=share)]


def judged(n: int = 60, batch: int = 500, seed: int = 0, order: Any = None, **more: Any) -> pd.DataFrame:
    model = network()
    images = images_for(model, n)
    images = images if order is None else images.take(order)
    return judge(model, images, Trial(threat=THREAT, judges={"aa-estimate": quick()}, batch=batch, seed=seed, **more))


def test_chances_keep_to_the_budget_and_fall_with_the_margin() -> None:
    margins = np.random.default_rng(0).normal(0.5, 2, 5000).astype(np.float32)
    left = margins[margins >= 0]
    for share in (0.05, 0.1, 0.2, 0.5):
        edges, chances = allot(margins, COSTS, share)
        spent = sum(of[strata(left, edges)].sum() * cost for of, cost in zip(chances, COSTS.phases, strict=True))
        lost = (len(margins) - len(left)) * COSTS.broken
        whole = len(left) * sum(COSTS.phases) + lost
        assert spent + lost + len(left) * COSTS.screen <= share * whole * 1.0001
        assert spent > 0.8 * share * whole - lost - len(left) * COSTS.screen
        for of in chances:
            assert of[0] == 1
            assert (np.diff(of[1:]) <= 0).all()
            assert (of > 0).all()
        assert (chances[0] >= chances[1]).all()
    edges, chances = allot(margins, COSTS, 1.0)
    assert all((of == 1).all() for of in allot(left[:1], COSTS, 1.0)[1])
    assert allot(np.empty(0), COSTS, 0.2)[0] == [0.0]


def test_an_image_is_drawn_as_often_as_its_chance_says() -> None:
    numbers = np.array([uniforms(seed, [7]) for seed in range(4000)])[:, 0]
    for chance in (0.05, 0.3, 0.9):
        assert abs((numbers < chance).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)
    assert uniforms(3, [9, 4, 7])[2] == uniforms(3, [7])[0]  # whoever else is judged
    many = uniforms(0, range(4000))
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 0.06


def test_records_hold_a_row_per_attempt_and_follow_the_draw() -> None:
    found = judged()
    rows = found[found["judge"] == "aa-estimate"]
    made = designs(found, {"aa-estimate": quick()}, 10, "linf", 0)["aa-estimate"]
    margin = rows[rows["attack"] == made.screen].set_index("image")["margin"]
    assert set(margin.index) == set(found.loc[(found["judge"] == "clean") & found["right"], "image"])
    numbers = dict(zip(margin.index, uniforms(0, margin.index), strict=True))
    broken: set[int] = set()
    for number, phase in enumerate(made.phases):
        chances = dict(zip(margin.index, made.chances(number, margin), strict=True))
        expected = {image for image in margin.index if numbers[image] < chances[image]} - broken
        tried = rows[rows["attack"] == phase.attacks[0]]
        assert set(tried["image"]) == expected
        assert phase.drawn == len(expected)
        broken |= set(tried.loc[~tried["right"], "image"])
    assert 0 < made.phases[1].drawn < (margin >= 0).sum()


def test_neither_batch_nor_order_nor_seed_of_others_moves_a_draw(tmp_path: Path) -> None:
    once, drawn = judged(), ["image", "attack", "right", "answer"]
    small, turned = judged(batch=7), judged(order=torch.arange(59, -1, -1))
    key = ["image", "judge", "attack"]
    for other in (small, turned):
        assert other.sort_values(key)[["image", "attack"]].values.tolist() == (
            once.sort_values(key)[["image", "attack"]].values.tolist()
        )
    kept = [judged(keep=tmp_path) for _ in range(2)]  # the second from finished batches
    assert kept[0].equals(kept[1])
    assert kept[0][drawn].equals(once[drawn])
    first = once[once["attack"] == "square-20"]["image"]
    assert set(judged(seed=1).query("attack == 'square-20'")["image"]) != set(first)


def test_what_a_smaller_ball_broke_is_not_taken_over() -> None:
    known = judged()
    again = judged(known=known)
    assert again["passes"].sum() == known["passes"].sum()


@pytest.mark.parametrize("name", ["aa-estimate", "aa-estimate-10"])
def test_its_name_its_fingerprint_and_its_key(name: str) -> None:
    found = judges([name], 10)[name]
    assert [attack.name for attack in found[1:]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [from_identity(identity(attack), "x", {}) for attack in found] == found
    told = fingerprint(name, found, THREAT, 0, 10)
    share = 10 if name.endswith("10") else 20
    assert told.startswith(f"{name}@screen-pgd-margin-targeted-10 10it/3t")
    assert f"drawn for {share} % of the passes" in told
    plain = fingerprint("autoattack", judges(["autoattack"], 10)["autoattack"], THREAT, 0, 10)
    assert told.rpartition("sha:")[2] != plain.rpartition("sha:")[2]
    assert asked_share("aa-estimates") is None
    assert len(judges([name], 2)[name]) == 4  # APGD-T needs four classes


def test_refusals_are_one_line(tmp_path: Path) -> None:
    model = network()
    images = images_for(model)
    asked: dict[str, dict[str, Any]] = {
        "asks for 4 % of the passes, expected 5 to 100": {"attacks": ["aa-estimate-4"]},
        "no budget": {"attacks": ["aa-estimate"], "budget": 5.0},
    }
    for text, given in asked.items():
        with pytest.raises(UserError, match=text) as error:
            robustcl.evaluate(model, images.floats(slice(None)), images.labels, threat=THREAT, **given)
        one_line(error.value)
    with pytest.raises(UserError, match="no adversarial images are saved"):
        judged(save=tmp_path / "x.npz")
    with pytest.raises(UserError, match="name of an attack already"):
        read_judges({"aa-estimate": {"attack": "pgd", "steps": 3}}, "x")


def test_evaluate_answers_with_an_estimate() -> None:
    model = network()
    images = images_for(model, 8)
    given: dict[str, Any] = {"threat": THREAT, "attacks": ["pgd-5", "aa-estimate-60"], "checks": False}
    found = robustcl.evaluate(model, images.floats(slice(None)), images.labels, **given)
    assert set(found.robust) == {"pgd-5"}
    of = found.estimates["aa-estimate-60"]
    assert of.limits()[0] <= of.accuracy <= found.clean.mean()
    assert "AA-estimate (60 %)" in str(found)
    assert "AA-estimate is no AA" in " ".join(str(found).split())
    assert found.worst.tolist() == (found.clean & found.robust["pgd-5"]).tolist()
    alone = robustcl.evaluate(
        model, images.floats(slice(None)), images.labels, threat=THREAT, attacks=["aa-estimate-60"], checks=False
    )
    with pytest.raises(UserError, match="worst: aa-estimate-60 has no verdict per image, expected another judge"):
        _ = alone.worst


def test_a_suite_judges_by_it(tmp_path: Path) -> None:
    overrides = ['judge.judges=["aa-estimate-10"]', "judge.images=12", "judge.batch=12"]
    told = robustcl.run(write_suite(tmp_path), runs=tmp_path / "runs", workers=1, overrides=overrides)
    numbers = summary(frame(tmp_path / "runs"))
    rows = numbers[numbers["judge"] == "aa-estimate-10"]
    assert len(rows) == 2
    assert (rows["set_low"] <= rows["accuracy"]).all()
    assert (rows["accuracy"] <= rows["set_high"]).all()
    assert "AA-estimate (10 %)" in str(told)
