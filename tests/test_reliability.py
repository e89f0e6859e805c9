"""docs/reliability.md names tests that are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def named() -> list[tuple[str, str]]:
    """(file, test) for every test that the page names; `::test_b` is of the file named before, in its line."""
    found, last = [], ""
    for name in re.findall(r"`([\w/.]*(?:test_\w+\.py)?(?:::test_\w+)?)`", TEXT):
        path, _, test = name.partition("::")
        if path.endswith(".py") or test:
            last = path or last
            found.append((last, test))
    return found


@cache
def functions(name: str) -> set[str]:
    """The functions of the one test file with this name, or path."""
    (path,) = [ROOT / name] if "/" in name else sorted((ROOT / "tests").rglob(name))
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_page_names_many() -> None:
    assert len(named()) > 60


@pytest.mark.parametrize(("file", "test"), named())
def test_what_the_page_names_is_there(file: str, test: str) -> None:
    assert not test or test in functions(file), f"docs/reliability.md: no {test} in {file}"
