"""The only owner of the tests of seeds: one row, the interval over images, the spread over seeds apart from it."""

import statistics as plain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustcl.models.errors import UserError
from robustcl.reports import writers
from robustcl.reports.figures.accuracy_against_eps import curves
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import frame
from robustcl.reports.pairs import pairs
from robustcl.reports.seeds import attack, pooled
from robustcl.reports.statistics import paired, wilson, wilson_of_means
from robustcl.reports.table import Table, tables
from tests.reports.synthetic import answers, cell, found, records, told, write_run

PGD = {"pgd-20": ["pgd-20"]}
N = 100


def seeded(encoder: str, seed: int, role: str = "finetune", **more: Any) -> dict[str, Any]:
    seeds = {"pretrain": 0, "finetune": 0, "judge": 0} | {role: seed}
    return cell(encoder, "SLF", judges=PGD, seeds=seeds, stage=f"{encoder}-{role}-{seed}", **more)


def alive(*images: int) -> pd.DataFrame:
    """Records of N images, all right clean, of which these survive PGD."""
    rows = [(i, judge, judge, judge == "clean" or i in images) for i in range(N) for judge in ("clean", "pgd-20")]
    return records(rows)


HALVES = [alive(*range(0, 50)), alive(*range(10, 60)), alive(*range(5, 65))]


def run(folder: Path, role: str = "finetune") -> pd.DataFrame:
    cells = [(seeded("advcl", seed, role), rows) for seed, rows in enumerate(HALVES)]
    return frame(write_run(folder, [*cells, (cell("at", "SLF", judges=PGD), alive(*range(40)))]))


def made(of: pd.DataFrame) -> Table:
    (table,) = tables(of)
    return table


def test_seeds_are_one_row_with_their_spread(tmp_path: Path) -> None:
    table = made(run(tmp_path))
    means = np.mean([[image in alive_ for image in range(N)] for alive_ in map(set, RIGHT)], axis=0)
    low, high = wilson_of_means(means, 3)
    spread = plain.stdev([0.5, 0.5, 0.6])
    assert table.rows[1:] == ["advcl", "at"]
    shown = f"53.3 [{100 * low:.1f}, {100 * high:.1f}] ± {100 * spread:.1f}"
    assert table.text()["advcl", "SLF", "pgd-20"] == shown
    assert table.text()["at", "SLF", "pgd-20"] == "40.0 [30.9, 49.8]", "one seed has no spread"
    assert (
        "seeds: ± is the standard deviation over 3 that differ in finetune (0, 1, 2), pretrain 0 fixed, judge 0 fixed "
        "(advcl SLF); pretrain 0, finetune 0, judge 0, one each (at SLF)" in table.caption
    )


RIGHT = [range(0, 50), range(10, 60), range(5, 65)]


def test_the_csv_keeps_every_seed(tmp_path: Path) -> None:
    writers.save(tables(run(tmp_path / "runs")), tmp_path)
    numbers = pd.read_csv(tmp_path / "table.csv")
    pgd = numbers[(numbers["judge"] == "pgd-20") & (numbers["row"] == "advcl")]
    one, seeds = pgd[pgd["kind"] == "measured"], pgd[pgd["kind"] == "seed"]
    assert one[["n", "seeds"]].to_numpy().tolist() == [[N, 3]]
    assert one[["right", "seed_finetune"]].isna().all(axis=None)
    assert one["seed_pretrain"].tolist() == [0]
    assert seeds["seed_finetune"].tolist() == [0, 1, 2]
    assert seeds["right"].tolist() == [50, 50, 60]
    assert seeds["accuracy"].mean() == pytest.approx(one["accuracy"].iloc[0])


def test_seeds_that_differ_in_two_roles_are_told(tmp_path: Path) -> None:
    cells = [
        (seeded("advcl", 0), HALVES[0]),
        (seeded("advcl", 1), HALVES[1]),
        (seeded("advcl", 1, "pretrain"), HALVES[2]),
    ]
    assert "3 that differ in pretrain (0, 1) and finetune (0, 1), judge 0 fixed" in made(
        frame(write_run(tmp_path, cells))
    ).caption  # fmt: skip


