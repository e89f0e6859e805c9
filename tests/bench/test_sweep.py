"""Sweeps: over radii with re-use of what is broken already, and over steps from one run."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustcl.bench.attacks import Attack, judges
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.pgd import PGD
from robustcl.bench.sweep import sweep
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.reports.steps import accuracy_by_steps
from robustcl.reports.verdicts import judged
from tests.bench.tiny import images_for, network

RADII = ("1/25", "0", "1/50", "1/10")


def trial(norm: Any = "linf", **more: Any) -> Trial:
    bench: dict[str, list[Attack]] = {"two": [PGD(steps=2), PGD(steps=5, loss="margin")]}
    return Trial(threat=Threat("1", norm=norm), judges=judges(["pgd-5"], 10) | bench, **more)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_radius_takes_over_what_a_smaller_one_broke(norm: Any) -> None:
    model = network()
    images = images_for(model, 40)
    found = sweep(model, images, trial(norm), RADII)
    assert [str(eps) for eps in found] == ["0", "1/50", "1/25", "1/10"]
    lists = {name: [attack.name for attack in attacks] for name, attacks in trial().judges.items()}
    first = next(iter(found.values())).set_index("image")
    before: dict[str, pd.DataFrame] = dict.fromkeys(lists, first.iloc[:0])
    for eps, records in found.items():
        assert list(records["image"]) == sorted(records["image"])
        verdicts = judged(records, lists)  # which refuses records that are incomplete
        assert (records["distance"] <= float(eps) + 1e-6).all(), "what was taken over lies in the larger ball"
        for name in lists:
            rows = records[(records["judge"] == name) & ~records["right"]].set_index("image")
            taken = before[name].index
            assert (rows.loc[taken, "passes"] == 0).all()
            assert (rows.drop(taken)["passes"] > 0).all()
            same = [column for column in rows if column != "passes"]
            pd.testing.assert_frame_equal(rows.loc[taken, same], before[name][same])
            assert (
                records[(records["judge"] == name) & records["image"].isin(taken)].groupby("image").size() == 1
            ).all()
            before[name] = rows
        assert verdicts["pgd-5"].sum() == 38 - len(before["pgd-5"])
    counts = [int((~records["right"] & (records["judge"] == "pgd-5")).sum()) for records in found.values()]
    assert counts == sorted(set(counts)), "every radius breaks more"


def test_it_costs_less_than_its_parts_and_breaks_what_they_break_on_their_own() -> None:
    model = network()
    images = images_for(model, 40)
    whole, apart = sweep(model, images, trial(), RADII), {eps: sweep(model, images, trial(), [eps]) for eps in RADII}
    alone = {eps: next(iter(records.values())) for eps, records in apart.items()}
    assert sum(r["passes"].sum() for r in whole.values()) < sum(r["passes"].sum() for r in alone.values())
    for eps, records in whole.items():
        lost, other = (set(r[~r["right"]]["image"]) for r in (records, alone[str(eps)]))
        assert other <= lost, "what is still right is attacked as it would be alone"


def test_a_sweep_is_resumed_and_refused_where_it_differs(tmp_path: Path) -> None:
    model = network()
    images = images_for(model, 20)
    first = sweep(model, images, trial(keep=tmp_path), RADII)
    for path in sorted(tmp_path.glob("*/*.npz"))[::2]:
        path.unlink()
    again = sweep(model, images, trial(keep=tmp_path), RADII)
    assert all(first[eps].equals(again[eps]) for eps in first)
    with pytest.raises(UserError, match=r"1_25: holds batches of other known records \(\w{16} then, none now\)"):
        sweep(model, images, trial(keep=tmp_path), ["1/25"])


def test_what_a_sweep_cannot_do_is_one_line(tmp_path: Path) -> None:
    model = network()
    images = images_for(model)
    with pytest.raises(UserError, match="sweep: no radius"):
        sweep(model, images, trial(), [])
    with pytest.raises(UserError, match="has no images to save"):
        sweep(model, images, trial(save=tmp_path / "kept.npz"), RADII)
    other = judge(model, images, Trial(threat=Threat("1/10"), judges={"pgd-5": [PGD(steps=9)]}))
    with pytest.raises(UserError, match="known records of attack 'pgd-9', which is none of judge 'pgd-5'"):
        judge(model, images, trial(known=other))


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_a_long_run_knows_what_every_shorter_one_answers(loss: Any) -> None:
    model = network()
    images = images_for(model, 60)
    long = PGD(steps=20, loss=loss)
    table = accuracy_by_steps(judge(model, images, Trial(threat=Threat("1/25"), judges={"long": [long]})), "long")
    assert table["steps"].tolist() == list(range(21))
    assert table["right"][0] == 58
    for steps in (1, 2, 5, 11, 20):
        bench = {"short": [PGD(steps=steps, loss=loss)]}
        alone = judge(model, images, Trial(threat=Threat("1/25"), judges=bench))
        right = judged(alone, {"short": ["one"]})["short"]
        assert table["right"][steps] == right.sum()
        assert table["accuracy"][steps] == right.mean()
    assert table["right"].is_monotonic_decreasing
    assert table["right"].nunique() > 3
    assert (table["low"] < table["accuracy"]).all()
    assert (table["high"] > table["accuracy"]).all()


@pytest.mark.parametrize(
    "bench",
    [[PGD(steps=3, restarts=2)], [PGD(steps=3, target="each")], [PGD(steps=3, verdict="last")], [PGD(), PGD(steps=3)]],
)
def test_other_judges_have_no_step_to_tell(bench: list[PGD]) -> None:
    model = network()
    found = judge(model, images_for(model), Trial(threat=Threat("1/100"), judges={"odd": bench}))
    with pytest.raises(UserError, match=r"steps: judge 'odd' ran .*, expected one PGD from one start"):
        accuracy_by_steps(found, "odd")
    with pytest.raises(UserError, match="steps: judge 'none' ran nothing"):
        accuracy_by_steps(found, "none")
