"""The only owner of the tests of estimates: what draws say of a set, how they read, what refuses them, the gate."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustcl.bench.design import Design, Phase, strata
from robustcl.bench.estimate import design_of, estimated, uniforms
from robustcl.models.errors import UserError
from robustcl.models.value import plain
from robustcl.reports.baseline import Baseline, read_baseline, rows_of, write_baseline
from robustcl.reports.captions import heading
from robustcl.reports.check import check, compare
from robustcl.reports.estimate import Estimate, estimates, from_table, to_table
from robustcl.reports.extremes import extremes
from robustcl.reports.frame import frame
from robustcl.reports.pairs import pairs
from robustcl.reports.ranks import ranked
from robustcl.reports.statistics import weighted_total, wilson
from robustcl.reports.table import tables
from robustcl.reports.verdicts import summary, verdicts
from tests.reports.synthetic import cell, records, write_run

NAME = "aa-estimate"
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
SCREEN = estimated(20, 10)[0].name
JUDGES = {NAME: [SCREEN, *ATTACKS]}


def full(n: int = 1500, seed: int = 0, lift: float = 0.0) -> pd.DataFrame:
    """Full records: right clean, the screen's margin, which attack breaks it. Half are broken by the screen, and of the
    others, 6 % by AutoAttack, seldom where the margin is large."""
    g = np.random.default_rng(seed)
    margin = g.normal(lift, 2, n).astype(np.float32)
    odds = np.where(margin < 0, 1.0, 0.5 * np.exp(-4 * margin.astype(float)))
    broke = np.where(g.random(n) < odds, np.where(margin < 0, "apgd-ce", g.choice(ATTACKS, n)), "")
    return pd.DataFrame({"image": np.arange(n), "right": g.random(n) < 0.95, "margin": margin, "broke": broke})


def truth(of: pd.DataFrame) -> float:
    """The accuracy that AutoAttack has."""
    return float((of["right"] & (of["broke"] == "")).mean())


def design(of: pd.DataFrame, share: int = 20, seed: int = 0) -> Design:
    return design_of(estimated(share, 10), of.loc[of["right"], "margin"].to_numpy(), 10, "linf", seed)


def drawn(of: pd.DataFrame, share: int = 20, seed: int = 0) -> tuple[pd.DataFrame, Design]:
    """The records that a draw leaves, and its design."""
    made, numbers = design(of, share, seed), uniforms(seed, of["image"])
    rows = [(int(image), "clean", "clean", bool(right)) for image, right in zip(of["image"], of["right"], strict=True)]
    phases = [phase.attacks for phase in made.phases]
    chances = [made.chances(number, of["margin"]) for number in range(2)]
    counts: Counter[str] = Counter()
    for place in np.flatnonzero(of["right"]):
        image, broke = int(of["image"].iloc[place]), of["broke"].iloc[place]
        rows.append((image, NAME, SCREEN, bool(of["margin"].iloc[place] >= 0)))
        tried = [name for number in range(2) for name in phases[number] if numbers[place] < chances[number][place]]
        tried = tried[: tried.index(broke) + 1] if broke in tried else tried
        rows += [(image, NAME, name, name != broke) for name in tried]
        counts.update(tried)
    held = records(rows)
    held.loc[held["attack"] == SCREEN, "margin"] = of.loc[of["right"], "margin"].to_numpy()
    told = tuple(dataclasses.replace(phase, drawn=counts[phase.attacks[0]]) for phase in made.phases)
    return held, dataclasses.replace(made, phases=told)


def run(folder: Path, **encoders: pd.DataFrame) -> pd.DataFrame:
    """A frame of encoders under SLF, judged by an estimate at seed 0."""
    cells = []
    for name, of in encoders.items():
        rows, made = drawn(of)
        about = {"designs": {NAME: plain(made)}}
        cells.append((cell(name, "SLF", judges=JUDGES, about=about, fingerprints={NAME: f"{NAME}@x; seed 0"}), rows))
    return frame(write_run(folder, cells))


def several(of: pd.DataFrame, share: int, seeds: Iterable[int]) -> list[Estimate]:
    """The estimates of draws, without their records."""
    made = design(of, share)
    phases = [
        (of["right"].to_numpy() & of["broke"].isin(names).to_numpy(), made.chances(number, of["margin"]))
        for number, names in enumerate((ATTACKS[:2], ATTACKS[2:]))
    ]
    found = []
    for seed in seeds:
        numbers = uniforms(seed, of["image"])
        seen = Counter(chance for lost, of_ in phases for chance in of_[lost & (numbers < of_)].tolist())
        found.append(Estimate(n=len(of), right=int(of["right"].sum()), broken=seen, least=made.least))
    return found


def fast(of: pd.DataFrame, share: int, seed: int) -> Estimate:
    """One of them."""
    return several(of, share, [seed])[0]


def covered(of: pd.DataFrame, made: Sequence[Estimate]) -> float:
    """The share of estimates whose interval holds the truth."""
    ends = np.array([one.limits() for one in made])
    return float(np.mean((ends[:, 0] <= truth(of) + 1e-12) & (truth(of) <= ends[:, 1] + 1e-12)))


@pytest.mark.parametrize("share", [10, 20, 50])
def test_it_is_unbiased_and_its_interval_covers(share: int) -> None:
    of, draws = full(800), 300
    made = several(of, share, range(draws))
    errors = np.array([one.accuracy for one in made]) - truth(of)
    assert errors.std() > 0  # or nothing was drawn
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(draws)
    assert covered(of, made) > 0.95


@pytest.mark.parametrize("hidden", [1, 10, 40])
def test_breaks_that_no_margin_foretells_are_covered_too(hidden: int) -> None:
    of = full(800)
    robust = of.index[of["right"] & (of["broke"] == "")]
    of.loc[of.loc[robust, "margin"].nlargest(hidden).index, "broke"] = "square"
    assert covered(of, several(of, 10, range(300))) > 0.93  # 0.95, less what chance takes from 300 draws


def test_the_records_alone_say_it() -> None:
    of = full(400)
    rows, made = drawn(of, 20, 3)
    (found,) = estimates(rows.sample(frac=1, random_state=0), JUDGES, {NAME: made}).values()
    expected = fast(of, 20, 3)
    assert (found.n, found.right, dict(found.broken), found.least) == (
        expected.n, expected.right, dict(expected.broken), expected.least,
    )  # fmt: skip
    chance = made.chances(0, of["margin"])  # that every break of the first phase had, and those that had no other
    sure = of["right"] & (of["broke"].isin(ATTACKS[:2])) & (chance == 1)
    assert set(of.loc[sure, "image"]) <= set(found.certain) <= set(of.loc[chance == 1, "image"])
    low, high = found.limits()
    assert low < found.accuracy <= high < found.world()[1]
    assert found.world()[0] < low
    assert from_table(json.loads(json.dumps(to_table(found)))).limits() == pytest.approx(found.limits(), abs=1e-12)


def test_where_all_are_drawn_it_is_autoattack() -> None:
    of = full(300)
    rows, made = drawn(of, 100)
    assert set(made.phases[0].chances) | set(made.phases[1].chances) == {1.0}
    (found,) = estimates(rows, JUDGES, {NAME: made}).values()
    assert found.accuracy == pytest.approx(truth(of), abs=1e-12)
    assert found.limits() == pytest.approx((truth(of), truth(of)), abs=1e-12)
    k = round(truth(of) * 300)
    assert found.world() == pytest.approx([float(end) for end in wilson(k, 300)], abs=1e-12)


def test_lost_rows_are_refused() -> None:
    of = full(300)
    rows, made = drawn(of)
    designs = {NAME: made}
    tried = rows.index[(rows["attack"] == "square")]
    lost = {
        "a screened image": rows.drop(rows.index[rows["attack"] == SCREEN][0]),
        "a drawn image": rows.drop(rows.index[rows["attack"] == "apgd-ce"][0]),
        "an attack of a drawn image": rows.drop(tried[0]),
    }
    for what, part in lost.items():
        with pytest.raises(UserError, match="expected the") as error:
            estimates(part, JUDGES, designs)
        assert "\n" not in str(error.value), what
    with pytest.raises(UserError, match="nothing says how 'aa-estimate' drew its images"):
        estimates(rows, JUDGES, {})


def test_a_damaged_design_is_refused(tmp_path: Path) -> None:
    rows, made = drawn(full(300))
    held = plain(made)
    first, late = held["phases"]
    damage: dict[str, dict[str, Any]] = {
        "no phase": {"phases": []},
        "without Square": {"phases": [first]},
        "chances of nobody": {"phases": [{**first, "chances": [0.0] * len(first["chances"])}, late]},
        "chances beyond one": {"phases": [{**first, "chances": [2.0] * len(first["chances"])}, late]},
        "a stratum without": {"phases": [{**first, "chances": first["chances"][:-1]}, late]},
        "a later phase wider": {"phases": [first, {**late, "chances": [1.0] * len(late["chances"])}]},
        "edges out of order": {"edges": held["edges"][::-1]},
        "another version": {"version": 2},
        "another screen": {"screen": "screen-pgd-3"},
        "nothing": {name: [] for name in held},
    }
    for what, part in damage.items():
        about = {"designs": {NAME: held | part}}
        cells = [(cell("a", "SLF", judges=JUDGES, about=about), rows)]
        with pytest.raises(UserError, match="expected") as error:
            summary(frame(write_run(tmp_path / what, cells)))
        assert "\n" not in str(error.value), what
    for designs in ([1], {NAME: 1}):
        cells = [(cell("a", "SLF", judges=JUDGES, about={"designs": designs}), rows)]
        with pytest.raises(UserError, match="expected"):
            summary(frame(write_run(tmp_path / str(designs), cells)))


def test_a_total_that_was_seen_in_part() -> None:
    low, high = weighted_total([0], [1.0], 25.0)
    assert low == 0
    assert high == pytest.approx(np.log(0.025) / np.log(1 - 1 / 25), rel=0.01)  # the binomial's exact one
    assert weighted_total([7], [1.0], 1.0) == (7, 7)
    low, high = weighted_total([3, 2], [1.0, 4.0], 4.0)
    assert 5 <= low < 11 < high
    assert weighted_total([3, 2], [1.0, 4.0], 20.0)[1] > high


@pytest.mark.parametrize("sure", [0, 6000])
@pytest.mark.parametrize("chance", [0.04, 0.1, 0.5])
def test_what_is_known_for_certain_makes_nobody_surer_of_the_rest(sure: int, chance: float) -> None:
    for hidden in range(1, 120):  # where nothing is seen of them with more than 2.5 %, they must lie within
        if (1 - chance) ** hidden > 0.025:
            assert weighted_total([sure, 0], [1.0, 1 / chance], 1 / chance)[1] >= sure + hidden
    low, high = (weighted_total([sure, 4], [1.0, 1 / chance], 1 / chance)[end] - sure for end in (0, 1))
    assert low <= 4 / chance < high
    assert high == pytest.approx(weighted_total([4], [1 / chance], 1 / chance)[1], rel=1e-9)


def test_it_stands_under_its_own_name(tmp_path: Path) -> None:
    of = full(400)
    found = run(tmp_path, a=of, b=full(400, 1))
    numbers = summary(found)
    row: Any = numbers[(numbers["encoder"] == "a") & (numbers["judge"] == NAME)].iloc[0]
    assert row["low"] < row["set_low"] <= truth(of) <= row["set_high"] < row["high"]
    assert row["accuracy"] == pytest.approx(fast(of, 20, 0).accuracy)
    assert pd.isna(row["right"])
    assert set(verdicts(found, shares=True)["judge"]) == {"clean"}
    (table,) = tables(found)
    told = table.text()["a", "SLF", NAME]
    assert f", set {100 * row['set_low']:.1f} to {100 * row['set_high']:.1f}" in told
    assert "AA-estimate is no AA" in table.caption
    assert heading(NAME) == "AA-estimate"
    assert heading("aa-estimate-10") == "AA-estimate (10 %)"
    assert "AA" not in [heading(judge) for judge in table.judges]
    assert {"set_low", "set_high"} <= set(table.numbers)
    assert any("an estimate has no verdict per image" in note for note in table.notes)


def test_what_asks_for_single_images_refuses_it(tmp_path: Path) -> None:
    found = run(tmp_path, a=full(300), b=full(300, 1))
    with pytest.raises(UserError, match="'aa-estimate' is an estimate, without a verdict per image"):
        pairs(found, "SLF", NAME)
    held, refused = ranked(found)
    assert NAME not in set(held["judge"])
    assert refused["judge"].tolist() == [NAME]
    assert extremes(found[found["encoder"] == "a"]) is None


def gate_row(of: pd.DataFrame, folder: Path, name: str = "a") -> Any:
    return next(row for row in rows_of(run(folder, **{name: of})) if row.judge == NAME)


def test_the_gate_holds_what_both_draws_leave_open(tmp_path: Path) -> None:
    before, same = gate_row(full(), tmp_path / "1"), gate_row(full(), tmp_path / "2")
    assert before.right.mean() >= before.accuracy == fast(full(), 20, 0).accuracy
    found = compare("a", before, same, margin=0.2, level=0.05)
    assert (found.drop, found.outcome) == (0, "ok")
    for side in (before, same):
        low, high = side.estimate.limits(0.9)
        assert found.high > high - side.accuracy
        assert found.low < low - side.accuracy
    tight = compare("a", before, same, margin=0.001, level=0.05)
    assert tight.outcome == "undecided"
    assert "autoattack" in tight.why
    worse = gate_row(full(lift=-1.0), tmp_path / "3")
    found = compare("a", before, worse, margin=0.01, level=0.05)
    assert found.outcome == "regression"
    assert found.low < truth(full()) - truth(full(lift=-1.0)) < found.high


def test_bless_and_check_keep_the_estimate(tmp_path: Path) -> None:
    found = run(tmp_path / "runs", a=full(600))
    path = tmp_path / "baseline.parquet"
    write_baseline(path, Baseline(rows=rows_of(found)))
    held = read_baseline(path)
    kept = {row.judge: row for row in held.rows}
    assert kept["clean"].estimate is None
    assert kept[NAME].accuracy == pytest.approx(fast(full(600), 20, 0).accuracy)
    assert check(found, held, margin=0.1).outcome == "ok"
    assert check(run(tmp_path / "worse", a=full(600, lift=-1.5)), held).outcome == "regression"
    write_baseline(path, Baseline(rows=(kept["clean"],)))
    assert b"estimate" not in path.read_bytes()  # a baseline without one stays as it was


def test_a_design_reads_as_it_was_written() -> None:
    made = design(full(500))
    again = Design(**{**plain(made), "phases": tuple(Phase(**phase) for phase in plain(made)["phases"])})
    assert again == made
    margins = full(500)["margin"].to_numpy()
    place = strata(margins, made.edges)
    assert place.max() == len(made.edges)
    assert (made.chances(0, margins) >= made.chances(1, margins)).all()
    assert (made.chances(1, margins)[margins < 0] == 1).all()
