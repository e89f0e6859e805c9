"""The only owner of what people see while stages run: a progress display on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robustcl.bench.locks import Holder
from robustcl.bench.stages import told
from robustcl.bench.store import Stage, Store

QUIET_SECONDS = 15.0  # a long stage says at least this often how far it is, where there is no terminal


class Display:
    """Follows the stages of a run (see `robustcl.bench.executors.Watch`); use it as a context manager.

    The estimate weighs stages by their counted cost, which for a judge is the most it can take.
    """

    def __init__(self, cost: Mapping[str, int], missing: list[str], store: Store, *, quiet: bool = False) -> None:
        self.console, self.store = Console(stderr=True, quiet=quiet), store
        self.cost, self.count, self.total = cost, len(missing), max(1, sum(cost.get(key, 1) for key in missing))
        self.spent: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.said: dict[str, float] = {}
        self.bars: dict[str, TaskID] = {}
        self.finished_count, self.start, self.lock = 0, time.monotonic(), threading.Lock()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        self.whole = self.progress.add_task("all stages", total=self.total)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere stopping would print an empty line
            self.progress.stop()

    def started(self, stage: Stage) -> None:
        """The stage has begun."""
        with self.lock:
            self.begun[stage.key] = self.said[stage.key] = time.monotonic()
            self.bars[stage.key] = self.progress.add_task(stage.label, total=1.0)

    def moved(self, stage: Stage, done: int, total: int) -> None:
        """So much of the stage is done."""
        with self.lock:
            self._spend(stage, done / max(1, total))
            now = time.monotonic()
            if not self.console.is_terminal and now - self.said[stage.key] > QUIET_SECONDS:
                self.said[stage.key] = now
                self._line(f"        {stage.label}: {done}/{total}, {self._left()}")

    def finished(self, stage: Stage) -> None:
        """The stage lies in the store; one that has not begun here was made by another process."""
        with self.lock:
            self._spend(stage, 1.0)
            self.finished_count += 1
            took = "another process"
            if stage.key in self.bars:
                self.progress.remove_task(self.bars.pop(stage.key))
                took = f"{time.monotonic() - self.begun[stage.key]:.1f} s"
            left = "" if self.console.is_terminal else f", {self._left()}"
            self._line(f"[{self.finished_count:>3}/{self.count}] {stage.label} ({took}){left}")
            for line in told(stage, self.store):
                self._line(f"        {stage.label}: {line}")

    def waiting(self, stage: Stage, holder: Holder) -> None:
        """There is nothing to do before another process is through with the stage, or gone."""
        with self.lock:
            self._line(f"        {stage.label}: process {holder.pid} on {holder.host} works at it; waiting for it")

    def _spend(self, stage: Stage, share: float) -> None:
        self.spent[stage.key] = share * self.cost.get(stage.key, 1)
        self.progress.update(self.whole, completed=sum(self.spent.values()))
        if stage.key in self.bars:
            self.progress.update(self.bars[stage.key], completed=share)

    def _left(self) -> str:
        done = sum(self.spent.values()) / self.total
        if done < 0.005:
            return "too early for an estimate"
        seconds = (time.monotonic() - self.start) * (1 - done) / max(done, 1e-9)
        return f"{done:.0%} of all passes, at most about {seconds:.0f} s left"

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
