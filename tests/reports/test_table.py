"""The only owner of the tests of the tables: rows, blocks, captions and the forms they are written in."""

import html
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.io.formats.style import Styler

from robustcl.models.errors import UserError
from robustcl.pretraining.method import every
from robustcl.reports import paper, writers
from robustcl.reports.frame import frame, suite_of
from robustcl.reports.table import GIVEN, GROUPS, REFERENCE, Table, heading, percent, tables
from tests.reports.synthetic import CURVES, JUDGES, answers, cell, write_run

TEN = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)


def made(folder: Path, *cells: tuple[dict[str, Any], pd.DataFrame | None]) -> list[Table]:
    return tables(frame(write_run(folder / "runs", cells)))


def parsed(markdown: str) -> list[list[str]]:
    """The rows of a Markdown table, the rule left out."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set("".join(rows[1])) == {"-"}
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        ("clean", "SA"),
        ("pgd-20", "RA (PGD-20)"),
        ("pgd-100", "RA (PGD-100)"),
        ("autoattack", "AA"),
        ("pgd-20-l2", "pgd-20-l2"),
        ("square", "square"),
    ],
)
def test_headings_are_the_terms_of_the_field(judge: str, name: str) -> None:
    assert heading(judge) == name


def test_percent() -> None:
    assert percent(0.742, 0.694, 0.785) == "74.2 [69.4, 78.5]"
    assert percent(1.0, 0.9894, 1.0) == "100.0 [98.9, 100.0]"
    assert percent(0.1, float("nan"), float("nan")) == "10.0"


def test_rows_are_chance_random_and_the_order_of_the_suite(tmp_path: Path) -> None:
    (table,) = made(
        tmp_path,
        (cell("simclr", "SLF"), TEN),
        (cell("advcl", "SLF"), TEN),
        (cell("random", "SLF"), TEN),
        (cell("at", "SLF"), TEN),
    )
    assert table.rows == [REFERENCE, "random", "simclr", "advcl", "at"]


def test_chance_is_a_reference_without_an_interval(tmp_path: Path) -> None:
    (table,) = made(tmp_path, (cell("advcl", "SLF", classes=8), TEN))
    chance = table.numbers[table.numbers["kind"] == "reference"]
    assert set(chance["judge"]) == {"clean", "pgd-20", "autoattack"}
    assert set(chance["accuracy"]) == {1 / 8}
    assert chance[["n", "right", "low", "high"]].isna().all(axis=None)
    assert table.text()[REFERENCE, "SLF", "autoattack"] == "12.5"


def test_only_headline_cells_are_in_the_table(tmp_path: Path) -> None:
    sweep = cell("advcl", "SLF", "1/20", headline=False, judges={"pgd-20": ["pgd-20"]})
    (table,) = made(tmp_path, (cell("advcl", "SLF"), TEN), (sweep, answers(10, 8, {"pgd-20": 7}, sweep["judges"])))
    assert set(table.numbers["eps"]) == {"1/10"}
    assert table.text()["advcl", "SLF", "pgd-20"].startswith("50.0 [")


def test_what_is_not_finished_shows_as_a_dash(tmp_path: Path) -> None:
    (table,) = made(
        tmp_path,
        (cell("simclr", "SLF"), None),
        (cell("simclr", "AFF"), None),
        (cell("advcl", "SLF"), TEN),
        (cell("advcl", "AFF"), None),
    )
    text = table.text()
    assert table.rows == [REFERENCE, "simclr", "advcl"]
    assert {text[row, scheme, "clean"] for row, scheme in (("simclr", "SLF"), ("simclr", "AFF"), ("advcl", "AFF"))} == {
        "-"
    }
    assert text["advcl", "SLF", "clean"] == "80.0 [49.0, 94.3]"


def test_nothing_finished_is_no_table(tmp_path: Path) -> None:
    assert made(tmp_path, (cell("advcl", "SLF"), None)) == []
    assert writers.save(tables(frame(tmp_path / "runs")), tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_each_data_set_and_threat_has_its_table(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        (cell("advcl", "SLF"), TEN),
        (cell("advcl", "SLF", stage="b", norm="l2", eps="1/2"), TEN),
        (cell("advcl", "SLF", stage="c", data="letters", classes=26), TEN),
    )
    starts = [table.caption.partition(", n")[0] for table in found]
    assert starts == [
        "quickstart: digits, linf 1/10 (0.1)",
        "quickstart: digits, l2 1/2 (0.5)",
        "quickstart: letters, linf 1/10 (0.1)",
    ]
    assert found[2].text()[REFERENCE, "SLF", "clean"] == "3.8"


def test_caption_says_what_a_number_means(tmp_path: Path) -> None:
    (table,) = made(tmp_path, (cell("advcl", "SLF", eps="8/255"), TEN))
    assert table.caption == (
        "quickstart: digits, linf 8/255 (0.031373), n = 10 images; accuracy in percent with 95 % Wilson intervals over "
        "images; rows are told apart, unpaired, from 55.5 points on; seeds: pretrain 0, finetune 0, judge 0, one each; "
        "RA (PGD-20): pgd-20; AA: apgd-ce, apgd-t, fab-t, square; protocol: last epoch, float32 judge; "
        "reliability: unchecked."
    )


def test_caption_owns_up_to_unlike_cells(tmp_path: Path) -> None:
    weak = {"pgd-20": ["pgd-20"], "autoattack": ["apgd-ce"]}
    other = cell("at", "SLF", judges=weak, protocol="best epoch")
    (table,) = made(
        tmp_path, (cell("advcl", "SLF"), TEN), (other, answers(20, 9, {"pgd-20": 3, "autoattack": 2}, weak))
    )
    assert "n = 10 to 20 images" in table.caption
    assert "AA: apgd-ce, apgd-t, fab-t, square (advcl SLF); RA (PGD-20): pgd-20; AA: apgd-ce (at SLF)" in table.caption
    assert "protocol: last epoch, float32 judge (advcl); best epoch (at); " in table.caption


def test_caption_says_each_clause_of_the_protocols_once(tmp_path: Path) -> None:
    told = {
        ("at", "SLF"): "route normal, SLF 25 epochs, input normalised (mean 0.5, std 0.2)",
        ("at", "AFF"): "route normal, AFF 7 epochs, input normalised (mean 0.5, std 0.2)",
        ("advcl", "SLF"): "route pgd, SLF 25 epochs, input normalised (mean 0.5, std 0.2)",
        ("advcl", "AFF"): "route pgd, AFF 7 epochs, input normalised (mean 0.5, std 0.2), external data",
    }
    cells = [(cell(*key, stage="".join(key), protocol=text), TEN) for key, text in told.items()]
    (table,) = made(tmp_path, *cells)
    assert (
        "protocol: input normalised (mean 0.5, std 0.2); route normal (at); SLF 25 epochs (SLF); AFF 7 epochs (AFF); "
        "route pgd (advcl); external data (advcl AFF); reliability"
    ) in table.caption


def test_caption_states_n_per_column_where_it_differs(tmp_path: Path) -> None:
    only_pgd = cell("at", "SLF", judges={"pgd-20": ["pgd-20"]})
    (table,) = made(
        tmp_path, (cell("advcl", "SLF"), TEN), (only_pgd, answers(40, 9, {"pgd-20": 3}, only_pgd["judges"]))
    )
    assert "n = 10 to 40 (SA), 10 to 40 (RA (PGD-20)), 10 (AA) images" in table.caption
    assert table.text()["at", "SLF", "autoattack"] == "-"


def test_markdown_reads_back_as_the_numbers(quickstart: Path, tmp_path: Path) -> None:
    paths = {path.name: path for path in writers.write(quickstart, tmp_path)}
    assert set(paths) == {"table.txt", "table.md", "table.csv", "table.tex", "table.html"}
    numbers = pd.read_csv(paths["table.csv"])
    head, *rows = parsed(paths["table.md"].read_text())
    judges = ("clean", "pgd-20", "autoattack")
    assert head == [
        "pretraining",
        "encoder",
        *(f"{scheme} {heading(judge)}" for scheme in ("SLF", "AFF") for judge in judges),
    ]
    assert [row[1] for row in rows] == [REFERENCE, *CURVES]
    read = {(row[1], column): text for row in rows for column, text in zip(head[2:], row[2:], strict=True)}
    assert len(read) == len(numbers) == 6 * 6
    for one in numbers.to_dict("records"):
        found = [
            float(part) for part in re.findall(r"[\d.]+", read[one["row"], f"{one['scheme']} {heading(one['judge'])}"])
        ]
        wanted = [one["accuracy"]] if one["kind"] == "reference" else [one["accuracy"], one["low"], one["high"]]
        assert found == pytest.approx([100 * share for share in wanted], abs=0.0501)


def test_numbers_are_counts_and_shares(quickstart: Path) -> None:
    (table,) = tables(frame(quickstart))
    numbers = pd.read_csv(io.StringIO(writers.tidy([table]).to_csv(index=False)))
    measured = numbers[numbers["kind"] == "measured"]
    assert (measured["n"] == 360).all()
    assert measured["accuracy"].tolist() == pytest.approx((measured["right"] / 360).tolist(), rel=1e-12)
    assert (measured["low"] <= measured["accuracy"]).all()
    assert (measured["accuracy"] <= measured["high"]).all()


def test_terminal_fits_and_is_markdown(quickstart: Path) -> None:
    (table,) = tables(frame(quickstart))
    text = writers.terminal(table)
    assert max(len(line) for line in text.splitlines()) <= 100
    head, *rows = parsed(text)
    assert head == ["scheme", "encoder", "SA", "RA (PGD-20)", "AA"]
    cells = table.text()
    bare = [[re.sub(r"[*†~]? +", " ", text) for text in row] for row in rows]
    assert bare == [
        [scheme, row, *(cells[row, scheme, judge] for judge in table.judges)]
        for scheme in ("SLF", "AFF")
        for row in table.rows
    ]


def test_many_columns_never_break_a_cell(tmp_path: Path) -> None:
    judges = {f"pgd-{steps}": [f"pgd-{steps}"] for steps in range(10, 110, 10)}
    rows = answers(10, 10, dict.fromkeys(judges, 10), judges)
    (table,) = made(tmp_path, (cell("an-encoder-with-quite-a-long-name", "SLF", judges=judges), rows))
    lines = writers.terminal(table).split("\n\n")[1].splitlines()
    assert len(lines) == 4
    assert lines[3].count("100.0 [72.2, 100.0]") == 11


def test_latex_is_booktabs_and_escaped(tmp_path: Path) -> None:
    odd = cell("a_b%", "SLF", protocol="50% & more: {x}_1 #2 $3 ~ ^ \\", stage="odd")
    (table,) = made(tmp_path, (odd, TEN), (cell("advcl", "AFF"), TEN))
    text = paper.latex([table])
    for rule in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\begin{tabular}{lcccccc}",
        r"\multicolumn{3}{c}{SLF}",
        "\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}",
    ):
        assert rule in text
    (row,) = (line for line in text.splitlines() if line.startswith(r"a\_b\% & "))
    assert row.count("&") == 6
    escaped = r"50\% \& more: \{x\}\_1 \#2 \$3 \textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert escaped in text
    assert r"95 \% Wilson" in text
    assert not re.search(r"(?<!\\)[%#$]", text)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[red]x[/red]", "[red]x[/red]"),
        (":smile:", ":smile:"),
        ("*star*", "\\*star\\*"),
        ("a<b>", "a\\<b>"),
        ("a$b$", "a\\$b\\$"),
        ("a_b%", "a_b%"),
    ],
)
def test_names_are_no_markup(tmp_path: Path, name: str, shown: str) -> None:
    (table,) = made(tmp_path, (cell(name, "SLF", stage="odd"), TEN))
    rows = parsed(writers.markdown(table))
    assert rows[-1][1] == shown
    assert len(rows[-1]) == 5
    assert f">{html.escape(name)}</th>" in paper.html([table])


# Of 200 images, the first ones: nested, so that the better never loses an image.
LEADERS = {"random": (190, 150), "weak": (180, 20), "close": (180, 90), "next": (180, 100), "best": (150, 140)}


def leading(folder: Path, **changes: Any) -> Table:
    cells = [
        (cell(name, "SLF", **changes), answers(200, clean, {"pgd-20": robust, "autoattack": robust}, JUDGES))
        for name, (clean, robust) in LEADERS.items()
    ]
    (table,) = made(folder, *cells)
    return table


def test_what_the_paired_test_resolves_leads_and_the_rest_is_tied(tmp_path: Path) -> None:
    table = leading(tmp_path)
    assert {(row, judge): place for (row, _, judge), place in table.places.items()} == {
        ("best", "pgd-20"): "best", ("best", "autoattack"): "best",
        ("next", "pgd-20"): "second", ("next", "autoattack"): "second",
        ("weak", "clean"): "tied", ("close", "clean"): "tied", ("next", "clean"): "tied",
    }  # fmt: skip
    numbers = table.numbers[table.numbers["judge"] == "pgd-20"].set_index("row")
    assert numbers["rank"].astype(object).where(numbers["rank"].notna(), None).to_dict() == {
        REFERENCE: None, "random": None, "weak": 4, "close": 3, "next": 2, "best": 1
    }  # fmt: skip


def test_every_form_sets_leading_numbers_off_and_says_how(tmp_path: Path) -> None:
    table = leading(tmp_path)
    terminal, text, tex, page = (
        writers.terminal(table), writers.markdown(table), paper.latex([table]), paper.html([table])
    )  # fmt: skip
    assert "| SLF    | best               | 75.0  [68.6, 80.5] | 70.0* [63.3, 75.9] | 70.0* [63.3, 75.9] |" in terminal
    assert "| 50.0† [43.1, 56.9] |" in terminal
    assert (
        ": * resolved above every other row of its column; † above every row but the best; ~ tied"
        in terminal.replace("\n", " ")
    )
    for mark in (
        "**70.0** [63.3, 75.9]",
        "<u>50.0</u> [43.1",
        "*90.0* [85.1",
        "bold is resolved above every other row",
    ):
        assert mark in text
    for mark in (
        r"\textbf{70.0} {\scriptsize [63.3, 75.9]}",
        r"\underline{50.0}",
        r"\textit{90.0}",
        "italics are tied",
    ):
        assert mark in tex
    for mark in ("<b>70.0</b> <small>[63.3, 75.9]</small>", "<u>50.0</u>", "<i>90.0</i>", "underlined is above every"):
        assert mark in page


def test_a_sign_that_is_not_there_is_not_explained(tmp_path: Path) -> None:
    (table,) = made(tmp_path, (cell("alone", "SLF"), TEN))
    assert table.places == {}
    for text in (writers.terminal(table), writers.markdown(table), paper.latex([table]), paper.html([table])):
        assert "resolved" not in text
        assert "tied for" not in text


def test_a_column_that_cannot_be_ranked_says_why(tmp_path: Path) -> None:
    cells = [(cell(name, "SLF"), answers(n, 5, dict.fromkeys(JUDGES, 2), JUDGES)) for name, n in (("a", 10), ("b", 8))]
    (table,) = made(tmp_path, *cells)
    assert table.places == {}
    assert table.notes == ["Not ranked: SLF SA, SLF RA (PGD-20), SLF AA: encoders judged on different images."]


def test_methods_stand_in_groups() -> None:
    assert {case for case in every() if "/" not in case} <= set(GROUPS)


def test_a_given_classifier_is_no_method(tmp_path: Path) -> None:
    (table,) = made(tmp_path, (cell("zoo", GIVEN, method="ResNet"), TEN), (cell("advcl", "SLF"), TEN))
    assert table.groups == {"zoo": "as given", "advcl": "adversarial self-supervised"}


def test_groups_are_bands_and_rows(tmp_path: Path) -> None:
    names = {"random": "random", "simclr": "simclr", "at": "supervised", "advcl": "advcl", "own": "of_somebody"}
    (table,) = made(tmp_path, *((cell(name, "SLF", method=method), TEN) for name, method in names.items()))
    assert list(table.groups.values()) == [
        "no pretraining", "self-supervised", "supervised", "adversarial self-supervised", "other methods"
    ]  # fmt: skip
    tex = paper.latex([table])
    assert "\\addlinespace\n\\multicolumn{4}{l}{\\textsc{supervised}} \\\\\nat & " in tex
    assert [row[0] for row in parsed(writers.markdown(table))[1:]] == ["", *table.groups.values()]


def columns_of(tex: str) -> set[int]:
    """How many columns the rows of every tabular have, beyond what its head says."""
    odd = set()
    for head, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", tex, re.S):
        for line in (line for line in body.splitlines() if line.endswith("\\\\")):
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            odd.add(len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(head))
    return odd


def test_data_sets_stand_side_by_side_below_their_threats(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        *(
            (cell(name, scheme, eps, data=data, stage=f"{name}{scheme}{data}"), TEN)
            for data, eps in (("a", "1/10"), ("b", "1/5"), ("c", "1/5"))
            for scheme in ("SLF", "AFF")
            for name in ("at", "advcl")
            if (data, name) != ("b", "advcl")
        ),
    )
    tex = paper.latex(found)
    assert tex.count(r"\begin{table}") == 2
    assert r"\multicolumn{3}{c}{a, linf 1/10} & \multicolumn{3}{c}{b, linf 1/5}" in tex
    assert tex.count(r"\multicolumn{7}{l}{\textbf{SLF}}") == 1
    first = tex.partition(r"\end{table}")[0]
    (row,) = (line for line in first.split(r"\textbf{AFF}")[1].splitlines() if line.startswith("advcl & "))
    assert row.endswith(r"& - & - & - \\")
    assert columns_of(tex) == {0}
    page = paper.html(found)
    assert page.count("<table") == 1
    assert "c, linf 1/5</th>" in page


def test_many_schemes_stand_below_each_other(tmp_path: Path) -> None:
    (table,) = made(tmp_path, *((cell("at", f"S{number}"), TEN) for number in range(10)))
    tex = paper.latex([table])
    assert r"\begin{tabular}{lccc}" in tex
    assert tex.count(r"\textbf{S") == 10
    assert columns_of(tex) == {0}


@pytest.mark.parametrize("name", ["[x]", "*x"])
def test_no_name_is_an_option_of_a_line_break(tmp_path: Path, name: str) -> None:
    (table,) = made(tmp_path, (cell("at", "SLF"), TEN), (cell(name, "SLF", stage="odd"), TEN))
    assert f"\\\\\n{{}}{name} & " in paper.latex([table])


def test_what_is_not_finished_is_a_dash_in_every_form(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", [(cell("at", "SLF"), TEN), (cell("advcl", "SLF"), None)])
    (table,) = tables(frame(runs), suite_of(runs))
    assert table.groups["advcl"] == "adversarial self-supervised"
    assert "advcl & - & - & -" in paper.latex([table])
    assert paper.html([table]).count(">-</td>") == 3


def test_the_page_needs_nothing_and_is_the_same_again(quickstart: Path) -> None:
    found = tables(frame(quickstart))
    page = paper.html(found)
    assert page == paper.html(tables(frame(quickstart)))
    assert not re.search(r"https?:|<script|<link|src=", page)
    assert "color-scheme: light dark" in page
    assert page.count("<td") == 6 * len(found[0].rows)


def test_a_notebook_gets_a_styler_of_the_long_frame(quickstart: Path) -> None:
    style = paper.table(frame(quickstart))
    assert isinstance(style, Styler)
    assert "<i>" in style.to_html()
    assert "Rows are told apart" in style.to_html()


def test_an_unwritable_folder_is_one_line(quickstart: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/out: cannot be written \(.*\), expected a writable folder$"):
        writers.write(quickstart, tmp_path / "file" / "out")
