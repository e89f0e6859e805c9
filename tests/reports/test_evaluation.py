"""The only owner of the tests of `Evaluation`: verdicts in the order of the caller, printed as the table."""

import numpy as np
import pytest

from robustcl.models.errors import UserError
from robustcl.reports.evaluation import Evaluation
from tests.reports.synthetic import JUDGES, answers
from tests.reports.test_frame import HAND, HAND_VERDICTS

THREAT = "linf 8/255 (0.031373)"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_verdicts_are_in_the_order_of_the_caller(order: list[int]) -> None:
    made = Evaluation(HAND, order, THREAT, JUDGES)
    wanted = {judge: np.array(right)[order] for judge, right in HAND_VERDICTS.items()}
    assert made.clean.dtype == np.bool_
    assert made.clean.tolist() == wanted["clean"].tolist()
    assert list(made.robust) == ["pgd-20", "autoattack"]
    for judge, right in made.robust.items():
        assert right.tolist() == wanted[judge].tolist()
    assert made.worst.tolist() == (wanted["clean"] & wanted["pgd-20"] & wanted["autoattack"]).tolist()
    assert made.records is HAND


def test_worst_without_a_judge_is_clean() -> None:
    rows = HAND[HAND["judge"] == "clean"]
    made = Evaluation(rows, range(5), THREAT, {})
    assert made.robust == {}
    assert made.worst.tolist() == made.clean.tolist() == HAND_VERDICTS["clean"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 3], [0, 1, 2, 3, 9]])
def test_other_images_are_refused(order: list[int]) -> None:
    with pytest.raises(UserError, match=rf"5 images, expected exactly the {len(order)} that were given"):
        Evaluation(HAND, order, THREAT, JUDGES)


def test_a_judge_without_records_is_refused() -> None:
    rows = HAND[HAND["judge"] != "autoattack"]
    with pytest.raises(UserError, match="nothing of judge 'autoattack'"):
        Evaluation(rows, range(5), THREAT, JUDGES)


def test_it_prints_as_the_table() -> None:
    rows = answers(360, 324, {"pgd-20": 180, "autoattack": 90}, JUDGES)
    text = str(Evaluation(rows, range(360), THREAT, JUDGES, "float32 judge"))
    caption, _, table = text.partition("\n\n")
    assert caption.replace("\n", " ") == (
        "linf 8/255 (0.031373), n = 360 images; accuracy in percent with 95 % Wilson intervals; "
        "RA (PGD-20): pgd-20; AA: apgd-ce, apgd-t, fab-t, square; float32 judge; "
        "reliability: unchecked."
    )
    head, rule, row = ([part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines())
    assert head == ["SA", "RA (PGD-20)", "AA", "worst"]
    assert set("".join(rule)) == {"-"}
    assert row == ["90.0 [86.5, 92.7]", "50.0 [44.9, 55.1]", "25.0 [20.8, 29.7]", "25.0 [20.8, 29.7]"]
    assert max(len(line) for line in text.splitlines()) <= 100


def test_one_judge_needs_no_worst_column() -> None:
    rows = answers(10, 8, {"pgd-20": 3}, {"pgd-20": ["pgd-20"]})
    assert "worst" not in str(Evaluation(rows, range(10), THREAT, {"pgd-20": ["pgd-20"]}))


def test_repr_does_not_print_the_records() -> None:
    assert repr(Evaluation(HAND, range(5), THREAT, {})).count("\n") == 0
