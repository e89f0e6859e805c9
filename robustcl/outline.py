"""The only owner of what is told before anything starts: the plan with its cost, and what there is to choose from."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustcl.bench.data import datasets
from robustcl.bench.forms import known
from robustcl.bench.pace import Pace, duration, measure, span, wall
from robustcl.bench.probe import probes
from robustcl.bench.profiles import PROFILES, schemes
from robustcl.bench.runner import Job
from robustcl.bench.scale import SUSTAINED, at_scale, clock, twin
from robustcl.bench.store import Stage, Store
from robustcl.bench.tables import suites
from robustcl.models.architecture import PACKAGE as ARCHITECTURES
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError, unknown
from robustcl.models.layouts import LAYOUTS
from robustcl.models.plugin import find, names
from robustcl.pretraining.method import PACKAGE as METHODS
from robustcl.pretraining.method import Method, every, named

DEVICES = (1, 8, 64)


def outline(job: Job) -> str:
    """The plan of a job: every stage and its state, what each kind comes to, and what all of it will cost.

    Passes are counted, and are at most so many; times are estimates from a pass that is measured here.
    """
    plan, store = job.plan, job.place.store
    head = f"suite {job.name}: {len(plan.cells)} cells, {len(plan.stages)} stages, {len(job.missing)} to make"
    pace = _pace(job)
    foot = [_by_kind(job, pace), estimate(job, pace), _by_the_clock(job, pace)]
    return planned(head, plan.stages, plan.cost, store, "\n\n".join(filter(None, foot)), pace)


def planned(head: str, stages: Sequence[Stage], cost: Mapping[str, int], store: Store, foot: str, pace: Pace) -> str:
    """A plan that was not begun: its stages, in which state they are, passes and time of each, and an estimate."""
    there, begun = store.finished(stages), store.begun(stages)
    lines = [("stage", "state", "passes", "device time")]
    for stage in stages:
        state = "there" if stage.key in there else _open(stage, store) if stage.key in begun else "to make"
        passes = cost.get(stage.key, 0)
        lines.append((stage.label, state, f"{passes:,}", duration(pace.seconds(passes))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in lines]
    return "\n".join([head, f"run folder {store.root} (nothing was written)", "", *rows, "", foot])


def _open(stage: Stage, store: Store) -> str:
    """The state of a stage that was begun and is not there: who works at it, if anybody does."""
    holder = store.holder(stage.kind, stage.key)
    return f"working ({holder.host} {holder.pid})" if holder and holder.alive else "begun"


def _by_kind(job: Job, pace: Pace) -> str:
    """What each kind of stage comes to: how many, how many of them are to be made, and what these cost."""
    missing, kinds = set(job.missing), dict.fromkeys(stage.kind for stage in job.plan.stages)
    parts = {kind: [stage for stage in job.plan.stages if stage.kind == kind] for kind in kinds}
    rows = [("kind", "stages", "to make", "passes", "device time")]
    for name, stages in {**parts, "all": job.plan.stages}.items():
        left = [stage.key for stage in stages if stage.key in missing]
        passes = sum(job.plan.cost.get(key, 0) for key in left)
        rows.append((name, f"{len(stages):,}", f"{len(left):,}", f"{passes:,}", duration(pace.seconds(passes))))
    return "\n".join(f"{a:<10}{b:>8}{c:>9}{d:>18}{e:>13}" for a, b, c, d, e in rows)


def _by_the_clock(job: Job, pace: Pace) -> str:
    """How long it takes on several devices; of a suite of the paper or its mini twin, at the paper's scale too."""
    missing = set(job.missing)
    todo = [stage for stage in job.plan.stages if stage.key in missing]
    seconds = {stage.key: pace.seconds(job.plan.cost.get(stage.key, 0)) for stage in todo}
    clocks = [f"{duration(wall(todo, seconds, devices))} on {devices}" for devices in DEVICES]
    lines = [f"by the clock, at most: {', '.join(clocks)} devices like this one, a stage on each"] if todo else []
    full = twin(job.name)
    return "\n".join([*lines, *([_at_scale(full)] if full else [])])


def _at_scale(name: str) -> str:
    """What a suite comes to at paper scale, in a line."""
    try:
        points, plan = at_scale(name)
    except UserError as error:
        return f"{name} at paper scale cannot be planned here: {error}"
    low, high = (f"{speed / 1e12:g}" for speed in SUSTAINED)
    clocks = [f"{span(*clock(points, plan, devices))} on {devices}" for devices in DEVICES]
    return (
        f"{name} at paper scale: {len(plan.stages)} stages, at most {sum(plan.cost.values()):,} passes; by the clock "
        f"{', '.join(clocks)} GPUs that sustain {high} to {low} TFLOP/s (an assumption: see docs/scaling.md)"
    )


def estimate(job: Job, pace: Pace | None = None) -> str:
    """How long the missing stages of a job take on one core, from a pass of the suite's encoder over its images."""
    pace, missing, cost = pace or _pace(job), set(job.missing), job.plan.cost
    judged = [stage.part for stage in job.plan.stages if stage.key in missing and stage.kind == "evaluate"]
    trained = sum(cost.get(s.key, 0) for s in job.plan.stages if s.key in missing and s.kind != "evaluate")
    low = pace.fastest(trained) + sum(pace.least(part["images"], len(part["judges"])) for part in judged)
    return told(sum(cost.get(key, 0) for key in missing), low, pace)


def _pace(job: Job) -> Pace:
    """How fast the encoder of the suite is on the device of the job."""
    suite = job.points[0]
    train = job.place.library.part(suite.data, "train").take(slice(0, 64)).to(job.place.device)
    encoder = Encoder(suite.architecture, train.shape, mean=suite.mean, std=suite.std).eval().to(job.place.device)
    return measure(encoder, train.floats(slice(None)))


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
