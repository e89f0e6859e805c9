"""The documents of methods: the one that adds a method adds one that works, TOML is a suite's, papers have entries."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

import robustcl
from robustcl.bench.spec import read_suite
from robustcl.outline import listing
from robustcl.pretraining.method import PACKAGE, every, named
from tests.bench.tiny import write_suite
from tests.finetuned import every_scheme, scheme
from tests.golden import test_golden as golden
from tests.pretraining import test_conformance as conformance

ROOT = Path(__file__).resolve().parent.parent
ADDING = ROOT / "docs" / "adding-a-method.md"
METHODS = ROOT / "docs" / "methods.md"
PROTOCOLS = ROOT / "docs" / "protocols.md"
REFERENCES = ROOT / "reports" / "references.bib"
NEW = "one_view"
NEW_CASES = [NEW, f"{NEW}/one-step"]
ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n(.*?)^\}$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [str(block) for block in found]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method of the document among the methods, as the file that it is to be written to."""
    (block,) = blocks(ADDING, "python")
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / f"{NEW}.py").write_text(block)
    package = importlib.import_module(PACKAGE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    # What the import of the new file leaves behind goes away with the test.
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.{NEW}", None)
    monkeypatch.delitem(sys.modules, f"{PACKAGE}.{NEW}")
    monkeypatch.setattr(package, NEW, None, raising=False)
    importlib.invalidate_caches()


def test_the_document_adds_the_method_and_its_arm(added: None) -> None:
    assert [case for case in every() if case.partition("/")[0] == NEW] == NEW_CASES
    assert named(NEW_CASES[1]).units == 8


@pytest.mark.parametrize("case", NEW_CASES)
def test_the_new_method_conforms(added: None, case: str) -> None:
    conformance.test_it_trains_three_steps_to_the_same_bytes_again(case)
    conformance.test_what_is_frozen_stays_statistics_included(case)
    conformance.test_it_round_trips_through_its_table(case)
    conformance.test_what_it_deploys_is_there(case)
    conformance.test_it_says_what_it_is(case)
    conformance.test_what_lies_beside_gets_no_gradient(case)
    conformance.test_its_units_are_what_a_step_spends(case)


def test_the_new_method_gets_golden_numbers_as_the_document_says(added: None, tmp_path: Path) -> None:
    method, path = golden.method_of(NEW), tmp_path / f"{NEW}.csv"
    found = golden.curve(method)
    with pytest.raises(pytest.fail.Exception, match=f"no golden numbers for version 1; run again with {golden.FLAG}"):
        golden.compare(path, method.version, found, regenerate=False)
    with pytest.raises(pytest.fail.Exception, match="rewritten for version 1"):
        golden.compare(path, method.version, found, regenerate=True)
    golden.compare(path, method.version, found, regenerate=False)
    assert golden.FLAG in ADDING.read_text(encoding="utf-8")


def test_the_new_method_runs_in_a_suite(added: None, tmp_path: Path) -> None:
    (block,) = blocks(ADDING, "toml")
    report = robustcl.run(write_suite(tmp_path, more=block), runs=tmp_path / "runs", workers=1)
    rows = {line.split("|")[2].strip() for line in str(report).splitlines() if line.count("|") > 2}
    assert {"one_view", "quick"} <= rows, str(report)


def test_the_list_shows_the_new_method_as_the_document_does(added: None) -> None:
    (block,) = blocks(ADDING, "text")
    told = [line.split() for line in listing("methods").splitlines()]
    assert block.splitlines()
    assert all(line.split() in told for line in block.splitlines())


@pytest.mark.parametrize("document", [ADDING, METHODS], ids=lambda path: path.stem)
def test_every_block_of_toml_is_part_of_a_suite(added: None, document: Path, tmp_path: Path) -> None:
    found = blocks(document, "toml")
    assert found
    for number, block in enumerate(found):
        assert tomllib.loads(block)
        assert read_suite(write_suite(tmp_path, f"part{number}", block))


def test_every_method_has_its_place_in_the_document() -> None:
    text = METHODS.read_text(encoding="utf-8")
    missing = [name for name in {case.partition("/")[0] for case in every()} if f"\n### `{name}`" not in text]
    assert not missing, f"{METHODS.name} has no part on {missing}"


def test_the_fields_that_the_document_names_are_there() -> None:
    """Below the heading of a method, `field = value` in a code span is a setting that the method takes."""
    parts = re.split(r"^### `(\w+)`.*$", METHODS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        part = re.split(r"^## ", part, flags=re.MULTILINE)[0]
        for setting in re.findall(r"`([\w.]+ = [^`]+)`", part):
            table = tomllib.loads(setting)
            table.pop("labels", None)
            for role in named(name).facts.needs:
                table.pop(role, None)
            named(name, table)
    assert len(parts) > 3


def test_every_arm_is_in_the_document() -> None:
    text = METHODS.read_text(encoding="utf-8")
    missing = [case for case in every() if "/" in case and f"`{case}`" not in text]
    assert not missing


def test_every_test_and_file_that_the_document_names_is_there() -> None:
    text = METHODS.read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(f"def {test}(" in tests for test in re.findall(r"`(test_\w+)`", text))
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/[\w/.]+)`", text))
    assert all((METHODS.parent / link).exists() for link in re.findall(r"\]\(([^)]+)\)", text))


def test_every_key_that_the_document_names_is_an_entry() -> None:
    named_keys = re.findall(r"`([a-z]+20\d\d[a-z]+)`", METHODS.read_text(encoding="utf-8"))
    assert named_keys
    assert {*named_keys} <= {key for key, _ in entries()}


def entries() -> list[tuple[str, str]]:
    """The key and the fields of every entry of the BibTeX file."""
    return ENTRY.findall(REFERENCES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", [case for case in every() if "/" not in case])
def test_every_method_cites_one_entry(case: str) -> None:
    assert [key for key, _ in entries()].count(type(named(case)).cite) == 1


@pytest.mark.parametrize("case", every_scheme())
def test_every_scheme_cites_one_entry(case: str) -> None:
    assert [key for key, _ in entries()].count(type(scheme(case)).cite) == 1


def test_every_tool_and_part_has_an_entry() -> None:
    others = ["croce2020reliable", "croce2021robustbench", "yan2020clusterfit", "zhang2019trades", "robinson2021hcl"]
    assert {*others, "xu2023rcs"} <= {key for key, _ in entries()}


def test_entries_are_well_formed() -> None:
    text = REFERENCES.read_text(encoding="utf-8")
    keys = [key for key, _ in entries()]
    assert len(set(keys)) == len(keys) == text.count("@")
    depth = 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert 0 <= depth <= 3
    assert depth == 0
    for key, body in entries():
        fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*?)\},$", body, re.MULTILINE | re.DOTALL))
        assert {"author", "title", "booktitle", "year"} <= fields.keys(), key
        assert all(text.strip() for text in fields.values()), key
        assert re.fullmatch(r"20\d\d", fields["year"]), key
        assert fields["year"] == re.sub(r"\D", "", key)[:4], key
        assert all(author.count(",") == 1 for author in re.split(r"\s+and\s+", fields["author"])), key
        assert fields["author"].split(",")[0].lower() in key, key


def test_the_toml_of_the_protocols_is_that_of_a_suite(tmp_path: Path) -> None:
    profile, seeds = blocks(PROTOCOLS, "toml")
    path = write_suite(tmp_path, more="\n" + seeds)
    path.write_text(re.sub(r"\[finetune.SLF\]\n(.+\n)+", profile, path.read_text()))
    found = read_suite(path)
    assert [suite.seeds.finetune for suite in found] == [0, 1, 2]
    assert {suite.profile for suite in found} == {"robustssl"}
    assert found[0].finetune["AFF"].selection == ("last",)
