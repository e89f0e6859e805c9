"""The only owner of rounds: work is killed, and killed again as it goes on, until it ends; then it is compared."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from tests.faults.findings import Findings, damage, look, records
from tests.faults.kills import Child, Ended, Moment, drawn, wait
from tests.faults.scenes import Scene

_IN_A_ROW = 4  # kills of one piece of work, at most


@dataclass(kw_only=True)
class Tally:
    """What came of the kills of one kind. `wrong` says of everything that must not be where it was seen."""

    kind: str
    kills: int = 0
    before: int = 0  # nothing of it was there
    during: int = 0
    after: int = 0  # all was there, and the process still at work
    resumes: int = 0  # starts on what a kill had left
    rounds: int = 0
    equal: int = 0  # rounds that ended with the bytes of a run that nobody killed
    partial: int = 0  # stages seen that were not whole
    lost: int = 0  # records
    doubled: int = 0
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def row(self) -> dict[str, Any]:
        """The tally as a row of a table."""
        held = asdict(self)
        return {**held, "seconds": round(self.seconds, 1), "wrong": len(self.wrong)}


def campaign(
    scenes: Sequence[Scene], kills: int, seed: int, folder: Path, told: Callable[[Tally], None] = lambda tally: None
) -> list[Tally]:
    """So many kills of every kind of these scenes, in turns; the runs lie in `folder`, beside what they build on.

    `told` hears a tally after each round. A round draws from its own number, so that it is the same one in any campaign
    of the seed, as far as time is.
    """
    tallies = []
    for kind in dict.fromkeys(scene.kind for scene in scenes):
        tally, began = Tally(kind=kind), time.monotonic()
        rings = [Ring(scene, folder) for scene in scenes if scene.kind == kind]
        while tally.kills < kills and tally.rounds < 20 * kills and len(tally.wrong) < 20:
            ring = rings[tally.rounds % len(rings)]
            Round(ring, tally, seed).play()
            tally.rounds += 1
            tally.seconds = time.monotonic() - began
            told(tally)
        tallies.append(tally)
    return tallies


class Ring:
    """Where one scene is played, after it was played once without a kill."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self.base, self.place = scene, folder / "runs", folder / "round"
        self.said = [folder / f"said-{number}.txt" for number in range(scene.processes)]
        self.clear()
        for number in range(scene.processes):
            child = self.start(number, Moment(), 0)
            if wait(child) != "finished":
                raise RuntimeError(f"{scene.name}: without a kill it ended so:\n{self.said[number].read_text()}")
            self.seconds, self.operations = child.seconds, child.operations
        self.whole = self.found()
        self.records = records(self.place)

    def start(self, number: int, moment: Moment, draws: int) -> Child:
        """The process of this number, in a fork."""
        return Child(lambda: self.scene.work(self.place / "runs", number), moment, self.said[number], draws)

    def clear(self) -> None:
        """A new folder, with what the scene builds on."""
        shutil.rmtree(self.place, ignore_errors=True)
        (self.place / "runs").mkdir(parents=True)
        for stage in () if self.scene.apart else self.scene.before:
            link = self.place / "runs" / stage.kind / stage.key
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self.base / stage.kind / stage.key)

    def found(self) -> Findings:
        """What lies there. Of several processes, who came first has the first rows of a report."""
        return look(self.place, ordered=self.scene.processes == 1)


class Round:
    """Work that is killed up to four times, ends, and is compared; what is seen is counted in the tally."""

    def __init__(self, ring: Ring, tally: Tally, seed: int) -> None:
        self.ring, self.tally = ring, tally
        self.draws = random.Random(f"{seed} {ring.scene.name} {tally.rounds}")
        self.left = self.draws.randint(1, _IN_A_ROW)
        self.where = f"{ring.scene.name}, seed {seed}, round {tally.rounds}: after"
        self.moments: list[str] = []
        self.at_work: dict[int, Child] = {}

    def play(self) -> None:
        """Start all processes, and each again that was killed."""
        self.ring.clear()
        try:
            for number in range(self.ring.scene.processes):
                self._start(number)
            while self.at_work:
                for number, child in list(self.at_work.items()):
                    if number in self.at_work and (ended := child.ended()):
                        del self.at_work[number]
                        self._ended(number, child, ended)
                self._read()
                time.sleep(0.001)
        finally:  # who stops the campaign leaves nobody at work
            self._end()
        self._compare()

    def _start(self, number: int) -> None:
        ring = self.ring
        moment = drawn(self.draws, 1.1 * ring.seconds, ring.operations) if self.left > 0 else Moment()
        self.left -= 1
        self.at_work[number] = ring.start(number, moment, self.draws.getrandbits(32))

    def _ended(self, number: int, child: Child, ended: Ended) -> None:
        """Look at the store at once; who was killed is replaced, and where one fails all are stopped."""
        if ended == "killed":
            self.moments.append(str(child.moment))
            self._count()
            self._start(number)
        odd = damage(self.ring.place)
        self.tally.partial += len(odd)
        for line in odd:
            self._wrong(line)
        if ended in ("failed", "hangs"):
            self._wrong(f"{ended}: {self.ring.said[number].read_text()[-2000:]}")
            self._end()

    def _end(self) -> None:
        while self.at_work:
            self.at_work.popitem()[1].end()

    def _read(self) -> None:
        """Read the records beside several processes that write: whatever is there is whole."""
        runs = self.ring.place / "runs"
        if len(self.at_work) > 1 and (runs / "suite.json").exists():
            try:
                frame(runs)
            except UserError as error:
                self._wrong(f"a reader beside them: {error}")

    def _wrong(self, line: str) -> None:
        self.tally.wrong.append(f"{self.where} {', '.join(self.moments) or 'no kill'}: {line}")

    def _count(self) -> None:
        """One more kill, and where it came."""
        found, whole = self.ring.found(), self.ring.whole
        self.tally.kills += 1
        self.tally.resumes += 1
        if found.stages == whole.stages and not found.begun:
            self.tally.after += 1
        elif found.stages or found.begun:
            self.tally.during += 1
        else:
            self.tally.before += 1

    def _compare(self) -> None:
        """What is there in the end, beside what is there without a kill."""
        odd, rows = self.ring.found().unlike(self.ring.whole), records(self.ring.place)
        self.tally.equal += not odd
        for line in odd:
            self._wrong(line)
        for name, held in self.ring.records.items():
            there = rows.get(name, [])
            lost, doubled = len(set(held) - set(there)), len(there) - len(set(there))
            self.tally.lost += lost
            self.tally.doubled += doubled
            if lost or doubled:
                self._wrong(f"{name}: {lost} records lost, {doubled} doubled")
