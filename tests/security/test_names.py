"""Names that other programs would obey, in every report of a run folder: they are shown, and nothing else."""

import csv
import io
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from robustcl.models.errors import UserError
from robustcl.reports import card, checked
from robustcl.reports.baseline import Baseline, rows_of
from robustcl.reports.check import check_rows
from robustcl.reports.folder import RunFolder
from robustcl.reports.forms import LATEX
from robustcl.reports.frame import frame
from robustcl.reports.junit import junit
from robustcl.reports.report import report
from tests.reports.synthetic import answers, cell, found, told, write_run
from tests.security.hostile import NAMES


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of a run whose suite, encoders, methods, schemes, data, judges and findings have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    cells: list[Any] = []
    ordered = sorted(NAMES, key=lambda name: name[0] not in "=+-@")  # what begins as a formula stands first
    for place, (first, other) in enumerate(zip(ordered[::2], ordered[1::2] + ordered[:1], strict=False)):
        name = f"{first} {other}" if place else first
        judges = {NAMES[0]: [other], "pgd-20": ["pgd-20"]}
        of = cell(name, NAMES[2], data=NAMES[4], method=other, judges=judges, protocol=other, stage=f"s{place}")
        of |= {"about": told({**found(name, "suspect", "pgd-20"), "next": other}), "fingerprints": {"pgd-20": name}}
        cells.append((of, answers(12, 9, {NAMES[0]: 3, "pgd-20": 2 + place % 5}, judges)))
    runs = write_run(folder / "runs", cells)
    suite = (runs / "suite.json").read_text().replace('"suite": "quickstart"', f'"suite": "{NAMES[-8]}"')
    (runs / "suite.json").write_text(suite)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # long names leave a figure little room
        report(runs, folder / "report")
    card.write(runs, folder / "cards")
    return folder


class Tags(HTMLParser):
    """Everything in a page that could act: tags, and attributes with their tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Noted."""
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]


def harmless(html: str, scripts: int = 0) -> None:
    """Whether a page has no more scripts than these, and nothing that is loaded or run from a name."""
    page = Tags(html)
    assert page.tags.count("script") == scripts
    assert not {"iframe", "object", "embed", "base"} & set(page.tags)
    assert not [one for one in page.attributes if one[1].startswith("on")]
    sources = [value for _, key, value in page.attributes if key in ("src", "href", "action", "srcset")]
    assert not [value for value in sources if re.match(r"\s*(javascript|https?|file|//)", value, re.IGNORECASE)]


def test_pages_show_hostile_names_and_obey_none(reported: Path) -> None:
    pages = sorted((reported / "report").rglob("*.html"))
    assert len(pages) > len(NAMES) / 2
    for page in pages:
        text = page.read_text(encoding="utf-8")
        harmless(text, scripts=text.count("<script>\n"))
        assert text.count("<script>\n") in (0, 2)


def test_markdown_shows_hostile_names_and_obeys_none(reported: Path) -> None:
    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    files = [*(reported / "report").rglob("*.md"), *(reported / "cards").rglob("*.md")]
    assert len(files) > len(NAMES) / 2
    for file in files:
        text = file.read_text(encoding="utf-8")
        page = Tags(render(text.partition("\n---\n")[2] or text))
        assert not {"a", "img", "script", "iframe"} & set(page.tags), file
        assert not [one for one in page.attributes if one[1].startswith("on")]


def test_latex_prints_hostile_names_and_runs_none(reported: Path) -> None:
    text = (reported / "report" / "table.tex").read_text(encoding="utf-8")
    assert not re.search(r"\\(input|write|include|immediate|def|csname)", text)
    assert "^^" not in text
    for name in NAMES[:24]:
        assert LATEX.escape(name) in text


def test_no_cell_of_a_csv_is_a_formula(reported: Path) -> None:
    files = list((reported / "report").rglob("*.csv"))
    assert files
    for file in files:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
        for one in (one for row in rows for one in row):
            assert not one.startswith(("=", "@", "+", "\t")), file
            assert not re.match(r"-[^0-9.]", one), file
            assert one != "-2+3"
    assert any("'=cmd" in file.read_text(encoding="utf-8") for file in files)


def test_figures_are_drawn_with_hostile_names_as_they_are(reported: Path) -> None:
    figures = list((reported / "report").rglob("*.svg"))
    assert figures
    for file in figures:
        held = ElementTree.parse(file).getroot()
        assert not [one for one in held.iter() if one.tag.endswith(("script", "foreignObject"))]


def test_no_file_of_a_report_lies_elsewhere_or_has_an_odd_name(reported: Path) -> None:
    made = [path for part in ("report", "cards") for path in (reported / part).rglob("*")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]+", path.name) for path in made)
    assert {path.name for path in reported.iterdir()} == {"runs", "report", "cards"}


def test_the_summary_and_the_junit_of_a_check_obey_no_name(reported: Path) -> None:
    rows = rows_of(frame(reported / "runs"))
    baseline = Baseline(rows=rows, about={"suite": NAMES[0], "commits": [NAMES[2]]})
    done = check_rows(rows, baseline)
    page = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(checked.markdown(done, baseline)))
    assert not {"a", "img", "script"} & set(page.tags)
    ElementTree.fromstring(junit(done, baseline))


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202egnp", "a\0b", "\x07", "\x9b31m", "a\u2028b"])
def test_names_with_control_characters_are_refused_where_they_are_read(tmp_path: Path, name: str) -> None:
    judges = {"pgd-20": ["pgd-20"]}
    rows = answers(4, 3, {"pgd-20": 2}, judges)
    places = ({"encoder": name}, {"protocol": name}, {"judges": {name: ["pgd-20"]}}, {"seeds": {name: 1}})
    for number, odd in enumerate(places):
        run = write_run(tmp_path / str(number), [(cell("at", "SLF", judges=judges) | odd, rows)])
        with pytest.raises(UserError, match=r"suite\.json: control characters in") as error:
            _ = RunFolder(run).tables
        assert str(error.value).isprintable()
    run = write_run(tmp_path / "told", [(cell("at", "SLF", judges=judges, about=told(found(name, "ok", "x"))), rows)])
    with pytest.raises(UserError, match=r"records\.parquet: control characters in"):
        frame(run)
