"""The only owner of who judges in a suite: names and [judge.attacks] to attacks, and the stages that they need."""

from collections.abc import Iterator, Mapping, Sequence

from robustcl.bench.adversarial import Saved
from robustcl.bench.attacks import judges
from robustcl.bench.classifiers import Classifiers, Outcome
from robustcl.bench.judge import Attack
from robustcl.bench.store import Stage
from robustcl.bench.suite import Row, Suite
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.errors import UserError

_ROLE = "source "
Jury = Mapping[str, Sequence[Attack]]


def jury(suite: Suite, names: Sequence[str], classes: int, *, alone: str = "") -> dict[str, list[Attack]]:
    """The judges of these names, those of [judge.attacks] among them.

    `alone` says what is judged without encoders of the suite beside it, from which nothing can be transferred.
    Errors: `UserError` for an unknown name, and for what no stage can run.
    """
    found = judges(names, classes, suite.judge.how, suite.attacks)
    for name, attack in _all(found):
        if isinstance(attack, Saved):
            raise UserError(f"{suite.name}.judge: '{name}' is judged from Python alone, expected an attack in a suite")
        if alone and isinstance(attack, Transfer):
            raise UserError(
                f"{suite.name}.judge: '{name}' transfers from '{attack.source}', not to {alone}; remove one"
            )
    return found


def sources(found: Jury, classifiers: Classifiers, scheme: str, outcome: Outcome) -> dict[str, Stage]:
    """The classifiers that transfer attacks start from, by their roles: those of the same scheme and selection."""
    names = sorted({attack.source for _, attack in _all(found) if isinstance(attack, Transfer)})
    return {_ROLE + name: _same(classifiers, name, scheme, outcome) for name in names}


def sources_of(stage: Stage) -> dict[str, Stage]:
    """The stages that `sources` gave to a stage, by the names of their encoders."""
    return {name.removeprefix(_ROLE): parent for name, parent in stage.parents.items() if name.startswith(_ROLE)}


def _same(classifiers: Classifiers, name: str, scheme: str, outcome: Outcome) -> Stage:
    others = classifiers.outcomes(Row(entry=name), scheme)
    return next(other.stage for other in others if other.name == outcome.name)


def _all(found: Jury) -> Iterator[tuple[str, Attack]]:
    return ((name, attack) for name, attacks in found.items() for attack in attacks)