def test_judge_seeds_share_a_column(tmp_path: Path) -> None:
    prints = [{"pgd-20": f"pgd-20@20it; linf 1/10; seed {seed}; sha:aa"} for seed in (0, 1)]
    cells = [(seeded("at", s, "judge", fingerprints=prints[s]), HALVES[s]) for s in (0, 1)]
    table = made(frame(write_run(tmp_path, cells)))
    assert table.judges == ["clean", "pgd-20"]
    assert "RA (PGD-20): pgd-20@20it; linf 1/10; seeds 0, 1; sha:aa" in table.caption
    assert attack("x; seeds 0, 1; sha:aa") == attack("x; seed 7; sha:aa") == "x; sha:aa"


def test_cells_that_differ_by_more_are_not_pooled(tmp_path: Path) -> None:
    cells = [(seeded("at", seed, protocol=f"{seed} epochs"), HALVES[seed]) for seed in (0, 1)]
    numbers, singles = pooled(frame(write_run(tmp_path, cells)))
    assert singles.empty
    assert set(numbers["seeds"]) == {1}


def test_a_cell_is_as_reliable_as_its_worst_seed(tmp_path: Path) -> None:
    good, bad = told(found("large_eps", "ok")), told(found("large_eps", "unreliable"))
    cells = [(seeded("at", 0, about=good), HALVES[0]), (seeded("at", 1, about=bad), HALVES[1])]
    numbers, singles = pooled(frame(write_run(tmp_path / "a", cells)))
    assert numbers.set_index("judge").loc["pgd-20", "reliability"] == "unreliable"
    assert singles[singles["judge"] == "pgd-20"]["reliability"].tolist() == ["ok", "unreliable"]
    numbers, _ = pooled(frame(write_run(tmp_path / "b", [cells[0], (seeded("at", 1), HALVES[1])])))
    assert numbers.set_index("judge").loc["pgd-20", "reliability"] == "unchecked"


def test_curves_pool_seeds_too(tmp_path: Path) -> None:
    cells = []
    for seed in (0, 1):
        for eps in ("1/20", "1/10", "1/5"):
            of = seeded("at", seed) | {"eps": eps, "stage": f"{seed}-{eps[2:]}", "headline": eps == "1/10"}
            cells.append((of, HALVES[seed]))
    (points,) = curves(RunFolder(write_run(tmp_path, cells)).numbers)
    assert len(points) == 4
    assert points["accuracy"].tolist() == [1.0, 0.5, 0.5, 0.5]


def test_pairs_compare_means_over_seeds(tmp_path: Path) -> None:
    (pair,) = pairs(run(tmp_path), "SLF", "pgd-20").to_dict("records")
    means = np.mean([[image in right for image in range(N)] for right in RIGHT], axis=0)
    other = np.arange(N) < 40
    assert (pair["better"], pair["worse"]) == ("advcl", "at")
    assert pair["difference"] == pytest.approx(means.mean() - 0.4)
    assert pair["only_better"] == int((means > other).sum())
    assert pair["p"] == pytest.approx(paired(means, other))


def test_pairs_refuse_seeds_on_other_images(tmp_path: Path) -> None:
    few = answers(50, 50, {"pgd-20": 20}, PGD)
    cells = [(seeded("a", 0), HALVES[0]), (seeded("a", 1), few), (seeded("b", 0), HALVES[0])]
    with pytest.raises(UserError, match="seeds judged on different images"):
        pairs(frame(write_run(tmp_path, cells)), "SLF", "pgd-20")


def test_one_seed_is_wilsons_interval() -> None:
    for right in (0, 1, 37, 100):
        means = np.arange(100) < right
        assert wilson_of_means(means, 1) == pytest.approx([float(end) for end in wilson(right, 100)])


def test_seeds_that_agree_add_no_images_and_unrelated_ones_do() -> None:
    agree = (np.arange(100) < 40).astype(float)
    assert wilson_of_means(agree, 5) == pytest.approx([float(end) for end in wilson(40, 100)])
    blurred = np.full(100, 0.4)
    assert wilson_of_means(blurred, 5) == pytest.approx([float(end) for end in wilson(200, 500)])


def test_the_interval_covers_the_mean_over_images() -> None:
    """Drawn anew: images with their own chances, three seeds that share them; the interval is right 95 times of 100."""
    g = np.random.default_rng(0)
    n, seeds, times, hits = 150, 3, 2000, 0
    for _ in range(times):
        chances = g.beta(0.4, 0.6, n)
        means = (g.random((seeds, n)) < chances).mean(axis=0)
        low, high = wilson_of_means(means, seeds)
        hits += low <= 0.4 <= high
    assert 0.935 <= hits / times <= 0.97
