"""The only owner of who judges: names, values and callables to lists of attacks; wrapped callables; identities."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustcl.bench.adversarial import Saved
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.engine import Engine as Engine
from robustcl.bench.autoattack.engine import Member
from robustcl.bench.autoattack.versions import VERSIONS
from robustcl.bench.estimate import Drawn, Screen, asked_share, estimated
from robustcl.bench.forms import FORMS, known, parsed
from robustcl.bench.judge import Attack as Attack
from robustcl.bench.judge import Judge as Judge
from robustcl.bench.pgd import PGD
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.checkpoint import fingerprint
from robustcl.models.errors import UserError, nearest
from robustcl.models.seeding import generator
from robustcl.models.threat import Norm, Threat
from robustcl.models.value import plain, read, value

Plain = Callable[[nn.Module, Tensor, Tensor, Threat, torch.Generator], Tensor]
"""Any attack of somebody else's: (model, x, y, threat, generator) -> x_adv."""

Definitions = Mapping[str, Sequence[Attack]]
"""Judges that a file defines: name -> its attacks in order."""


@value
class Wrapped(Attack):
    """A plain callable as an attack; it is called once per batch, and what it returns is judged like anything else."""

    version: ClassVar[int] = 2

    function: Any

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def cost(self, classes: int, norm: Norm = "linf") -> int:
        return 1

    def run(self, judge: Judge) -> None:
        for rows in judge.batches():
            before = judge.model.passes
            source = generator(judge.seed, self.name, judge.images[int(rows[0])])
            x, y = judge.x[rows].clone(), judge.y[rows].clone()
            with torch.enable_grad():  # judging runs without gradients; somebody else's attack expects torch's defaults
                found = self.function(judge.model, x, y, judge.threat, source)
            if not isinstance(found, Tensor) or found.shape != x.shape:
                raise UserError(f"attack {self.name}: did not return images of shape {tuple(x.shape)}")
            judge.confirm(found, rows, 1)
            judge.charge(judge.model.passes - before, rows)
            judge.finish(rows)


def identity(attack: Attack) -> dict[str, Any]:
    """What tells this attack from another in a key: its kind, version and fields."""
    kind = {"kind": type(attack).__name__, "version": attack.version}
    if isinstance(attack, Wrapped):
        return {**kind, "name": attack.name, **_code(attack.function)}
    if isinstance(attack, Transfer):
        return {**kind, "source": attack.source_identity, "attack": identity(attack.attack)}
    if isinstance(attack, Screen | Drawn):
        return {**kind, **plain(attack), "attack": identity(attack.attack)}
    if isinstance(attack, Saved):
        return {**kind, "content": attack.content, "only": attack.only}
    return {**kind, **plain(attack)}


def judges(
    names: Sequence[str | Attack | Plain],
    classes: int,
    engine: Engine = Engine(),  # noqa: B008  (a frozen value)
    defined: Definitions | None = None,
) -> dict[str, list[Attack]]:
    """The judges for a list of names, attacks and callables: each name with its attacks in order.

    Names are those of `defined`, of `known()`, and `saved:<path>`. `engine` runs AutoAttack's attacks.
    Errors: `UserError` for an unknown or repeated name, and for a loss that needs more classes.
    """
    if isinstance(names, str):
        raise UserError(f"attacks: '{names}' is one text, expected a list such as ['{names}']")
    if classes < 2:
        raise UserError(f"attacks: a model of {classes} class, expected at least 2")
    found: dict[str, list[Attack]] = {}
    for asked in names:
        name, bench = _asked(asked, classes, engine, defined or {})
        if name in found:
            raise UserError(f"attacks: two are named '{name}', expected distinct names; judge the other one apart")
        found[name] = [_fitted(attack, classes) for attack in bench]
    if not found or "clean" in found:
        raise UserError(f"attacks: {list(found)}, expected at least one attack and none named 'clean'")
    return found


