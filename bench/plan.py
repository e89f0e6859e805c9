"""The only owner of the plan of a suite: its cells, and the graph of stages they need, each stage once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustcl.bench.draft import Draft
from robustcl.bench.files import Files
from robustcl.bench.library import Library
from robustcl.bench.probing import Entry, listed
from robustcl.bench.rows import Cell, joined
from robustcl.bench.store import Stage
from robustcl.bench.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite comes to: the cells of its table, the stages in an order that respects their parents, their cost.

    `cost` counts forward-equivalents of one image; for a judge it is the most it can take. `files` are the user's own
    that stages read, by the SHA-256 of their content: keys know them by that alone.
    `given` says where classifiers from outside come from, by their weights; `probes` are the entries of `suite.json`.
    """

    cells: Sequence[Cell]
    stages: Sequence[Stage]
    cost: dict[str, int]
    probes: Sequence[Entry] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def plan(points: Sequence[Suite], library: Library) -> Plan:
    """The plan of a suite's points on the images of their data sets, which the library loads."""
    files = Files()
    drafts = [Draft(suite, library, files) for suite in points]
    cells = joined([list(draft.cells()) for draft in drafts], [draft.suite.point for draft in drafts])
    probes = listed([(entry, draft.suite.point) for draft in drafts for entry in draft.probes()])
    stages: dict[str, Stage] = {}
    cost: dict[str, int] = {}
    for draft in drafts:
        for stage in draft.ends:
            enter(stage, stages)
        cost |= draft.cost
    return Plan(
        cells=cells,
        stages=list(stages.values()),
        cost=cost,
        probes=probes,
        files=files.known,
        given=files.given,
    )


def enter(stage: Stage, known: dict[str, Stage]) -> None:
    """Enter the stage behind its parents; what is known already is not walked again."""
    if stage.key not in known:
        for parent in stage.parents.values():
            enter(parent, known)
        known[stage.key] = stage
