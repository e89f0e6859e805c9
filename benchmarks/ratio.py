"""The only owner of how costs are compared: candidates interleaved in one process, their ratio beside its goal, tables.

A time is the CPU time of this process. Whatever else the machine does moves both sides of a ratio alike, since the
candidates of a round run one after the other and a ratio is taken within its round; the order rotates from round to
round, so that none always follows the same other.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from robustcl.reports.writers import grid

Candidates = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]

HEADS = ["goal", "what", "peer", "metric", "found", "spread", "rounds", "wanted", "met"]


def interleave(candidates: Candidates, rounds: int) -> Times:
    """Seconds of CPU time of each candidate in each of the `rounds`, after one round that warms up and is not counted.

    A candidate that takes less than some 20 ms should repeat its work: the clock and the call are in its time too.
    """
    names = list(candidates)
    times: Times = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.process_time()
            candidates[name]()
            took = time.process_time() - began
            if number:
                times[name].append(took)
    return times


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One line of the table: `what` of ours beside a `peer`, by a `metric`.

    Of kind `times`, `ratios` are the peer's time over ours, one per round: 2 is half of the time, and `goal` is the
    least that is wanted. Of kind `count`, `ratios` is one number that has no spread (passes, differences, FLOPs), and
    `goal` is the most that is wanted. Without `ratios` the line was not measured, and `note` says why. `number` is that
    of the goal in docs/benchmarks.md, None for a line that belongs to none; `goal` is None for a line that is told for
    information.
    """

    number: int | None
    what: str
    peer: str
    metric: str = "CPU time"
    goal: float | None = None
    ratios: tuple[float, ...] = ()
    kind: Literal["times", "count"] = "times"
    note: str = ""

    @property
    def rounds(self) -> int:
        """How many rounds were counted; a count has one."""
        return len(self.ratios)

    @property
    def median(self) -> float:
        """The median over the rounds. Errors: `StatisticsError` for a line that was not measured."""
        return median(self.ratios)

    @property
    def low(self) -> float:
        """The lowest round."""
        return min(self.ratios)

    @property
    def high(self) -> float:
        """The highest round."""
        return max(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal or without a measurement."""
        if self.goal is None or not self.ratios:
            return None
        return self.median >= self.goal if self.kind == "times" else self.median <= self.goal

    def cells(self) -> list[str]:
        """The line under `HEADS`."""
        number = "" if self.number is None else str(self.number)
        timed = self.kind == "times"
        wanted = "" if self.goal is None else f">= {self.goal:g}x" if timed else f"<= {self.goal:g}"
        met = {True: "yes", False: "no", None: ""}[self.met]
        found = spread = ""
        if self.ratios:
            found = f"{self.median:.2f}x" if timed else f"{self.median:.5g}"
            spread = f"{self.low:.2f} to {self.high:.2f}" if timed else "exact"
        said = f"{self.metric}; {self.note}" if self.note else self.metric
        rounds = str(self.rounds) if self.ratios and timed else ""
        return [number, self.what, self.peer, said, found, spread, rounds, wanted, met]


def against(times: Times, ours: str, peer: str) -> tuple[float, ...]:
    """The time of `peer` over that of `ours`, round by round: what a `Ratio` of kind `times` holds."""
    return tuple(other / own for own, other in zip(times[ours], times[peer], strict=True))


def compared(lines: Iterable[Ratio], times: Times, ours: str) -> list[Ratio]:
    """The lines with their ratios, from the times of `ours` and of a candidate named as each line's peer."""
    return [
        replace(line, ratios=against(times, ours, line.peer)) if {ours, line.peer} <= times.keys() else line
        for line in lines
    ]


def table(ratios: Iterable[Ratio]) -> str:
    """The lines as Markdown that reads well on a terminal, in the order of their goals."""
    ordered = sorted(ratios, key=lambda ratio: (ratio.number is None, ratio.number or 0))
    return grid(HEADS, [ratio.cells() for ratio in ordered], names=4)


def summary(ratios: Iterable[Ratio]) -> str:
    """How many goals were met, of those that were measured, and which lines were not."""
    known = list(ratios)
    asked = [ratio for ratio in known if ratio.goal is not None]
    met, missed = (sum(ratio.met is state for ratio in asked) for state in (True, False))
    unmeasured = sum(ratio.met is None for ratio in asked)
    tail = f", {unmeasured} not measured" if unmeasured else ""
    return f"{met} of {met + missed} wanted numbers reached{tail}."
