"""The only owner of the rows of a suite that it does not make: classifiers from outside, judged beside its own."""

from collections.abc import Iterator, Mapping
from typing import Any

from robustcl.bench.case import Case, cell
from robustcl.bench.given import Given, give
from robustcl.bench.jury import jury
from robustcl.bench.rows import Cell
from robustcl.bench.store import Stage
from robustcl.bench.suite import Suite
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images

Sources = dict[str, dict[str, Any]]
"""Where given classifiers come from, by their weights: what `give` is told, as plain tables."""


def references(suite: Suite, images: Images, data: str, sources: Sources) -> Iterator[tuple[Cell, Stage, int]]:
    """The cells of [reference], their stages and what these cost; where each classifier comes from goes to `sources`.

    Errors: `UserError` where one is not there or does not fit the images.
    """
    sweep = [Threat(eps, norm=suite.threat.norm) for eps in suite.judge.sweep.eps if eps != suite.threat.eps]
    radii = [(suite.threat, suite.judge.judges), *((threat, suite.judge.sweep.judges) for threat in sweep)]
    for name, outside in suite.references.items():
        source = {"target": outside.target, "norm": suite.threat.norm, "models": outside.folder}
        given = _found(source, images, f"{suite.name}.reference.{name}")
        sources[given.weights] = source
        for threat, named in radii:
            case = Case(
                given=given,
                row=f"{name} ({suite.point})" if suite.point else name,
                images=images,
                data=data,
                threat=threat,
                judges=jury(suite, named, images.classes, alone="[reference]"),
                seed=suite.seeds.judge,
            )
            (stage,) = case.stages
            yield cell(case, stage, headline=threat == suite.threat), stage, case.cost[stage.key]


def again(stage: Stage, sources: Mapping[str, Mapping[str, Any]], images: Images) -> Given:
    """The classifier that a stage judges. Errors: `UserError` where it is another one than when the plan was made."""
    given = _found(sources[stage.part["weights"]], images, stage.label)
    if given.weights != stage.part["weights"]:
        raise UserError(f"{stage.label}: its weights have changed since the plan was made; run again")
    return given


def _found(source: Mapping[str, Any], images: Images, where: str) -> Given:
    try:
        return give(**source, images=images)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
