"""The only owner of the documentation as a whole: every page is reached, links lead on, lists are complete."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from rendering import docstrings, listings
from robustcl.bench.tables import suites
from robustcl.cli import app
from robustcl.models.threat import Threat
from robustcl.outline import listing
from robustcl.pretraining.method import Batch, Training
from tests.blocks import ROOT

DOCS = ROOT / "docs"
SITE = os.environ.get("ROBUSTCL_SITE")  # set by `tox -e docs`
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if len(path.relative_to(DOCS).parts) < 3]
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
REMOTE = re.compile(r"<(?:script|img|iframe)[^>]*src=.(?:https?:)?//|<link[^>]*href=.(?:https?:)?//")
HOSTS = {"arxiv.org", "keepachangelog.com", "semver.org", "spdx.org"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def entries(index: Path) -> list[Path]:
    """The pages of the tables of contents of a page."""
    found = re.findall(r"^```\{toctree\}\n(.*?)^```$", index.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in found for line in block.splitlines() if line and not line.startswith(":")]
    names = [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    return [index.parent / f"{name}.md" for name in names]


def test_every_page_stands_once_in_the_contents() -> None:
    index = DOCS / "index.md"
    reached = [index, *(path for one in (index, DOCS / "api" / "index.md") for path in entries(one))]
    assert sorted(reached) == PAGES


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^(```+).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    lost = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert not lost


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_no_page_names_a_host_but_those_of_papers(page: Path) -> None:
    assert {*re.findall(r"https?://([\w.-]+)", page.read_text(encoding="utf-8"))} <= HOSTS


def test_every_command_and_option_is_listed() -> None:
    told, group = listings.commands(), typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    for command, of in commands.items():
        _, found, part = told.partition(f"## robustcl {command}\n")
        assert found
        options = [given.opts[0] for given in of.params if given.param_type_name == "option" and given.name != "help"]
        assert all(f"`{option}`" in part.partition("\n## ")[0] for option in options)
    assert "--scheme" in told


def test_every_suite_is_listed_with_its_command() -> None:
    told = listings.suites()
    assert re.findall(r"^## (.+)$", told, re.MULTILINE)[0] == "quickstart"
    assert {*re.findall(r"^## (.+)$", told, re.MULTILINE)} == suites().keys()
    assert {*re.findall(r"`robustcl run ([\w-]+)", told)} == suites().keys()
    assert "\\\n  CIFAR-10 SLF: 42.2/44.4/79.8" in told


def test_every_mark_is_that_of_a_list_and_every_list_is_shown() -> None:
    marks = [mark for page in PAGES for mark in listings.MARK.findall(page.read_text(encoding="utf-8"))]
    assert sorted(marks) == sorted(listings.LISTS)


def test_every_list_is_that_of_the_command_line() -> None:
    kinds = {block.partition("\n")[0] for block in listing(None).split("\n\n")}
    assert {*listings.KINDS, "suites"} == kinds


def test_a_page_shows_titles_and_whole_intervals() -> None:
    assert listings.page("[docs/data.md](data.md), [here](x.md)") == "[](data.md), [here](x.md)"
    assert listings.page("| **17.0** [13.2, 21.7] |") == "| **17.0**\u00a0[13.2,\u00a021.7] |"
    assert listings.page("[table.md](a/b-mini/table.md)") == "{download}`table.md <a/b-mini/table.md>`"
    code = "```python\nx = 1.0 [2.0, 3.0]\n```"
    assert listings.page(f"1 [2.0, 3.0]\n{code}\n") == f"1\u00a0[2.0,\u00a03.0]\n{code}\n"
    assert "```text\nmethods\n" in listings.page("a\n<!-- list everything -->\nb")


def test_docstrings_become_markup() -> None:
    assert docstrings.text("`x_` of *any* kind|size_") == r"``x_`` of \*any\* kind\|size\_"
    assert docstrings.text("Shapes. Errors: `UserError`s.") == "Shapes.\n\n**Errors:** ``UserError``\\s."
    assert docstrings.text("Norms:\n- `a`, one\n  more\n- `b`") == "Norms:\n\n- ``a``, one\n  more\n- ``b``"
    assert docstrings.text("see docs/trust.md") == "see :doc:`/trust`"


def test_fields_are_as_written_with_their_limits_and_comments() -> None:
    epochs, batch, *_ = docstrings.fields(Training)
    assert (epochs, batch) == ("* ``epochs: int = 100`` -- at least 0", "* ``batch: int = 512`` -- at least 2")
    assert "* ``epoch: int`` -- from 0" in docstrings.fields(Batch)
    assert docstrings.fields(Threat)[0] == "* ``norm: Norm = 'linf'``"


def test_signatures_are_as_written_with_links() -> None:
    import robustcl

    arguments, answer = docstrings.signature(robustcl.evaluate)
    assert "threat: ~robustcl.models.threat.Threat" in arguments
    assert "attacks: Sequence[str | ~robustcl.bench.judge.Attack | Plain]=('pgd-20', 'autoattack')" in arguments
    assert answer == "~robustcl.reports.evaluation.Evaluation"
    assert docstrings.signature(Training) == ("", None)


@pytest.mark.skipif(SITE is None, reason="no site was built: tox -e docs")
def test_the_site_needs_no_network() -> None:
    pages = sorted(Path(str(SITE)).rglob("*.html"))
    assert {page.name for page in pages} >= {"index.html", "quickstart.html", "search.html"}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not REMOTE.search(text), page
