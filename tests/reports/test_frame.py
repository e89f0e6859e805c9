"""The only owner of the tests of the frame: what is read, what is refused, who is right."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from robustcl.reports.verdicts import summary, verdicts
from tests.reports.synthetic import JUDGES, answers, cell, records, save, write_run

TEN = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One finished and one unfinished cell of ten images."""
    return write_run(tmp_path / "runs", [(cell("advcl", "SLF"), TEN), (cell("simclr", "AFF", "1/20"), None)])


def test_frame_holds_every_record_beside_its_cell(runs: Path) -> None:
    made = frame(runs)
    pd.testing.assert_frame_equal(made[list(TEN)], TEN, check_dtype=False, check_categorical=False)
    one = made.drop(columns=list(TEN)).drop_duplicates()
    assert len(one) == 1
    assert one.iloc[0].to_dict() == {
        "suite": "quickstart",
        "encoder": "advcl",
        "method": "advcl",
        "scheme": "SLF",
        "data": "digits",
        "classes": 10,
        "norm": "linf",
        "eps": "1/10",
        "radius": 0.1,
        "headline": True,
        "judges": json.dumps(JUDGES),
        "protocol": "last epoch, float32 judge",
        "stage": "advcl-SLF-1_10",
        "seed_pretrain": 0,
        "seed_finetune": 0,
        "seed_judge": 0,
        "fingerprints": "{}",
        "content": "",
        "reliability": "unchecked",
        "findings": "",
        "designs": "{}",
    }
    types = {"image": "int32", "label": "int16", "right": "bool", "margin": "float32", "passes": "int32"}
    assert {name: str(made[name].dtype) for name in types} == types


def test_frame_knows_what_is_missing_and_the_order(runs: Path) -> None:
    made = frame(str(runs))
    assert list(made["encoder"].cat.categories) == ["advcl", "simclr"]
    assert list(made["scheme"].cat.categories) == ["SLF", "AFF"]
    assert list(made["eps"].cat.categories) == ["1/20", "1/10"]  # by size, not as text
    assert list(made["judge"].cat.categories) == ["clean", "pgd-20", "autoattack"]
    assert list(made["attack"].cat.categories) == ["clean", "pgd-20", "apgd-ce", "apgd-t", "fab-t", "square"]


def test_frame_and_summary_of_an_unstarted_run(tmp_path: Path) -> None:
    made = frame(write_run(tmp_path / "runs", [(cell("advcl", "SLF"), None)]))
    assert made.empty
    assert {"encoder", "radius", "judge", "right", "seed_judge"} <= set(made)
    assert summary(made).empty
    assert verdicts(made).empty


def test_frame_of_a_suite_without_cells(tmp_path: Path) -> None:
    assert frame(write_run(tmp_path / "runs", [])).empty


def test_seeds_that_a_cell_lacks_are_marked(tmp_path: Path) -> None:
    other = cell("at", "SLF", seeds={"finetune": 3})
    made = frame(write_run(tmp_path / "runs", [(cell("advcl", "SLF"), TEN), (other, TEN)]))
    seeds = made.loc[made["encoder"] == "at", ["seed_pretrain", "seed_finetune", "seed_judge"]]
    assert seeds.drop_duplicates().to_numpy().tolist() == [[-1, 3, -1]]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder, expected a run folder$"):
        frame(tmp_path / "nowhere")


def test_a_folder_without_a_suite_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder, expected a suite.json in it$"):
        frame(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged or truncated, expected a whole JSON file"),
        ("[]", "schema version None is unknown, expected 1"),
        ('{"schema": 2, "suite": "x", "cells": []}', "schema version 2 is unknown, expected 1"),
        ('{"schema": 1, "suite": "x", "cells": [{"encoder": "a"}]}', "KeyError: 'method'"),
        ('{"schema": 1, "suite": "x"}', "KeyError: 'cells'"),
        ('{"schema": 1, "suite": "x", "cells": [3]}', "damaged"),
    ],
)
def test_a_damaged_suite_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        frame(tmp_path)
    assert "suite.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_records_name_the_file(runs: Path) -> None:
    path = runs / "evaluate" / "advcl-SLF-1_10" / "records.parquet"
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"records\.parquet: damaged or truncated \(.*\), expected whole") as caught:
            frame(runs)
        assert "\n" not in str(caught.value)


def test_a_stage_without_records_is_damage_not_a_missing_cell(runs: Path) -> None:
    (runs / "evaluate" / "advcl-SLF-1_10" / "records.parquet").unlink()
    with pytest.raises(UserError, match="damaged or truncated"):
        frame(runs)


@pytest.mark.parametrize(("version", "found"), [(b"2", "2"), (None, "none")])
def test_unknown_records_are_refused(runs: Path, version: bytes | None, found: str) -> None:
    path = runs / "evaluate" / "advcl-SLF-1_10" / "records.parquet"
    save(path, TEN, version or b"")
    if version is None:
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(UserError, match=rf"schema version {found} are unknown, expected 1"):
        frame(runs)


