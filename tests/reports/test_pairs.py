"""The only owner of the tests of paired comparisons: which differences between encoders are resolved."""

from pathlib import Path

import pandas as pd
import pytest

from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from robustcl.reports.pairs import pairs
from robustcl.reports.statistics import mcnemar
from tests.reports.synthetic import JUDGES, answers, cell, write_run

ROBUST = {"weak": 20, "close": 62, "strong": 64}  # of 100 images, the first ones: nested, so the better never loses


def run(folder: Path, n: int = 100) -> pd.DataFrame:
    cells = [
        (cell(name, "SLF"), answers(n, 90, {"pgd-20": robust, "autoattack": robust}, JUDGES))
        for name, robust in ROBUST.items()
    ]
    return frame(write_run(folder, cells))


def test_pairs_are_ordered_tested_and_corrected(tmp_path: Path) -> None:
    found = pairs(run(tmp_path), "SLF", "autoattack")
    assert list(zip(found["better"], found["worse"], strict=True)) == [
        ("strong", "close"), ("strong", "weak"), ("close", "weak")
    ]  # fmt: skip
    assert found["difference"].tolist() == pytest.approx([0.02, 0.44, 0.42])
    assert found[["only_better", "only_worse"]].to_numpy().tolist() == [[2, 0], [44, 0], [42, 0]]
    assert found["p"].tolist() == pytest.approx([0.5, mcnemar([1] * 44, [0] * 44), mcnemar([1] * 42, [0] * 42)])
    assert found["holm"].tolist() == pytest.approx([0.5, 3 * found["p"][1], 2 * found["p"][2]])
    assert found["resolved"].tolist() == [False, True, True]


def test_equal_answers_are_never_resolved(tmp_path: Path) -> None:
    found = pairs(run(tmp_path), "SLF", "clean")
    assert not found["resolved"].any()
    assert found["holm"].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("scheme", "judge", "says"),
    [("SLF", "autoatack", "unknown judge 'autoatack'"), ("AFF", "clean", "unknown scheme 'AFF'")],
)
def test_an_unknown_name_is_one_line(tmp_path: Path, scheme: str, judge: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        pairs(run(tmp_path), scheme, judge)
    assert "\n" not in str(caught.value)


def test_other_images_and_several_tables_are_refused(tmp_path: Path) -> None:
    judged = [answers(n, 5, {"pgd-20": 2, "autoattack": 2}, JUDGES) for n in (10, 8)]
    fewer = [(cell(name, "SLF"), rows) for name, rows in zip("ab", judged, strict=True)]
    with pytest.raises(UserError, match="judged on different images"):
        pairs(frame(write_run(tmp_path / "fewer", fewer)), "SLF", "clean")
    both = [(cell("a", "SLF", eps), judged[0]) for eps in ("1/10", "1/5")]
    with pytest.raises(UserError, match="more than one data set or threat"):
        pairs(frame(write_run(tmp_path / "both", both)), "SLF", "clean")
