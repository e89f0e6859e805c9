"""The only owner of the report of a run folder: its tables, figures and page, written in one step."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from robustcl.reports import corruptions, drawing, matrix, page, writers
from robustcl.reports.folder import RunFolder
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
    `-`. Errors: `UserError` as `frame`, and where a folder cannot be written.
    """
    run = RunFolder(Path(runs))
    records = run.records
    places = [Path(folder) if folder is not None else run.root / "report"]
    places += [Path(site)] if site is not None and Path(site).resolve() != places[0].resolve() else []
    with placed(places) as hidden:
        made = writers.save(run.tables, hidden)
        made += [path for part in (matrix, corruptions) for path in part.save(records, hidden)]
        made += drawing.save(run, hidden)
        made += page.save(run, hidden, made)
    text = "\n\n".join(writers.terminal(table) for table in run.tables)
    matrices = matrix.markdown(matrix.transfers(records)).strip()
    return Report(
        text=f"{text}\n\n{matrices}".strip() or NOTHING,
        folder=places[0],
        paths=tuple(places[0] / path.relative_to(hidden) for path in made),
        page=places[-1] / page.INDEX,
    )
