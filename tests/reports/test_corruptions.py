"""Corruption accuracy in reports: by hand, in the tables, beside them, and never as a verdict."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from robustcl.models.errors import UserError
from robustcl.reports import corruptions, drawing
from robustcl.reports.figures.accuracy_against_eps import curves
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import frame
from robustcl.reports.report import report
from robustcl.reports.statistics import interval, wilson
from robustcl.reports.table import tables
from robustcl.reports.verdicts import summary, verdicts
from tests.reports.synthetic import cell, records, save, write_run

ATTACKS = ["fog-1", "fog-3", "jpeg_compression-1", "jpeg_compression-3"]
PGD = {"pgd-20": ["pgd-20"]}
# Images 0 to 3 under the four attacks. Image 3 is wrong when clean and counts all the same.
RIGHT = [(True, True, True, True), (True, False, True, False), (True, True, False, True), (False, False, True, False)]
EVALUATED = records(
    [
        *((image, "clean", "clean", image < 3) for image in range(4)),
        *((image, "pgd-20", "pgd-20", image < 1) for image in range(3)),
    ]
)


def corrupt(right: Any = RIGHT) -> pd.DataFrame:
    rows = records(
        [
            (image, "corruptions", attack, answer)
            for image, answers in enumerate(right)
            for attack, answer in zip(ATTACKS, answers, strict=True)
        ]
    )
    return rows.assign(distance=0.0, step=-1, passes=1)


def written(folder: Path, more: Mapping[str, pd.DataFrame | None]) -> Path:
    """A run of these encoders, the corruptions of each as given; None is not finished."""
    cells = [cell(name, "SLF", judges=PGD | {"corruptions": ATTACKS}, corrupt=f"corrupt-{name}") for name in more]
    runs = write_run(folder / "runs", [(one, EVALUATED) for one in cells])
    for name, rows in more.items():
        if rows is not None:
            save(runs / "corrupt" / f"corrupt-{name}" / "records.parquet", rows)
    return runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An encoder with corruptions and one whose corruptions are not finished."""
    return written(tmp_path, {"at": corrupt(), "advcl": None})


def test_the_accuracy_is_the_mean_and_ignores_clean_answers(runs: Path) -> None:
    numbers = summary(frame(runs)).set_index(["encoder", "judge"])
    found: Any = numbers.loc["at"].loc["corruptions"].to_dict()
    shares = np.array([1, 0.5, 0.75, 0.25])
    assert found["accuracy"] == pytest.approx(10 / 16)
    assert (found["n"], found["passes"]) == (4, 16)
    assert pd.isna(found["right"])
    half = norm.ppf(0.975) * shares.std(ddof=1) / 2
    assert [found["low"], found["high"]] == pytest.approx([shares.mean() - half, shares.mean() + half])
    assert numbers.loc[("at", "pgd-20"), "accuracy"] == 0.25
    assert numbers.loc[("at", "clean"), "right"] == 3
    assert ("advcl", "corruptions") not in numbers.index
    assert ("advcl", "pgd-20") in numbers.index


def test_an_image_has_no_verdict_under_corruptions(runs: Path) -> None:
    made = verdicts(frame(runs))
    assert set(made["judge"]) == {"clean", "pgd-20"}
    assert made["right"].dtype == bool


@pytest.mark.parametrize("lost", [(2, "fog-3"), (3, "jpeg_compression-1")])
def test_lost_records_are_refused(runs: Path, lost: tuple[int, str]) -> None:
    made = frame(runs)
    gone = made.index[(made["image"] == lost[0]) & (made["attack"] == lost[1])]
    message = rf"records of at SLF linf 1/10: image {lost[0]} was shown under 3 of the 4 corruptions and severities"
    with pytest.raises(UserError, match=message):
        summary(made.drop(index=gone))


def test_nothing_right_when_clean_leaves_corruptions_to_judge(tmp_path: Path) -> None:
    judges = PGD | {"corruptions": ATTACKS}
    wrong = records([(image, "clean", "clean", False) for image in range(4)])
    runs = write_run(tmp_path / "runs", [(cell("at", "SLF", judges=judges, corrupt="key"), wrong)])
    assert list(summary(frame(runs))["judge"]) == ["clean", "pgd-20"], "not finished"
    save(runs / "corrupt" / "key" / "records.parquet", corrupt())
    assert summary(frame(runs)).set_index("judge").loc["corruptions", "accuracy"] == 10 / 16


