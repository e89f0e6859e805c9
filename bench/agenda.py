"""The only owner of which stage is next, in a store that other processes may be working at."""

import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence

from robustcl.bench.locks import Holder
from robustcl.bench.store import Stage, Store

_PAUSE = 0.5  # seconds between two looks at what others work at


class Agenda:
    """The stages that a store lacks, as many as its length says.

    Of those that are ready, the one on the costliest path (`cost` by key) is next, unless another process works at it.
    What others finish is noticed, and what they leave undone is ours again.
    """

    def __init__(self, stages: Sequence[Stage], store: Store, cost: Mapping[str, int]) -> None:
        there = store.finished(stages)
        lacking = {stage.key: stage for stage in stages if stage.key not in there}
        urgent = urgency(list(lacking.values()), cost)
        self._turn = {key: (-urgent[key], at) for at, key in enumerate(lacking)}
        self.store, self._left, self._said = store, lacking, Holder("", 0, "", alive=False)
        self._missing = {key: {p.key for p in s.parents.values() if p.key in lacking} for key, s in lacking.items()}
        self._children: dict[str, list[str]] = {key: [] for key in lacking}
        for key, parents in self._missing.items():
            for parent in parents:
                self._children[parent].append(key)
        self._ready = sorted((lacking[key] for key, parents in self._missing.items() if not parents), key=self._place)

    def __len__(self) -> int:
        return len(self._left)

    def next(self, count: int, elsewhere: Callable[[Stage], None]) -> list[Stage]:
        """Up to `count` stages that nobody works at; each is to be given to `done` or `back`.

        `elsewhere` hears of those that turn out to be finished.
        """
        found: list[Stage] = []
        at = 0
        while at < len(self._ready) and len(found) < count:
            stage = self._ready[at]
            if self.store.has(stage):
                del self._ready[at]
                self.done(stage)  # its children are no more urgent, and come behind
                elsewhere(stage)
            elif self._holder(stage):
                at += 1
            else:
                found.append(self._ready.pop(at))
        return found

    def done(self, stage: Stage) -> None:
        """The stage is finished."""
        del self._left[stage.key]
        for key in self._children[stage.key]:
            self._missing[key].discard(stage.key)
            if not self._missing[key]:
                insort(self._ready, self._left[key], key=self._place)

    def back(self, stage: Stage) -> None:
        """Another process was quicker."""
        insort(self._ready, stage, key=self._place)

    def rest(self, waiting: Callable[[Stage, Holder], None]) -> None:
        """Pause, as others work at all that is ready; `waiting` hears of the most urgent one, once for each holder."""
        for stage in self._ready[:1]:
            holder = self._holder(stage)
            if holder and holder != self._said:
                self._said = holder
                waiting(stage, holder)
        time.sleep(_PAUSE)

    def _holder(self, stage: Stage) -> Holder | None:
        """The process that works at the stage."""
        holder = self.store.holder(stage.kind, stage.key)
        return holder if holder and holder.alive else None

    def _place(self, stage: Stage) -> tuple[int, int]:
        return self._turn[stage.key]


def urgency(stages: Sequence[Stage], cost: Mapping[str, int]) -> dict[str, int]:
    """The cost of the costliest path from each stage to an end; parents come first in `stages`."""
    urgent = {stage.key: cost.get(stage.key, 0) for stage in stages}
    for stage in reversed(stages):
        for parent in stage.parents.values():
            if parent.key in urgent:
                urgent[parent.key] = max(urgent[parent.key], cost.get(parent.key, 0) + urgent[stage.key])
    return urgent
