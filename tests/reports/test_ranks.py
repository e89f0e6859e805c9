"""The only owner of the tests of ranks: resolved places, tied groups, and columns that cannot be ranked."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustcl.reports.frame import frame
from robustcl.reports.ranks import leaders, ranked, ranks
from tests.reports.synthetic import JUDGES, answers, cell, records, write_run

# Of 100 images, the first ones: nested, so that the better never loses an image.
ROBUST = {"random": 99, "weak": 20, "close": 62, "strong": 64, "best": 90}


def run(folder: Path, robust: dict[str, int], **changes: Any) -> pd.DataFrame:
    cells = [
        (cell(name, "SLF", **changes), answers(100, 95, {"pgd-20": of, "autoattack": of}, JUDGES))
        for name, of in robust.items()
    ]
    return frame(write_run(folder / "runs", cells))


def column(found: pd.DataFrame, judge: str, scheme: str = "SLF") -> dict[str, tuple[int, int]]:
    part = found[(found["judge"] == judge) & (found["scheme"] == scheme)]
    assert part["tied"].tolist() == (part["rank"] != part["last"]).tolist()
    return {row: (rank, last) for row, rank, last in zip(part["row"], part["rank"], part["last"], strict=True)}


def test_a_rank_counts_the_rows_that_are_resolved_as_better(tmp_path: Path) -> None:
    found = ranks(run(tmp_path, ROBUST))
    assert column(found, "autoattack") == {
        "weak": (4, 4), "close": (2, 3), "strong": (2, 3), "best": (1, 1)
    }  # fmt: skip
    assert list(column(found, "pgd-20")) == ["weak", "close", "strong", "best"]
    assert found.iloc[0][["suite", "data", "norm", "eps"]].tolist() == ["quickstart", "digits", "linf", "1/10"]


def test_equal_answers_share_the_first_rank(tmp_path: Path) -> None:
    assert set(column(ranks(run(tmp_path, ROBUST)), "clean").values()) == {(1, 4)}


def test_a_rank_of_its_own_is_tied_where_a_neighbour_is_not_resolved(tmp_path: Path) -> None:
    """30 against 36 and 36 against 42 are p = 0.031, which Holm takes away; 30 against 42 it leaves."""
    found = column(ranks(run(tmp_path, {"low": 30, "middle": 36, "high": 42})), "autoattack")
    assert found == {"low": (2, 3), "middle": (1, 3), "high": (1, 2)}


def test_the_random_encoder_is_neither_ranked_nor_corrected_for(tmp_path: Path) -> None:
    """Six lost images are p = 0.031: resolved as the only pair, not as one of three (Holm)."""
    pair = {"less": 60, "more": 66}
    alone = column(ranks(run(tmp_path, {"random": 1, **pair})), "autoattack")
    assert alone == {"less": (2, 2), "more": (1, 1)}
    among = column(ranks(run(tmp_path / "three", {"third": 63, **pair})), "autoattack")
    assert {rank for rank, _ in among.values()} == {1}


def test_the_worse_of_two_is_no_second(tmp_path: Path) -> None:
    places = leaders(ranks(run(tmp_path, {"random": 1, "weak": 20, "best": 90})))
    assert {row: place for (row, _, judge), place in places.items() if judge == "pgd-20"} == {"best": "best"}
    places = leaders(ranks(run(tmp_path / "three", {"weak": 20, "next": 60, "best": 90})))
    assert places["next", "SLF", "pgd-20"] == "second"
    assert ("weak", "SLF", "pgd-20") not in places


def test_one_row_is_not_ranked(tmp_path: Path) -> None:
    found, refused = ranked(run(tmp_path, {"random": 1, "alone": 60}))
    assert found.empty
    assert refused.empty
    assert ranks(run(tmp_path / "none", {})).empty


def test_every_table_and_scheme_is_ranked_for_itself(tmp_path: Path) -> None:
    cells: list[tuple[dict[str, Any], pd.DataFrame | None]] = []
    for scheme, eps, better in (("SLF", "1/10", "a"), ("AFF", "1/10", "b"), ("SLF", "1/5", "b")):
        for name in "ab":
            robust = 80 if name == better else 20
            rows = answers(100, 95, {"pgd-20": robust, "autoattack": robust}, JUDGES)
            cells.append((cell(name, scheme, eps), rows))
    cells.append((cell("a", "AFF", "1/5"), None))  # not finished
    found = ranks(frame(write_run(tmp_path / "runs", cells)))
    first = found[(found["judge"] == "pgd-20") & (found["rank"] == 1)]
    assert first[["scheme", "eps", "row"]].to_numpy().tolist() == [
        ["SLF", "1/10", "a"], ["AFF", "1/10", "b"], ["SLF", "1/5", "b"]
    ]  # fmt: skip


def test_what_cannot_be_compared_is_told_and_the_rest_ranked(tmp_path: Path) -> None:
    prints = {"pgd-20": "pgd-20@20it; seed 0; sha:1", "autoattack": "autoattack@x; seed 0; sha:2"}
    cells = [
        (
            cell(name, "SLF", fingerprints=prints | {"pgd-20": f"pgd-20@{steps}it; seed {seed}; sha:{steps}"}),
            answers(100, 90, {"pgd-20": robust, "autoattack": robust}, JUDGES),
        )
        for name, robust, steps, seed in (("a", 20, 20, 0), ("b", 80, 40, 1))
    ]
    found, refused = ranked(frame(write_run(tmp_path / "runs", cells)))
    assert set(found["judge"]) == {"clean", "autoattack"}
    ((judge, why),) = refused[["judge", "why"]].to_numpy().tolist()
    assert judge == "pgd-20"
    assert "pgd-20@20it; sha:20 and pgd-20@40it; sha:40" in why


def test_other_images_are_never_ranked(tmp_path: Path) -> None:
    cells = [(cell(name, "SLF"), answers(n, 5, dict.fromkeys(JUDGES, 2), JUDGES)) for name, n in (("a", 10), ("b", 8))]
    found, refused = ranked(frame(write_run(tmp_path / "runs", cells)))
    assert found.empty
    assert refused["judge"].tolist() == ["clean", "pgd-20", "autoattack"]
    assert refused["why"].str.contains("judged on different images").all()


@pytest.mark.parametrize(("gain", "rank"), [(0, 1), (30, 2)])
def test_several_seeds_are_ranked_by_their_means(tmp_path: Path, gain: int, rank: int) -> None:
    cells = [
        (
            cell(name, "SLF", seeds={"pretrain": seed}, stage=f"{name}-{seed}"),
            answers(100, 95, dict.fromkeys(JUDGES, 40 + seed + of), JUDGES),
        )
        for name, of in (("a", 0), ("b", gain))
        for seed in (0, 1, 2)
    ]
    assert column(ranks(frame(write_run(tmp_path / "runs", cells))), "pgd-20")["a"][0] == rank


def test_corruptions_are_ranked_by_the_shares_of_the_images(tmp_path: Path) -> None:
    names = ["fog-1", "fog-5", "snow-1", "snow-5"]
    cells = []
    for name, right in (("a", 1), ("b", 3)):
        rows = [(image, "clean", "clean", True) for image in range(40)]
        rows += [(i, "corruptions", each, n < right) for i in range(40) for n, each in enumerate(names)]
        cells.append((cell(name, "SLF", judges={"corruptions": names}), records(rows)))
    found = column(ranks(frame(write_run(tmp_path / "runs", cells))), "corruptions")
    assert found == {"a": (2, 2), "b": (1, 1)}