def test_the_table_has_a_column_for_it(runs: Path) -> None:
    (table,) = tables(frame(runs))
    text = table.text()
    assert table.judges == ["clean", "pgd-20", "corruptions"]
    assert text["at", "SLF", "corruptions"].startswith("62.5 [")
    assert text["advcl", "SLF", "corruptions"] == "-"
    assert "CA: mean over 2 corruptions at severities 1, 3" in table.caption
    assert re.search(r"\|\s+CA \|", report(runs).text)


def test_what_lies_beside_the_tables(runs: Path) -> None:
    paths = {path.name: path for path in report(runs).paths}
    told = pd.read_csv(paths["corruptions.csv"])
    assert list(told.columns[-6:]) == ["corruption", "severity", "n", "accuracy", "low", "high"]
    assert list(zip(told["encoder"], told["corruption"], told["severity"], told["accuracy"], strict=True)) == [
        ("at", "fog", 1, 0.75),
        ("at", "fog", 3, 0.5),
        ("at", "jpeg_compression", 1, 0.75),
        ("at", "jpeg_compression", 3, 0.5),
    ]
    low, high = wilson([3, 2], [4, 4])
    assert np.allclose(told[["low", "high"]].to_numpy()[:2], np.stack([low, high], axis=1))
    levels = pd.read_csv(paths["severities.csv"]).set_index("severity")
    assert levels["accuracy"].to_dict() == {1: 0.75, 3: 0.5}
    assert [levels.loc[1, "low"], levels.loc[1, "high"]] == pytest.approx(interval([1, 1, 0.5, 0.5]))
    lines = paths["severities.md"].read_text().splitlines()
    assert lines[0] == "digits: CA at one severity alone"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["scheme", "encoder", "CS-1", "CS-3"]
    assert lines[4].split("|")[3].strip().startswith("75.0 [")


def test_nothing_is_told_where_nothing_was_corrupted(tmp_path: Path) -> None:
    runs = written(tmp_path, {"at": None})
    assert corruptions.by_corruption(frame(runs)).empty
    names = {path.name for path in report(runs).paths}
    assert not names & {"corruptions.csv", "severities.csv", "severities.md"}


def test_seeds_have_rows_of_their_own(tmp_path: Path) -> None:
    cells = []
    for seed, right in ((0, RIGHT), (1, [(True,) * 4] * 4)):
        judges, seeds = PGD | {"corruptions": ATTACKS}, {"pretrain": seed, "finetune": 0, "judge": 0}
        cells.append((cell("at", "SLF", judges=judges, seeds=seeds, corrupt=f"c{seed}", stage=f"s{seed}"), EVALUATED))
        save(tmp_path / "runs" / "corrupt" / f"c{seed}" / "records.parquet", corrupt(right))
    made = corruptions.by_severity(frame(write_run(tmp_path / "runs", cells)))
    assert dict(zip(zip(made["row"], made["severity"], strict=True), made["accuracy"], strict=True)) == {
        ("at pretrain seed 0", 1): 0.75,
        ("at pretrain seed 0", 3): 0.5,
        ("at pretrain seed 1", 1): 1,
        ("at pretrain seed 1", 3): 1,
    }


def test_figures_are_of_attacks(tmp_path: Path) -> None:
    run = RunFolder(written(tmp_path, {"at": corrupt(), "advcl": corrupt()}))
    (path,) = [path for path in drawing.save(run, tmp_path, ["clean-against-robust"]) if path.suffix == ".csv"]
    assert set(pd.read_csv(path)["judge"]) == {"clean", "pgd-20"}
    assert curves(run.numbers) == []


def test_intervals_of_shares() -> None:
    draw = np.random.default_rng(0)
    bools = draw.random(200) < 0.3
    assert interval(bools) == tuple(float(end) for end in wilson(bools.sum(), 200))
    # A share that is the same answer again and again is worth one answer: about as wide as that of the answers alone.
    shares = interval(bools.astype(float))
    assert shares == pytest.approx(interval(bools), abs=0.01)
    # Many independent answers per image are worth more than one.
    many = (draw.random((200, 50)) < 0.3).mean(1)
    assert interval(many)[1] - interval(many)[0] < 0.2 * (shares[1] - shares[0])
    for equal in ([1.0], [1.0, 1.0], [0.5, 0.5]):
        assert interval(equal) == tuple(float(end) for end in wilson(sum(equal), len(equal)))
    assert interval([0.0, 1.0]) == (0, 1)
