"""The only owner of the leaderboard: one row per encoder, scheme, data set and threat, in the order of the ranks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from robustcl.bench.findings import UNCHECKED
from robustcl.reports.folder import RunFolder
from robustcl.reports.style import NORMS
from robustcl.reports.table import CHANCE, RANDOM, Table

_PLACE = ("data", "norm", "eps", "scheme")
_WORST = ("ok", UNCHECKED, "suspect", "unreliable")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured accuracy as it is shown, in percent: its 95 % interval over images, its spread over seeds, its ranks.

    `ranks` are the best and the worst rank that the paired test leaves open (see `ranks`). None for what is not ranked.
    """

    value: float
    low: float
    high: float
    spread: float | None
    n: int
    ranks: tuple[int, int] | None

    @property
    def tied(self) -> bool:
        """Whether the test leaves more than one rank open."""
        return self.ranks is not None and self.ranks[0] != self.ranks[1]

    @property
    def standing(self) -> str:
        """The ranks in words; nothing for what is not ranked."""
        if self.ranks is None:
            return ""
        return f"tied {self.ranks[0]}\N{EN DASH}{self.ranks[1]}" if self.tied else f"rank {self.ranks[0]}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the leaderboard; `numbers` (judge -> number) is empty where the cell is not finished."""

    encoder: str
    method: str
    scheme: str
    data: str
    norm: str
    eps: str
    external: bool
    chance: float
    split: str
    seeds: int = 0
    reliability: str = UNCHECKED
    why: Sequence[str] = ()
    numbers: Mapping[str, Number] = field(default_factory=dict)

    @property
    def threat(self) -> str:
        """The threat for people, such as `l∞ 8/255` with the sign of the norm."""
        return f"{NORMS.get(self.norm, self.norm)} {self.eps}"

    @property
    def images(self) -> str:
        """How many images were judged, several where the judges differ."""
        return ", ".join(map(str, dict.fromkeys(number.n for number in self.numbers.values())))


def leaderboard(run: RunFolder, tables: Iterable[Table]) -> list[Row]:
    """The rows of all tables, each block (data set, threat, scheme) from its best row under the last judge on.

    What is not finished stands at the end of its block, behind it the random encoder. `tables` are those of `run`.
    """
    numbers = [part[part["kind"] == "measured"] for part in (table.numbers for table in tables)]
    measured = {_key(part): part for table in numbers for _, part in table.groupby([*_PLACE, "row"], sort=False)}
    cells: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell in run.cells:
        if cell["headline"]:
            key = (*(str(cell[name]) for name in _PLACE), str(cell["encoder"]))
            held = cells.setdefault(key, dict(cell))
            held["external"] = held.get("external", False) or _external(cell)
    rows = [_row(cell, measured.get(key)) for key, cell in cells.items()]
    blocks = list(dict.fromkeys(key[:-1] for key in cells))
    order = sorted(zip(cells, rows, strict=True), key=lambda of: (blocks.index(of[0][:-1]), _place(of[1])))
    return [row for _, row in order]


def _row(cell: Mapping[str, Any], measured: pd.DataFrame | None) -> Row:
    row = Row(
        **{name: str(cell[name]) for name in ("encoder", "method", *_PLACE)},  # type: ignore[arg-type]
        external=bool(cell["external"]),
        chance=100 / int(cell["classes"]),
        split=str(cell.get("terms", {}).get("split", "test")),
    )
    if measured is None:
        return row
    numbers = {}
    for of in measured.to_dict("records"):
        numbers[str(of["judge"])] = Number(
            value=100 * of["accuracy"],
            low=100 * of["low"],
            high=100 * of["high"],
            spread=None if math.isnan(of["spread"]) else 100 * of["spread"],
            n=int(of["n"]),
            ranks=None if pd.isna(of["rank"]) else (int(of["rank"]), int(of["last"])),
        )
    told = [str(text) for text in measured["reliability"]]
    return replace(
        row,
        seeds=int(measured["seeds"].max()),
        reliability=max(told, key=_WORST.index),
        why=list(dict.fromkeys(reason for text in measured["why"] for reason in str(text).split(" | ") if reason)),
        numbers=numbers,
    )


def _key(part: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(part[name].iloc[0]) for name in (*_PLACE, "row"))


def _place(row: Row) -> tuple[int, float]:
    """Where a row stands in its block."""
    last = list(row.numbers.values())[-1].value if row.numbers else 0.0
    return (row.encoder in (RANDOM, CHANCE)) + 2 * (not row.numbers), -last


def _external(cell: Mapping[str, Any]) -> bool:
    """Whether an encoder has seen data that is not of the suite."""
    told = cell.get("terms", {}).get("external_data")
    return bool(told) if told is not None else "external data" in str(cell["protocol"])
