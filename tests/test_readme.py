"""The only owner of the README: its blocks run, its table is that of the records, it leads to every part."""

import re
from pathlib import Path

import pytest

from tests.blocks import RECORDS, ROOT, SET_UP, Block, blocks, desk, parts, place, python_source, run, shell_source

README = ROOT / "README.md"
PARTS = [part for document in (README, ROOT / "CONTRIBUTING.md") for part in parts(document)]

TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return desk(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("part", PARTS, ids=place)
def test_block_runs(part: list[Block], here: Path) -> None:
    run(part, here)


def test_readme_opens_with_a_figure_and_the_table_of_a_real_run(request: pytest.FixtureRequest) -> None:
    text = README.read_text(encoding="utf-8")
    opening, rest = text.split("\n## ", 1)
    assert f"]({RECORDS.relative_to(ROOT).as_posix()}/clean-against-robust.png)" in opening
    assert all(said in opening for said in ("300 test images", "95 % Wilson intervals", "one seed"))
    table = (RECORDS / "table.md").read_text(encoding="utf-8").partition("\n\n")[0]
    if table not in opening:
        if request.config.getoption("--regenerate-golden"):
            opening = TABLE.sub(lambda _: table + "\n", opening, count=1)
            README.write_text(f"{opening}\n## {rest}", encoding="utf-8")
        pytest.fail("the table is not that of its run folder; run again with --regenerate-golden, which rewrites it")


def test_readme_shows_how_to_run_and_to_test_first() -> None:
    text = README.read_text(encoding="utf-8")
    first, second = re.findall(r"```bash\n(.+)\n```", text)[:2]
    assert first.endswith("&& robustcl run quickstart")
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {block.language for block in blocks(README)} >= {"python"}


def test_blocks_are_found(tmp_path: Path) -> None:
    def fence(language: str, *lines: str) -> list[str]:
        return [f"```{language}", *lines, "```", ""]

    text = [SET_UP, *fence("bash", "exit 1"), *fence("python", "x = 1"), *fence("text", "no")]
    text += [*fence("python", "assert x == 1"), *fence("console", "$ echo hello", "hello"), *fence("bash", "true")]
    document = tmp_path / "page.md"
    document.write_text("\n".join([*text, *fence("python", "y = 2")]))
    first, console, bash, last = parts(document)
    assert [block.first for block in first] == [7, 15]
    assert python_source(first).splitlines()[14] == "assert x == 1"
    assert [shell_source(*part) for part in (console, bash)] == ["echo hello\n", "true\n"]
    assert last[0].lines == ["y = 2"]
