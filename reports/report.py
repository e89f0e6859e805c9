"""The only owner of the report of a run folder: its tables and figures, written in one step."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from robustcl.models.errors import UserError
from robustcl.reports import corruptions, drawing, matrix, writers
from robustcl.reports.folder import RunFolder

NOTHING = "no cell of the table is finished yet"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written: `text` is the table for the terminal, `paths` the files, all in `folder`."""

    text: str
    folder: Path
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        """The table, then where the files lie."""
        names = ", ".join(path.name for path in self.paths)
        return f"{self.text}\n\n{self.folder}: {names or 'no files'}"


def report(runs: str | Path, folder: str | Path | None = None) -> Report:
    """Write the tables and figures of the run folder `runs` into `folder`, by default `report` inside it.

    Each file is replaced whole, and none before all of them could be written. Cells that are not finished show as `-`.
    Errors: `UserError` as `frame`, and where `folder` cannot be written.
    """
    run = RunFolder(Path(runs))
    records = run.records
    target = Path(folder) if folder is not None else Path(runs) / "report"
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as hidden:
            made = writers.save(records, hidden, run.suite)
            made += [path for part in (matrix, corruptions) for path in part.save(records, hidden)]
            made += drawing.save(run, hidden)
            paths = tuple(path.replace(target / path.name) for path in made)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}), expected a writable folder") from None
    text = "\n\n".join(writers.terminal(table) for table in run.tables)
    matrices = matrix.markdown(matrix.transfers(records)).strip()
    return Report(text=f"{text}\n\n{matrices}".strip() or NOTHING, folder=target, paths=paths)
