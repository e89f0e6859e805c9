"""The only owner of what a figure is: a plug-in that draws what a run folder holds, and where its files are written."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from robustcl.models import plugin
from robustcl.reports import style
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN, CORRUPTIONS

PACKAGE = "robustcl.reports.figures"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A figure with the stem of its files and the numbers that it shows."""

    name: str
    figure: Figure
    data: pd.DataFrame


class Drawing(ABC):
    """One kind of figure; the first line of its docstring says what it shows, and from what.

    `needs` says what a run folder must hold, for one in which it is missing. A figure that is drawn from no run, the
    same for all of them, is `asked`: it is made where it is named, and is no part of a report.
    """

    needs: ClassVar[str] = ""
    asked: ClassVar[bool] = False

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
        for drawing in map(find, drawings() if only is None else only):
            for drawn in drawing.draw(run) if only is not None or not drawing.asked else ():
                paths += style.save(drawn.name, drawn.figure, drawn.data, Path(folder))
    return paths


def strongest(judges: Sequence[str]) -> str | None:
    """The judge to set against SA: AutoAttack where it was run, else the last attack there is."""
    attacks = [judge for judge in judges if judge not in (CLEAN, CORRUPTIONS)]
    return "autoattack" if "autoattack" in attacks else (attacks[-1] if attacks else None)


def named(stem: str, data: pd.DataFrame, columns: Sequence[str], several: bool) -> str:
    """The stem of the files of one of `several` figures of a kind: the kind's, then what tells this one apart."""
    parts = [str(data[column].iloc[0]) for column in columns] if several else []
    return "-".join([stem, *(_plain(part) for part in parts)])


def _plain(text: str) -> str:
    """A text as a part of a file's name: 8/255 as 8_255, a -> b as a-to-b, SLF (best val) as SLF-best-val."""
    return re.sub(r"[^\w.+=-]+", "-", text.replace("/", "_").replace(" -> ", "-to-")).strip("-")
