"""The only owner of what a figure is: a plug-in that draws what a run folder holds, and where its files are written."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robustcl.models import plugin
from robustcl.reports import style
from robustcl.reports.folder import RunFolder

PACKAGE = "robustcl.reports.figures"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A figure with the stem of its files and the numbers that it shows."""

    name: str
    figure: Figure
    data: pd.DataFrame


class Drawing(ABC):
    """One kind of figure; the first line of its docstring says what it shows, and from what."""

    @abstractmethod
    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """Every figure of this kind that the run folder allows, none where it lacks what this kind needs.

        Called inside `style.style()`.
        """


def drawings() -> list[str]:
    """The names of the figures there are, such as `accuracy-against-eps`."""
    return [name.replace("_", "-") for name in plugin.names(PACKAGE)]


def find(name: str) -> Drawing:
    """The figure of a name. Errors: `UserError` with the nearest name."""
    return plugin.find(PACKAGE, "figure", name.replace("-", "_"), Drawing, "figure")()


def save(run: RunFolder, folder: str | Path, only: Sequence[str] | None = None) -> list[Path]:
    """Write every figure that the run folder allows, or `only` those named, as PNG, SVG, PDF and CSV: the paths.

    With several data sets, norms or threats each has its own files, told apart by their names.
    """
    paths = []
    with style.style():
        for name in drawings() if only is None else only:
            for drawn in find(name).draw(run):
                paths += style.save(drawn.name, drawn.figure, drawn.data, Path(folder))
    return paths


def named(stem: str, data: pd.DataFrame, columns: Sequence[str], several: bool) -> str:
    """The stem of the files of one of `several` figures of a kind: the kind's, then what tells this one apart."""
    parts = (
        [str(data[column].iloc[0]).replace("/", "_").replace(" -> ", "-to-") for column in columns] if several else []
    )
    return "-".join([stem, *parts])