@pytest.mark.parametrize("change", ["lacks a column", "wrong type"])
def test_records_of_another_shape_are_refused(runs: Path, change: str) -> None:
    path = runs / "evaluate" / "advcl-SLF-1_10" / "records.parquet"
    table = pq.read_table(path)
    broken = table.drop_columns("margin") if change == "lacks a column" else table
    if change == "wrong type":
        broken = table.set_column(0, "image", pa.array(["x"] * table.num_rows))
    pq.write_table(broken, path)
    with pytest.raises(UserError, match=r"records\.parquet: damaged"):
        frame(runs)


# Image 0 survives all; 1 falls to the second attack of AutoAttack; 2 falls to PGD but not to AutoAttack, whose answer
# counts for its own judge only; 3 is wrong before any attack; 4 is wrong clean though every attack left it right.
HAND = records(
    [
        *((image, "clean", "clean", image < 3) for image in range(5)),
        *((image, "pgd-20", "pgd-20", image != 2) for image in (0, 1, 2, 4)),
        *((0, "autoattack", attack, True) for attack in JUDGES["autoattack"]),
        (1, "autoattack", "apgd-ce", True),
        (1, "autoattack", "apgd-t", False),
        *((2, "autoattack", attack, True) for attack in JUDGES["autoattack"]),
    ]
)
HAND_VERDICTS = {
    "clean": [True, True, True, False, False],
    "pgd-20": [True, True, False, False, False],
    "autoattack": [True, False, True, False, False],
}


def test_verdicts_by_hand(tmp_path: Path) -> None:
    shuffled = HAND.sample(frac=1, random_state=0)
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), shuffled), (cell("advcl", "AFF"), TEN)])
    made = verdicts(frame(runs))
    slf = made[made["scheme"] == "SLF"].sort_values("image")
    found = {str(judge): part["right"].tolist() for judge, part in slf.groupby("judge", observed=True)}
    assert found == HAND_VERDICTS
    assert len(made) == 3 * 5 + 3 * 10
    assert set(made["encoder"]) == {"advcl"}


def test_summary_by_hand(tmp_path: Path) -> None:
    made = summary(frame(write_run(tmp_path / "runs", [(cell("advcl", "SLF"), HAND)]))).set_index("judge")
    assert made["n"].to_dict() == {"clean": 5, "pgd-20": 5, "autoattack": 5}
    assert made["right"].to_dict() == {"clean": 3, "pgd-20": 2, "autoattack": 2}
    assert made["accuracy"].to_dict() == {"clean": 0.6, "pgd-20": 0.4, "autoattack": 0.4}
    assert made["passes"].to_dict() == {"clean": 5, "pgd-20": 40, "autoattack": 100}
    # 2 of 5 by hand: (2 + z^2/2 -+ z sqrt(2 * 3 / 5 + z^2/4)) / (5 + z^2), z = 1.959964
    assert np.allclose(made.loc["pgd-20", ["low", "high"]].to_numpy(dtype=float), [0.117621, 0.769276], atol=1e-6)


def test_robust_is_never_above_clean(quickstart: Path) -> None:
    wide = verdicts(frame(quickstart)).pivot_table(
        index=["stage", "image"], columns="judge", values="right", observed=True
    )
    assert (wide["pgd-20"] <= wide["clean"]).all()
    assert (wide["autoattack"].dropna() <= wide["clean"][wide["autoattack"].notna()]).all()


def test_nothing_right_leaves_nothing_to_attempt(tmp_path: Path) -> None:
    none = answers(4, 0, {"pgd-20": 0, "autoattack": 0}, JUDGES)
    made = summary(frame(write_run(tmp_path / "runs", [(cell("random", "SLF"), none)])))
    assert dict(zip(made["judge"], made["right"], strict=True)) == {"clean": 0, "pgd-20": 0, "autoattack": 0}


def test_a_judge_that_the_caller_left_out_stays_out(runs: Path) -> None:
    made = frame(runs)
    kept = summary(made[made["judge"] != "pgd-20"])
    assert list(kept["judge"]) == ["clean", "autoattack"]


def test_a_survivor_that_was_not_tried_by_all_attacks_is_never_robust(runs: Path) -> None:
    made = frame(runs)
    lost = made.index[(made["image"] == 2) & (made["attack"] == "square")]
    message = r"records of advcl SLF linf 1/10: image 2 was tried by 3 of the 4 attacks of judge 'autoattack'"
    with pytest.raises(UserError, match=message):
        verdicts(made.drop(index=lost))
    unseen = made.index[(made["image"] == 1) & (made["judge"] == "pgd-20")]
    with pytest.raises(UserError, match="image 1 was tried by 0 of the 1 attacks"):
        summary(made.drop(index=unseen))


def test_an_image_without_one_clean_answer_is_refused(runs: Path) -> None:
    made = frame(runs)
    clean = made.index[(made["image"] == 2) & (made["judge"] == "clean")]
    for broken in (made.drop(index=clean), pd.concat([made, made.loc[clean]], ignore_index=True)):
        with pytest.raises(UserError, match="without exactly one clean answer"):
            verdicts(broken)


def test_records_of_an_unfinished_neighbour_do_not_count(runs: Path) -> None:
    # A stage that is being written stands under a hidden name until it is whole.
    hidden = runs / "evaluate" / ".simclr-AFF-1_20"
    shutil.copytree(runs / "evaluate" / "advcl-SLF-1_10", hidden)
    assert set(frame(runs)["encoder"]) == {"advcl"}
