"""The only owner of what is told before anything starts: the plan with its cost, and what there is to choose from."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustcl.bench.data import datasets
from robustcl.bench.forms import known
from robustcl.bench.pace import Pace, measure, span
from robustcl.bench.probe import probes
from robustcl.bench.profiles import PROFILES, schemes
from robustcl.bench.runner import Job
from robustcl.bench.store import Stage, Store
from robustcl.bench.tables import suites
from robustcl.models.architecture import PACKAGE as ARCHITECTURES
from robustcl.models.encoder import Encoder
from robustcl.models.errors import unknown
from robustcl.models.layouts import LAYOUTS
from robustcl.models.plugin import find, names
from robustcl.pretraining.method import PACKAGE as METHODS
from robustcl.pretraining.method import Method, every, named


def outline(job: Job) -> str:
    """The plan of a job: every stage, whether it is there, its passes, and an estimate from a measured pass."""
    head = f"suite {job.name}: {len(job.plan.cells)} cells, {len(job.plan.stages)} stages, {len(job.missing)} to make"
    return planned(head, job.plan.stages, job.plan.cost, job.place.store, estimate(job))


def planned(head: str, stages: Sequence[Stage], cost: Mapping[str, int], store: Store, foot: str) -> str:
    """A plan that was not begun: its stages, which of them are there, their passes, and an estimate."""
    rows = [
        f"{stage.label:<52} {'there' if store.has(stage) else 'to make':<8} {cost.get(stage.key, 0):>14,}"
        for stage in stages
    ]
    folder = f"run folder {store.root} (nothing was written)"
    return "\n".join([head, folder, "", f"{'stage':<52} {'state':<8} {'passes':>14}", *rows, "", foot])


def estimate(job: Job) -> str:
    """How long the missing stages of a job take on one core, from a pass of the suite's encoder over its images."""
    suite = job.points[0]
    train = job.place.library.part(suite.data, "train").take(slice(0, 64)).to(job.place.device)
    encoder = Encoder(suite.architecture, train.shape, mean=suite.mean, std=suite.std).eval().to(job.place.device)
    pace, missing, cost = measure(encoder, train.floats(slice(None))), set(job.missing), job.plan.cost
    judged = [stage.part for stage in job.plan.stages if stage.key in missing and stage.kind == "evaluate"]
    trained = sum(cost.get(s.key, 0) for s in job.plan.stages if s.key in missing and s.kind != "evaluate")
    low = pace.fastest(trained) + sum(pace.least(part["images"], len(part["judges"])) for part in judged)
    return told(sum(cost.get(key, 0) for key in missing), low, pace)


def told(passes: int, low: float, pace: Pace) -> str:
    """An estimate as a line: passes at most, and the time from where all breaks at once to where nothing does."""
    return (
        f"at most {passes:,} passes: {span(low, pace.seconds(passes))} of one device or core for the passes alone "
        f"(all broken at once to nothing broken; measured {1e3 * pace.forward:.3g} ms an image forward, "
        f"{1e3 * pace.gradient:.3g} ms with its gradient)"
    )


def listing(kind: str | None) -> str:
    """What there is of one kind, or of all; of all, methods with their papers alone.

    Errors: `UserError` for an unknown kind.
    """
    kinds: Mapping[str, Any] = {
        "methods": lambda: {name: found.source for name, found in _methods().items()},
        "schemes": _schemes,
        "architectures": lambda: dict.fromkeys(names(ARCHITECTURES), ""),
        "attacks": known,
        "data": lambda: {name: (cls.__doc__ or "").splitlines()[0] for name, cls in datasets().items()},
        "probes": lambda: {name: (cls.__doc__ or "").splitlines()[0] for name, cls in probes().items()},
        "layouts": lambda: {layout.name: layout.said for layout in LAYOUTS},
        "suites": lambda: {name: _first_comment(path.read_text()) for name, path in suites().items()},
        "figures": _figures,
    }
    if kind is not None and kind not in kinds:
        raise unknown("ls", "kind", kind, [*kinds, "runs"])
    if kind == "methods":
        return _methods_in_full()
    blocks = []
    for title in [kind] if kind else kinds:
        rows = [(name, text) for name, text in kinds[title]().items()]
        blocks.append("\n".join([title, *_aligned(rows)]))
    return "\n\n".join(blocks)


def _schemes() -> dict[str, str]:
    known = [(profile, name, scheme) for profile in PROFILES for name, scheme in schemes(profile).items()]
    chosen = [f"{' and '.join(s.selection)} of {s.training.epochs} epochs" for _, _, s in known]
    return {f"{n} ({p})": f"{s.words}; {told}" for (p, n, s), told in zip(known, chosen, strict=True)}


def _figures() -> dict[str, str]:
    """Named reports and figures; imported late, since no other list needs matplotlib."""
    from robustcl.reports.named import reports

    told = {name: " or ".join(report.suites) or "any suite" for name, report in reports().items()}
    given = {name: f" with {report.given}" if report.given else "" for name, report in reports().items()}
    return {name: f"{report.title.rstrip('.')}; from {told[name]}{given[name]}" for name, report in reports().items()}


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
