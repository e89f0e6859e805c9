"""The only owner of running the pages below docs/: every block of code, as a reader would."""

from pathlib import Path

import pytest

from tests.blocks import ROOT, Block, desk_after_a_run, parts, place, run

DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
PARTS = [part for document in DOCUMENTS for part in parts(document)]


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """A folder per page, in which its blocks run one after another."""
    pages = {part[0].document for part in PARTS}
    return {page: desk_after_a_run(tmp_path_factory.mktemp(page.stem)) for page in pages}


@pytest.mark.parametrize("part", PARTS, ids=place)
def test_block_runs(part: list[Block], desks: dict[Path, Path]) -> None:
    run(part, desks[part[0].document])


def test_pages_in_folders_are_found() -> None:
    assert {"docs", "results"} <= {part[0].document.parent.name for part in PARTS}
