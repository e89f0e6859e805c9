"""The only owner of the tests of the report: everything is written, or nothing; the same records, the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustcl.models.errors import UserError
from robustcl.reports import drawing
from robustcl.reports.report import report
from robustcl.reports.writers import terminal
from tests.reports.synthetic import JUDGES, answers, cell, plausible, write_run
from tests.reports.test_table import made

STEMS = (
    "accuracy-against-eps", "accuracy-against-steps", "clean-against-robust", "gap", "per-class-SLF", "per-class-AFF",
)  # fmt: skip
FILES = {f"table.{kind}" for kind in ("txt", "md", "csv", "tex", "html")}
SITE = {"index.html", "references.bib", "encoders"}
FILES |= SITE | {f"{stem}.{kind}" for stem in STEMS for kind in ("png", "svg", "pdf", "csv")}
ROOT = Path(__file__).resolve().parents[2]
TEN = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)


def test_same_records_give_the_same_bytes_without_torch(tmp_path: Path) -> None:
    """Two processes at two times: hash seeds, dates and time zones must not show."""
    runs = plausible(tmp_path / "runs", encoders=("random", "advcl"), n=40, radii=3)
    mine = report(runs)
    assert mine.folder == runs / "report"
    assert {path.name for path in mine.folder.iterdir()} == FILES
    assert set(mine.paths) == {path for path in mine.folder.rglob("*") if path.is_file()}
    code = (
        "import sys\nfrom robustcl.reports.report import report\n"
        f"made = report({str(runs)!r}, {str(tmp_path / 'again')!r})\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\nprint(made, end='')"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(tmp_path / "again"), str(mine.folder)) == str(mine)
    for path in mine.paths:
        assert (tmp_path / "again" / path.relative_to(mine.folder)).read_bytes() == path.read_bytes(), path.name


def test_the_text_is_the_table_and_where_the_files_lie(tmp_path: Path) -> None:
    (table,) = made(tmp_path, (cell("advcl", "SLF"), TEN))
    written = report(tmp_path / "runs", tmp_path / "out")
    assert written.text == terminal(table)
    head, _, tail = str(written).rpartition("\n\n")
    assert head == terminal(table)
    assert tail.endswith(f"\nopen {tmp_path / 'out' / 'index.html'}")
    assert tail.startswith(f"{tmp_path / 'out'}: table, accuracy-against-steps, ")


def test_an_unstarted_run_has_an_empty_report(tmp_path: Path) -> None:
    written = report(write_run(tmp_path / "runs", [(cell("advcl", "SLF"), None)]))
    folder = tmp_path / "runs" / "report"
    assert {path.name for path in folder.iterdir()} == SITE
    assert str(written).splitlines() == [
        "no cell of the table is finished yet",
        "",
        f"{folder}: index, references, encoders",
        f"open {folder / 'index.html'}",
    ]


def test_a_failure_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), TEN)])
    before = {path: path.read_bytes() for path in report(runs).paths}
    write_run(runs, [(cell("advcl", "SLF"), TEN), (cell("at", "SLF"), TEN)])

    def full(*_: object) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing, "save", full)
    with pytest.raises(UserError, match=r"report: cannot be written \(No space left on device\)"):
        report(runs)
    assert {path: path.read_bytes() for path in (runs / "report").rglob("*") if path.is_file()} == before


def test_no_run_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), TEN)])
    (runs / "report").write_text("in the way")
    with pytest.raises(UserError, match=r"report: cannot be written \(.*\), expected a writable folder$"):
        report(runs)


@pytest.mark.parametrize("name", ["references.bib", "index.html"])
def test_files_of_others_are_never_replaced(tmp_path: Path, name: str) -> None:
    runs, site = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), None)]), tmp_path / "paper"
    site.mkdir()
    (site / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: of no report of robustcl"):
        report(runs, site=site)
    assert [(path.name, path.read_text()) for path in site.iterdir()] == [(name, "mine")]
    (site / name).unlink()
    assert report(runs, site=site).page == report(runs, site=site).page  # its own files are replaced
