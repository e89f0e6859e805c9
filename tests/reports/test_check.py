"""The only owner of the tests of the gate: what it compares, what it refuses, and how often it errs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from benchmarks.gate import drawn, pairs, promised
from robustcl.models.errors import UserError
from robustcl.reports import checked
from robustcl.reports.baseline import Baseline, Row, chosen, read_baseline, rows_of, write_baseline
from robustcl.reports.check import check, check_rows, compare
from robustcl.reports.frame import frame
from robustcl.reports.junit import junit
from robustcl.reports.statistics import difference, images_for
from tests.reports.synthetic import JUDGES, answers, cell, found, told, write_run

ROOT = Path(__file__).resolve().parents[2]
ATTACK = "pgd-20@20it; linf 1/10; seed {}; sha:1a2b3c4d"


def run(folder: Path, robust: Mapping[str, int], n: int = 400, **changes: Any) -> pd.DataFrame:
    """A frame of encoders under SLF, so many of n images robust, and the random encoder."""
    given = {"fingerprints": {"pgd-20": ATTACK.format(0), "autoattack": "aa@apgd-ce; sha:12"}} | changes
    of = {"random": 0, **robust}
    cells = [
        (cell(name, "SLF", **{**given, "judges": JUDGES}), answers(n, n, {"pgd-20": k, "autoattack": k // 2}, JUDGES))
        for name, k in of.items()
    ]
    return frame(write_run(folder, cells))


def row(right: Any, **changes: Any) -> Row:
    """A row with these verdicts."""
    n = len(right)
    text = {"encoder": "a", "scheme": "SLF", "data": "digits", "norm": "linf", "eps": "1/10", "judge": "pgd-20"}
    arrays = {"image": np.arange(n, dtype=np.int32), "label": np.ones(n, dtype=np.int16)}
    return Row(**{**text, **arrays, "right": np.asarray(right, dtype=bool), **changes})


def blessed(records: pd.DataFrame) -> Baseline:
    return Baseline(rows=chosen(rows_of(records)), about={"suite": "quickstart", "commits": ["0123456789"]})


def test_rows_are_those_of_the_table_and_clean_ones_come_once(tmp_path: Path) -> None:
    sizes = {"pgd-20": 3, "autoattack": 2}
    made = [(cell("a", "SLF", eps), answers(5, 4, sizes, JUDGES)) for eps in ("1/10", "1/5")]
    made.append((cell("a", "SLF", "1/20", headline=False), answers(5, 4, sizes, JUDGES)))
    rows = rows_of(frame(write_run(tmp_path, made)))
    assert [(row.judge, row.threat, row.accuracy) for row in rows] == [
        ("clean", "-", 0.8), ("pgd-20", "linf 1/10", 0.6), ("autoattack", "linf 1/10", 0.4),
        ("pgd-20", "linf 1/5", 0.6), ("autoattack", "linf 1/5", 0.4),
    ]  # fmt: skip
    assert all(row.label.tolist() == [1] * 5 and row.image.tolist() == [0, 1, 2, 3, 4] for row in rows)


def test_the_seed_of_the_judge_is_in_the_name_where_it_has_to_be(tmp_path: Path) -> None:
    def rows(*seeds: int) -> list[str]:
        cells = [
            (cell("a", "SLF", seeds={"finetune": 1, "judge": seed}, stage=f"s{seed}"), answers(3, 3, few, JUDGES))
            for seed in seeds
        ]
        return [row.seed_text for row in rows_of(frame(write_run(tmp_path / str(len(seeds)), cells)))]

    few = {"pgd-20": 1, "autoattack": 1}
    assert rows(7) == ["finetune 1"] * 3
    assert rows(7, 8) == ["finetune 1"] + ["finetune 1, judge 7"] * 2 + ["finetune 1, judge 8"] * 2


def test_a_baseline_reads_as_it_was_written_and_is_small(tmp_path: Path) -> None:
    baseline = blessed(run(tmp_path / "runs", {"a": 300, "b": 200}))
    path = tmp_path / "deep" / "x.parquet"
    write_baseline(path, baseline)
    whole = path.read_bytes()
    assert len(whole) < 8000
    back = read_baseline(path)
    assert back.about == baseline.about
    for was, now in zip(baseline.rows, back.rows, strict=True):
        assert (was.key, was.fingerprint, was.reliability) == (now.key, now.fingerprint, now.reliability)
        assert np.array_equal(was.right, now.right)
        assert np.array_equal(was.image, now.image)
    write_baseline(path, back)
    assert path.read_bytes() == whole
    assert [held.name for held in path.parent.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_a_truncated_baseline_is_one_line(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.parquet"
    write_baseline(path, blessed(run(tmp_path / "runs", {"a": 300})))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"x\.parquet: damaged or truncated") as caught:
        read_baseline(path)
    assert "\n" not in str(caught.value)


def test_records_are_no_baseline(tmp_path: Path) -> None:
    run(tmp_path, {"a": 300})
    with pytest.raises(UserError, match="not a baseline, expected one of version 1"):
        read_baseline(next(tmp_path.rglob("records.parquet")))
    with pytest.raises(UserError, match=r"no such file, .* 'robustcl bless RUNS --baseline"):
        read_baseline(tmp_path / "nothing.parquet")


def test_the_same_run_is_ok(tmp_path: Path) -> None:
    records = run(tmp_path, {"a": 300, "b": 200})
    done = check(records, blessed(records))
    assert (done.outcome, done.code) == ("ok", 0)
    assert [row.name for row in done.rows] == [f"{e} SLF {j}" for e in "ab" for j in ("SA", "RA (PGD-20)", "AA")]
    assert {row.drop for row in done.rows} == {0.0}
    assert not done.new  # the random encoder is a control


def test_a_drop_is_a_regression_and_wins_over_what_cannot_be_told(tmp_path: Path) -> None:
    baseline = blessed(run(tmp_path / "before", {"a": 300, "b": 200, "c": 100}))
    done = check(run(tmp_path / "now", {"a": 240, "b": 192, "c": 110, "d": 10}), baseline)
    by_name = {row.name: row for row in done.rows}
    assert (done.outcome, done.code) == ("regression", 1)
    assert by_name["a SLF RA (PGD-20)"].outcome == "regression"
    assert by_name["a SLF RA (PGD-20)"].lost.tolist() == list(range(240, 300))
    assert by_name["b SLF RA (PGD-20)"].outcome == "undecided"
    assert by_name["b SLF RA (PGD-20)"].needed > 400
    assert by_name["c SLF RA (PGD-20)"].outcome == "ok"  # better than before
    assert by_name["a SLF SA"].outcome == "ok"
    assert done.new == ("d SLF SA", "d SLF RA (PGD-20)", "d SLF AA")


def test_few_images_are_never_ok() -> None:
    """Without a flip among 298 images 1 point of loss is not excluded at 5 %; among 299 it is."""
    for n, outcome in ((100, "undecided"), (298, "undecided"), (299, "ok")):
        done = compare("a", row([True] * n), row([True] * n), margin=0.01, level=0.05)
        assert done.outcome == outcome
        assert (done.needed == 299) == (outcome == "undecided")


@pytest.mark.parametrize(
    ("n", "lost", "won", "margin", "rows"),
    [(100, 1, 0, 0.03, 1), (300, 3, 3, 0.01, 3), (300, 6, 13, 0.0, 1), (300, 20, 2, 0.03, 20), (1000, 30, 25, 0.01, 5)],
)
def test_so_many_images_could_tell_in_80_of_100_cases(n: int, lost: int, won: int, margin: float, rows: int) -> None:
    before, now = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    before[:lost], now[n - won :] = True, True
    done = compare("a", row(before), row(now), margin=margin, level=0.05, rows=rows)
    assert done.outcome == "undecided"
    again = int(np.ceil(done.needed))
    chances = [lost / n, won / n, 1 - (lost + won) / n]
    b, c, _ = np.random.default_rng(n).multinomial(again, chances, 5000).T
    low, high = difference(b, c, again, 1 - 0.05 / rows)[0], difference(b, c, again, 0.95)[1]
    told = high <= margin if done.drop < margin else low > margin
    assert 0.77 < told.mean() < 0.92
    assert checked.verdict(done).startswith("CANNOT TELL: takes ")


def test_what_could_tell_is_near_the_formula_of_the_difference_from_the_margin() -> None:
    before, now = np.ones(1000, dtype=bool), np.ones(1000, dtype=bool)
    before[:10], now[-15:] = False, False  # 10 won, 15 lost
    assert compare("a", row(before), row(now), margin=0.02, level=0.05).outcome == "ok"
    done = compare("a", row(before), row(now), margin=0.01, level=0.05)
    assert done.needed == pytest.approx(images_for(0.005, 0.025, 0.1), rel=0.12)
    worse = compare("a", row(before), row(now), margin=0.0, level=0.05, rows=4)
    assert worse.needed == pytest.approx(images_for(0.005, 0.025, 0.1 / 4), rel=0.12)
    at = compare("a", row(before), row(now), margin=0.005, level=0.05)
    assert at.needed == float("inf")
    assert checked.verdict(at) == "CANNOT TELL: the drop is about the margin"


def test_a_seed_of_the_attack_is_no_other_attack(tmp_path: Path) -> None:
    baseline = blessed(run(tmp_path / "before", {"a": 300}))
    other = run(
        tmp_path / "now",
        {"a": 300},
        fingerprints={"pgd-20": ATTACK.format(9), "autoattack": "aa@apgd-ce; sha:12"},
        seeds={"pretrain": 0, "finetune": 0, "judge": 9},
    )
    assert check(other, baseline).outcome == "ok"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprints": {"pgd-20": "pgd-20@40it; sha:9"}}, "attack is pgd-20@20it; linf 1/10; sha:1a2b3c4d and the"),
        ({"eps": "1/5"}, "of linf 1/10 and the run's of linf 1/5"),
        ({"data": "mnist"}, "a SLF SA: the baseline's is of digits and the run's of mnist"),
        (
            {"seeds": {"pretrain": 3, "finetune": 0}},
            "of finetune 0, pretrain 0 and the run's of finetune 0, pretrain 3",
        ),
        ({"n": 399}, "1 of the baseline's 400 are missing and 0 are new"),
        ({"robust": {"b": 300}}, r"the run lacks a SLF SA, a SLF RA \(PGD-20\), a SLF AA of the baseline"),
        ({"judges": {"pgd-20": ["pgd-20"]}}, "the run lacks a SLF AA of the baseline"),
    ],
)
def test_what_cannot_be_paired_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    baseline = blessed(run(tmp_path / "before", {"a": 300}))
    given: dict[str, Any] = {"robust": {"a": 300}} | changes
    records = run(tmp_path / "now", **given)
    if "judges" in given:
        records = records[records["judge"] != "autoattack"]
    with pytest.raises(UserError, match=says) as caught:
        check(records, baseline)
    assert str(caught.value).startswith("check: ")
    assert "\n" not in str(caught.value)


def test_other_pixels_or_labels_under_the_same_name_are_refused() -> None:
    before = row([True] * 5, content="00ff")
    with pytest.raises(UserError, match="the pixels of the images differ"):
        check_rows([row([True] * 5, content="11ff")], Baseline(rows=(before,)))
    with pytest.raises(UserError, match="5 labels differ"):
        check_rows([row([True] * 5, label=np.zeros(5, dtype=np.int16))], Baseline(rows=(before,)))
    with pytest.raises(UserError, match="holds no row"):
        check_rows([before], Baseline(rows=()))


@pytest.mark.parametrize(
    ("margin", "level", "says"),
    [(-0.01, 0.05, "margin: -1"), (3, 0.05, "in Python it is a share, such as 0.03"), (0.01, 0.5, "level: 0.5")],
)
def test_margin_and_level_have_their_ranges(margin: float, level: float, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_rows([row([True])], Baseline(rows=(row([True]),)), margin, level)


def test_doubts_that_are_new_are_told_and_unreliable_is_not_ok(tmp_path: Path) -> None:
    of: dict[str, Any] = {"about": told(found("square_gain", "ok"))}
    baseline = blessed(run(tmp_path / "before", {"a": 300}, **of))
    for verdict, outcome in (("suspect", "ok"), ("unreliable", "undecided")):
        worse = run(tmp_path / verdict, {"a": 300}, about=told(found("square_gain", verdict, "autoattack")))
        done = check(worse, baseline)
        assert [row.outcome for row in done.rows] == ["ok", "ok", outcome]
        assert done.notes == (
            f"a SLF AA: reliability was ok and is {verdict} (square_gain: half of square_gain; "
            "try next: help square_gain)",
        )
    assert "CANNOT TELL: the number now is unreliable" in checked.table(done)
    assert not check(run(tmp_path / "again", {"a": 300}, **of), baseline).notes


def test_a_changed_protocol_is_told(tmp_path: Path) -> None:
    baseline = blessed(run(tmp_path / "before", {"a": 300}, protocol="last epoch, input normalised (mean 0.5, std 1)"))
    done = check(run(tmp_path / "now", {"a": 300}, protocol="last epoch, input raw"), baseline)
    assert done.notes == ("a SLF: the protocol was 'input normalised (mean 0.5, std 1)' and is 'input raw'",)


def most(count: int, rate: float) -> float:
    """What a rate comes to in so many trials, and three standard deviations."""
    return float(rate + 3 * (rate * (1 - rate) / count) ** 0.5)


@pytest.mark.parametrize("n", [100, 1000])
def test_200_honest_runs_raise_no_false_alarm_above_the_rate(n: int) -> None:
    assert len(pairs()) >= 15
    g, times = np.random.default_rng(n), 200
    alarms = [drawn(g, n).outcome == "regression" for _ in range(times)]
    assert np.mean(alarms) <= 0.05


def test_losing_exactly_the_margin_everywhere_is_no_false_alarm_and_no_pass_above_the_rate() -> None:
    g, times = np.random.default_rng(5), 200
    done = [drawn(g, 1000, 0.01).outcome for _ in range(times)]
    assert np.mean([one == "regression" for one in done]) <= most(times, 0.05)
    assert np.mean([one == "ok" for one in done]) <= most(times, 0.05)


@pytest.mark.parametrize(("n", "drop"), [(300, 0.05), (1000, 0.03), (10_000, 0.02)])
def test_a_true_drop_is_found_as_often_as_the_formula_promises(n: int, drop: float) -> None:
    g, times = np.random.default_rng(n), 8
    found = [one.outcome == "regression" for _ in range(times) for one in drawn(g, n, drop).rows]
    told = np.mean([promised(n, drop, pair, len(pairs())) for pair in pairs()])
    assert 0.2 < told < 0.95
    assert np.mean(found) == pytest.approx(told, abs=0.1)


def test_the_promises_of_the_page() -> None:
    text = (ROOT / "docs" / "results" / "gate.md").read_text(encoding="utf-8")
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    (head,) = [at for at, row in enumerate(rows) if row == ["true drop", "images", "found", "promised"]]
    for drop, n, _, said in rows[head + 2 : head + 11]:
        power = [promised(int(n.replace(",", "")), int(drop) / 100, pair, len(pairs())) for pair in pairs()]
        assert said == f"{100 * np.mean(power):.0f}"


def test_markdown_names_the_images_and_shows_text_as_it_is() -> None:
    done = check_rows(
        [row([False] * 60 + [True] * 340, encoder="a<b>|*c*")],
        Baseline(rows=(row([True] * 400, encoder="a<b>|*c*"),), about={"suite": "quick_start"}),
    )
    text = checked.markdown(done, Baseline(rows=(), about={"suite": "quick_start"}))
    assert text.startswith("### robustcl check: REGRESSION\n\nREGRESSION: the row lost more than 1 point.")
    assert "baseline of quick\\_start" in text
    assert "- a&lt;b&gt;\\|\\*c\\* SLF RA (PGD-20): 60 lost (0, 1, 2, 3, 4, 5, 6, 7, ...)" in text
    assert "15.00 [" in text


def test_junit_counts_escapes_and_gives_the_same_bytes(tmp_path: Path) -> None:
    baseline = blessed(run(tmp_path / "before", {"a": 300, "b": 200}))
    done = check(run(tmp_path / "now", {"a": 240, "b": 192}), baseline)
    text = junit(done, baseline)
    assert text == junit(done, baseline)
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    (suite,) = root
    counts = {"tests": "6", "failures": "2", "errors": "0", "time": "0"}
    assert root.attrib == {"name": "robustcl", **counts}
    assert suite.attrib == {"name": "robustcl check", **counts, "skipped": "2"}
    assert [part.tag for part in suite] == ["testcase"] * 6 + ["system-out"]
    for case in suite.iter("testcase"):
        assert set(case.attrib) == {"classname", "name", "time"}
        assert all(set(part.attrib) <= {"message", "type"} for part in case)
    kinds = {case.attrib["name"]: [part.tag for part in case] for case in suite.iter("testcase")}
    assert kinds["a SLF RA (PGD-20)"] == ["failure"]
    assert kinds["b SLF RA (PGD-20)"] == ["skipped"]
    assert kinds["a SLF SA"] == ["system-out"]
    strange = row([True] * 400, encoder='<&"\x00\x1b>')
    text = junit(check_rows([strange], Baseline(rows=(strange,))), baseline)
    (name,) = [case.attrib["name"] for case in ElementTree.fromstring(text).iter("testcase")]
    assert name == '<&"\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}> SLF RA (PGD-20)'


def test_columns_that_tell_rows_apart_are_shown() -> None:
    rows = (row([True] * 300), row([True] * 300, eps="1/5"), row([True] * 400, eps="1/5", seeds={"finetune": 1}))
    head = checked.table(check_rows(rows, Baseline(rows=rows))).splitlines()[0]
    assert head.split("|")[1:-1] == [
        f"{text} " for text in head.replace(" |", "|").split("|")[1:-1]
    ]  # one space beside each
    for word in ("threat", "seeds", " n "):
        assert word in head
    assert "data" not in head
