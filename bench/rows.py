"""The only owner of which cells of a grid are one row: what no axis touches is there once, under its plain name."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustcl.bench.suite import RANDOM

Cell = dict[str, Any]


def joined(drafts: Sequence[Sequence[Cell]], points: Sequence[str]) -> list[Cell]:
    """The cells of all points of a suite, `drafts` in the order of `points`.

    Each data set with each combination of seeds is a grid of its own.
    """
    grids: dict[tuple[Any, ...], dict[int, list[Cell]]] = {}
    for number, cells in enumerate(drafts):
        for cell in cells:
            grids.setdefault(_grid(cell), {}).setdefault(number, []).append(cell)
    parts = (_shown(list(of.values()), [points[number] for number in of]) for of in grids.values())
    return [cell for part in parts for cell in part]


def _grid(cell: Cell) -> tuple[Any, ...]:
    return (cell["data"], *cell["seeds"].items())


def _shown(drafts: Sequence[Sequence[Cell]], points: Sequence[str]) -> list[Cell]:
    rows: dict[str, list[set[str]]] = {}  # plain name -> the stages of its cells, point by point
    for number, (cells, point) in enumerate(zip(drafts, points, strict=True)):
        for cell in cells:
            rows.setdefault(_plain(cell, point), [set() for _ in points])[number].add(cell["stage"])
    untouched = {name for name, stages in rows.items() if all(of == stages[0] for of in stages)}
    found: dict[tuple[str, str], tuple[Cell, str]] = {}
    for cells, point in zip(drafts, points, strict=True):
        for cell in cells:
            name = _plain(cell, point)
            if name in untouched:
                cell["encoder"] = name
            held, _ = found.setdefault((cell["encoder"], cell["stage"]), (cell, point))
            held["headline"] |= cell["headline"]  # what one point has in its sweep may be the table of another
            if "corrupt" in cell:  # which a sweep has not
                held |= {name: cell[name] for name in ("judges", "corrupt")}
    _tell_apart(list(found.values()))
    return [cell for cell, _ in found.values()]


def _plain(cell: Mapping[str, Any], point: str) -> str:
    """The encoder of a cell without the point of its grid."""
    return str(cell["encoder"]).removesuffix(f" ({point})")


def _tell_apart(cells: Sequence[tuple[Cell, str]]) -> None:
    """Where a grid goes over finetuning or judging, the random encoder has a row for each point too."""
    same: dict[tuple[str, str, str], list[tuple[Cell, str]]] = {}
    for cell, point in cells:
        if cell["encoder"] == RANDOM:
            same.setdefault((cell["scheme"], cell["norm"], cell["eps"]), []).append((cell, point))
    for rows in same.values():
        for cell, point in rows if len(rows) > 1 else []:
            cell["encoder"] = f"{RANDOM} ({point})"