def from_identity(held: Mapping[str, Any], where: str, sources: Mapping[str, nn.Module]) -> Attack:
    """The attack that an identity in a key describes; `sources` are the models that transfer attacks start from."""
    kinds: dict[str, type[Attack]] = {"PGD": PGD, "APGD": APGD, "FAB": FAB, "Square": Square}
    if held["kind"] == "Transfer":
        return Transfer(source=sources[held["source"]], attack=from_identity(held["attack"], where, sources))
    fields = {name: part for name, part in held.items() if name not in ("kind", "version")}
    if held["kind"] in ("Screen", "Drawn"):
        made = Screen if held["kind"] == "Screen" else Drawn
        return made(**{**fields, "attack": from_identity(held["attack"], where, sources)})
    return read(kinds[held["kind"]], fields, where)


def _code(function: Any) -> dict[str, Any]:
    """What tells one callable from another: its code, and the values that it brings along."""
    if isinstance(function, functools.partial):
        return {**_code(function.func), "given": _told([function.args, sorted(function.keywords.items())])}
    if inspect.ismethod(function):
        return {**_code(function.__func__), "self": _told(function.__self__)}
    if not inspect.isfunction(function):
        call, fields = type(function).__call__, getattr(function, "__dict__", None)
        code = _source(call) if inspect.isfunction(call) else type(function).__qualname__
        return {"code": code, "self": repr(function) if fields is None else _told(sorted(fields.items()))}
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [cells, function.__defaults__, function.__kwdefaults__]
    return {"code": _source(function), **({"held": _told(held)} if any(held) else {})}


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except OSError:  # typed in, and not read from a file
        return f"{function.__code__.co_code.hex()} {function.__code__.co_consts} {function.__code__.co_names}"


def _told(thing: Any) -> str:
    """A value as text. What has no text of its own is told by its address, so that two are never taken for one."""
    if isinstance(thing, nn.Module):
        return fingerprint(thing)
    if isinstance(thing, Tensor):
        return repr(thing.tolist())
    if isinstance(thing, list | tuple):
        return f"[{', '.join(map(_told, thing))}]"
    if inspect.isfunction(thing):
        return _source(thing)
    return repr(thing)


def _asked(asked: Any, classes: int, engine: Engine, defined: Definitions) -> tuple[str, Sequence[Attack]]:
    if isinstance(asked, Attack):
        return asked.name, [asked]
    if callable(asked):
        return (wrapped := Wrapped(function=asked)).name, [wrapped]
    if not isinstance(asked, str):
        raise UserError(f"attacks: {asked!r} is not an attack, expected a name, an Attack or a callable")
    if asked in defined:
        return asked, defined[asked]
    if asked in VERSIONS:
        return asked, VERSIONS[asked](classes, **engine.fields())
    if (share := asked_share(asked)) is not None:
        return asked, estimated(share, classes, **engine.fields())
    if asked.startswith("saved:"):
        return (saved := Saved(path=Path(asked.removeprefix("saved:")))).name, [saved]
    return asked, [_formed(asked, engine, defined)]


def _formed(asked: str, engine: Engine, defined: Definitions) -> Attack:
    """The attack of a form's name. Errors: `UserError` for an unknown one."""
    form_and_fields = parsed(asked)
    if form_and_fields is None or (form_and_fields[0].kind is PGD and "steps" not in form_and_fields[1]):
        names = [*defined, *VERSIONS, "pgd-20", *(name for name in FORMS if name != "pgd")]
        listed = ", ".join([*defined, *known()])
        raise UserError(f"attacks: unknown attack '{asked}', expected one of {listed}{nearest(asked, names)}")
    form, given = form_and_fields
    own = engine.fields() if issubclass(form.kind, Member) else {}
    return form.kind(**own, **given)


def _fitted(attack: Attack, classes: int) -> Attack:
    """The attack as it runs with so many classes: it says how many targets there are."""
    if isinstance(attack, Transfer):
        return dataclasses.replace(attack, attack=_fitted(attack.attack, classes))
    if isinstance(attack, APGD) and classes < attack.least_classes:
        needs = f"its loss needs {attack.least_classes} classes"
        raise UserError(f"attacks: {attack.name}: {needs}, the model has {classes}; try apgd-ce or pgd-margin-20")
    if isinstance(attack, APGD | FAB) and attack.targets is not None and attack.targets >= classes:
        return dataclasses.replace(attack, targets=classes - 1)
    return attack
