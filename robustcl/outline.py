"""The only owner of what is told before anything starts: the plan with its cost, and what there is to choose from."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustcl.bench.autoattack.reference import MEMBERS
from robustcl.bench.data import datasets
from robustcl.bench.runner import Job
from robustcl.bench.schemes import schemes
from robustcl.bench.store import Stage
from robustcl.bench.tables import suites
from robustcl.models.architecture import PACKAGE as ARCHITECTURES
from robustcl.models.encoder import Encoder
from robustcl.models.errors import unknown
from robustcl.models.plugin import find, names
from robustcl.pretraining.method import PACKAGE as METHODS
from robustcl.pretraining.method import Method, every, named


def outline(job: Job) -> str:
    """The plan of a job: every stage, whether it is there, its passes, and an estimate from a measured pass."""
    rate = _passes_per_second(job)
    missing, cost = set(job.missing), job.plan.cost
    rows = [_row(stage, stage.key not in missing, cost.get(stage.key, 0)) for stage in job.plan.stages]
    left = sum(cost.get(key, 0) for key in missing)
    return "\n".join(
        [
            f"suite {job.name}: {len(job.plan.cells)} cells, {len(rows)} stages, {len(missing)} to make",
            f"run folder {job.place.store.root} (nothing was written)",
            "",
            f"{'stage':<52} {'state':<8} {'passes':>14}",
            *rows,
            "",
            f"at most {left:,} passes (AutoAttack ends early on what it breaks); "
            f"{rate:,.0f} passes/s measured on one thread: at most about {left / rate:,.0f} s of one core",
        ]
    )


def _row(stage: Stage, there: bool, passes: int) -> str:
    return f"{stage.label:<52} {'there' if there else 'to make':<8} {passes:>14,}"


def _passes_per_second(job: Job) -> float:
    """Forward passes of one image per second, from a few batches through the suite's encoder."""
    suite = job.points[0]
    train = job.place.library.part(suite.data, "train")
    encoder = Encoder(suite.architecture, train.shape, mean=suite.mean, std=suite.std).eval().to(job.place.device)
    images = train.take(slice(0, 256)).to(job.place.device).floats(slice(None))
    with torch.no_grad():
        encoder(images)
        began = time.perf_counter()
        for _ in range(5):
            float(encoder(images).sum())
    return 5 * len(images) / (time.perf_counter() - began)


def listing(kind: str | None) -> str:
    """What there is of one kind, or of all; of all, methods with their papers alone.

    Errors: `UserError` for an unknown kind.
    """
    kinds: Mapping[str, Any] = {
        "methods": lambda: {name: found.source for name, found in _methods().items()},
        "schemes": lambda: {name: f"trains {s.trains} on {s.objective}" for name, s in schemes().items()},
        "architectures": lambda: dict.fromkeys(names(ARCHITECTURES), ""),
        "attacks": lambda: {
            "pgd-<steps>": "projected gradient descent, such as pgd-20",
            "autoattack": f"AutoAttack standard: {', '.join(MEMBERS)}",
            **{str(member): "the member of AutoAttack alone" for member in MEMBERS},
        },
        "data": lambda: {name: (cls.__doc__ or "").splitlines()[0] for name, cls in datasets().items()},
        "suites": lambda: {name: _first_comment(path.read_text()) for name, path in suites().items()},
    }
    if kind is not None and kind not in kinds:
        raise unknown("ls", "kind", kind, kinds)
    if kind == "methods":
        return _methods_in_full()
    blocks = []
    for title in [kind] if kind else kinds:
        rows = [(name, text) for name, text in kinds[title]().items()]
        blocks.append("\n".join([title, *_aligned(rows)]))
    return "\n\n".join(blocks)


def _methods() -> dict[str, type[Method]]:
    return {name: find(METHODS, "method", name, Method, "ls") for name in names(METHODS)}


def _methods_in_full() -> str:
    """Cost and routes of every method and arm, what it attacks, the paper of every method, and what the words mean."""
    facts = [("method", "units", "labels", "needs", "routes"), *map(_facts, every())]
    attacks = [("method", "perturbs", "maximises"), *map(_attack, every())]
    papers = [("method", "paper", "BibTeX key"), *((name, m.source, m.cite) for name, m in _methods().items())]
    return "\n".join(
        [
            "methods",
            *_aligned(facts),
            "",
            "attacks",
            *_aligned(attacks),
            "",
            "papers",
            *_aligned(papers),
            "",
            'acl/A2S is an arm; in a suite: method = "acl", arm = "A2S".',
            "units: passes per image and epoch",
            "  (a forward is 1, an input gradient 1, a full backward 2; SimCLR is 6)",
            "*: the route that is finetuned and judged",
        ]
    )


def _facts(case: str) -> tuple[str, ...]:
    """A row of the first table of methods. What a method has none of is a dash."""
    method = named(case)
    facts = method.facts
    routes = ", ".join(f"*{route}" if route == facts.deploy else route for route in method.routes)
    copy = "" if facts.network == "trained" else f", {facts.network} copy"
    return (case, f"{facts.units:.4g}", facts.supervision, ", ".join(facts.needs) or "-", routes + copy)


def _attack(case: str) -> tuple[str, ...]:
    facts = named(case).facts
    return (case, facts.perturbs or "-", facts.maximises or "-")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with their columns below one another, two spaces apart; nothing is cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    return ["  " + "  ".join(text.ljust(width) for text, width in row).rstrip() for row in padded]


def _first_comment(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first.removeprefix("#").strip()
