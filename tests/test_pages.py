"""The only owner of running the pages below docs/: every block of code, as a reader would."""

from pathlib import Path

import pytest

from tests.blocks import ROOT, Block, desk_after_a_run, parts, place, run

DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
PARTS = [part for document in DOCUMENTS for part in parts(document)]


@pytest.fixture(scope="module")
def desks(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """A folder per page, in which its blocks run one after another."""
    return {
        part[0].document: desk_after_a_run(tmp_path_factory.mktemp(part[0].document.stem)) for part in one_per_page()
    }


def one_per_page() -> list[list[Block]]:
    return list({part[0].document: part for part in PARTS}.values())


@pytest.mark.parametrize("part", PARTS, ids=place)
def test_block_runs(part: list[Block], desks: dict[Path, Path]) -> None:
    run(part, desks[part[0].document])


def test_pages_in_folders_are_found() -> None:
    assert {"docs", "results"} <= {part[0].document.parent.name for part in PARTS}
