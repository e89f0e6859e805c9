"""The only owner of the report of a run folder: its tables, figures and page, written in one step."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from robustcl.bench import locks
from robustcl.models.errors import UserError
from robustcl.models.whole import writable
from robustcl.reports import corruptions, drawing, matrix, page, writers
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import suite_of
from robustcl.reports.placing import placed

NOTHING = "no cell of the table is finished yet"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written: `text` is the table for the terminal, `paths` the files, all in `folder`; `page` is to be
    opened in a browser."""

    text: str
    folder: Path
    paths: tuple[Path, ...]
    page: Path

    def __str__(self) -> str:
        """The table, then where the files lie, each in several forms, then how to open the page."""
        names = dict.fromkeys(Path(path.relative_to(self.folder).parts[0]).stem for path in self.paths)
        return f"{self.text}\n\n{self.folder}: {', '.join(names)}\nopen {shlex.quote(str(self.page))}"


def report(runs: str | Path, folder: str | Path | None = None, site: str | Path | None = None) -> Report:
    """Write the tables, figures and page of the run folder `runs` into `folder`, by default `report` inside it.

    The folder `site` is given the same files, so that it can be copied to where others read it. Each file is replaced
    whole, and none before all of them could be written; files of other names stay. Cells that are not finished show as
    `-`. Errors: `UserError` as `frame`, where a folder cannot be written, and where a file that would be replaced in a
    folder of the caller's is of no report.
    """
    places = [Path(folder) if folder is not None else Path(runs) / "report"]
    places += [Path(site)] if site is not None and Path(site).resolve() != places[0].resolve() else []
    with _claimed(Path(runs)) if folder is None else nullcontext():
        return _report(RunFolder(Path(runs)), places)


@contextmanager
def _claimed(root: Path) -> Iterator[None]:
    """One report of a run folder at a time: what is written last has seen what all the others have."""
    suite_of(root)  # which refuses what is no run folder, before anything is written there
    with ExitStack() as stack:
        with writable(root):
            lock = root / ".locks" / "report"
            lock.parent.mkdir(exist_ok=True)  # hidden, and so lost in many a copy of a run folder
            stack.enter_context(locks.claimed(lock))
        yield


def _report(run: RunFolder, places: Sequence[Path]) -> Report:
    shown = run.tables  # what is damaged is said before anything is written
    with placed(places) as hidden:
        made = writers.save(shown, hidden)
        made += matrix.save(run.answers, hidden) + corruptions.save(run.finished, hidden)
        made += drawing.save(run, hidden)
        made += page.save(run, hidden, made)
        names = [path.relative_to(hidden) for path in made]
        for place in places:
            _refuse(place, () if place == run.root / "report" else names)
    text = "\n\n".join(writers.terminal(table) for table in shown)
    matrices = matrix.markdown(matrix.transfers(run.answers)).strip()
    return Report(
        text=f"{text}\n\n{matrices}".strip() or NOTHING,
        folder=places[0],
        paths=tuple(places[0] / name for name in names),
        page=places[-1] / page.INDEX,
    )


def _refuse(folder: Path, names: Iterable[Path]) -> None:
    """Never write over files of somebody else's, such as their `references.bib`. Errors: `UserError` for the first."""
    index = folder / page.INDEX
    ours = index.is_file() and page.OURS in index.read_text(encoding="utf-8", errors="replace")
    for path in (folder / name for name in names if not ours):
        if path.exists():
            raise UserError(f"{path}: of no report of robustcl, expected it out of the way, or another folder")
