"""The only owner of what a suite's names have to name: encoders, labels and routes that are there, in no circle."""

from collections.abc import Mapping

from robustcl.bench.labels import Own, Source
from robustcl.bench.suite import RANDOM, Pretrain, Suite, encoders_below
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.errors import UserError, unknown


def check_names(suite: Suite) -> None:
    """Errors: `UserError` for a name that is taken, that nothing has, or that needs itself."""
    known = [*suite.pretrain, *suite.imports]
    if RANDOM in known:
        raise UserError(f"{suite.name}.pretrain.{RANDOM}: this name is taken by the encoder that is in every table")
    for key, part in suite.pretrain.items():
        if part.labels is not None and part.labels not in suite.labels:
            raise unknown(f"{suite.name}.pretrain.{key}.labels", "labels", part.labels, suite.labels)
    asked = [
        (f"pretrain.{key}.{role}", name) for key, part in suite.pretrain.items() for role, name in part.given.items()
    ]
    sources = [(f"labels.{key}.encoder", labels.source) for key, labels in suite.labels.items()]
    asked += [(where, source.encoder) for where, source in sources if isinstance(source, Own)]
    attacks = [(f"judge.attacks.{key}.encoder", attack) for key, found in suite.attacks.items() for attack in found]
    asked += [(where, attack.source) for where, attack in attacks if isinstance(attack, Transfer)]
    for where, name in asked:
        if name not in known:
            raise unknown(f"{suite.name}.{where}", "encoder", name, known)
    for key in suite.pretrain:
        _check_circle(suite, (key,))
    for key, labels in suite.labels.items():
        _check_route(f"{suite.name}.labels.{key}.route", labels.source, suite.pretrain)


def _check_route(where: str, source: Source, pretrain: Mapping[str, Pretrain]) -> None:
    if isinstance(source, Own) and source.route is not None and source.encoder in pretrain:
        routes = pretrain[source.encoder].method.routes
        if source.route not in routes:
            raise unknown(where, "route", source.route, routes)


def _check_circle(suite: Suite, path: tuple[str, ...]) -> None:
    for name in encoders_below(suite, path[-1]):
        if name in path:
            names = " needs ".join((*path[path.index(name) :], name))
            raise UserError(f"{suite.name}.pretrain.{name}: a circle ({names}), expected one to come first")
        _check_circle(suite, (*path, name))
