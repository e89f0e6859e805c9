"""The only owner of the names of attacks and of their tables in files."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.autoattack.engine import Engine, Member
from robustcl.bench.autoattack.versions import VERSIONS
from robustcl.bench.estimate import NAME, SHARE, asked_share
from robustcl.bench.judge import Attack
from robustcl.bench.pgd import PGD
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.errors import UserError, nearest, unknown
from robustcl.models.value import read


class Form(NamedTuple):
    """An attack with a name: its kind, the fields that the name fixes, and what people are told."""

    kind: type[Attack]
    fields: Mapping[str, Any]
    says: str


FORMS = {
    "pgd": Form(PGD, {}, "projected gradient descent on the cross-entropy"),
    "pgd-margin": Form(PGD, {"loss": "margin"}, "PGD on the difference of logits (Carlini and Wagner)"),
    "pgd-targeted": Form(PGD, {"target": "each"}, "PGD towards up to 9 other classes in turn"),
    "pgd-margin-targeted": Form(PGD, {"loss": "margin", "target": "each"}, "the same on the difference of logits"),
    "pgd-least-likely": Form(PGD, {"target": "least-likely"}, "PGD towards the least likely class"),
    "pgd-random": Form(PGD, {"target": "random"}, "PGD towards a class drawn per image"),
    "fgsm": Form(PGD, {"steps": 1, "step": "eps/1", "init": "clean"}, "one full step from the clean image"),
    "apgd-ce": Form(APGD, {"loss": "ce"}, "Auto-PGD on the cross-entropy, 100 steps"),
    "apgd-dlr": Form(APGD, {"loss": "dlr"}, "Auto-PGD on the DLR loss; 3 classes or more"),
    "apgd-t": Form(APGD, {"loss": "targeted"}, "Auto-PGD on the targeted DLR loss, 9 targets; 4 classes or more"),
    "fab": Form(FAB, {"targeted": False}, "FAB over all classes at once"),
    "fab-t": Form(FAB, {"targeted": True}, "FAB towards 9 targets"),
    "square": Form(Square, {}, "Square, 5000 queries"),
}
_ENGINE = Engine()
_NAME = re.compile(
    r"(?P<base>[a-z-]*[a-z])(-(?P<number>\d+)(x(?P<restarts>\d+))?)?(-eot(?P<samples>\d+))?(?P<last>-last)?"
)


def known() -> dict[str, str]:
    """Every name of an attack or a judge, with what it is."""
    pgd = {"pgd-<steps>": "such as pgd-20; with 5 restarts pgd-20x5, over 20 draws of the model pgd-20-eot20"}
    rows = {name + ("-<steps>" if name.startswith("pgd") else ""): form.says for name, form in FORMS.items()}
    versions = {name: ", ".join(a.name for a in made(10)) for name, made in VERSIONS.items()}
    versions = {name: f"AutoAttack {name.partition('-')[2] or 'standard'}: {text}" for name, text in versions.items()}
    estimate = f"AutoAttack standard on a random part of the images, at {SHARE} % of its passes; {NAME}-10 takes 10 %"
    told = {**rows, **versions, NAME: estimate, "saved:<path>": "adversarial images that were saved"}
    told["transfer"] = "adversarial images of another encoder of the suite; in its [judge.attacks] alone"
    return {name: f"{text}, {pgd[name]}" if name in pgd else text for name, text in told.items()}


def read_attack(table: Mapping[str, Any], where: str, engine: Engine = _ENGINE) -> Attack:
    """The attack of a table `{attack = "pgd", steps = 100, ...}`: a name of `known()`, and fields that it leaves open.

    `attack = "transfer"` takes `encoder`, the source's name, and `with`, the table of the attack on it.
    Errors: `UserError` that names `where`.
    """
    fields = {key: entry for key, entry in table.items() if key != "attack"}
    name = table.get("attack")
    if not isinstance(name, str):
        raise UserError(f"{where}: missing key 'attack', expected one of {', '.join([*FORMS, 'transfer'])}")
    if name == "transfer":
        return _transfer(fields, where, engine)
    found = parsed(name)
    if found is None:
        raise unknown(f"{where}.attack", "attack", name, [*FORMS, "transfer"])
    form, given = found
    fixed = [key for key in fields if key in given]
    if fixed:
        raise UserError(f"{where}.{fixed[0]}: '{name}' says {given[fixed[0]]}, expected it once")
    own = engine.fields(fields.get("engine")) if issubclass(form.kind, Member) else {}
    return read(form.kind, {**own, **given, **fields}, where)


def read_judges(tables: Mapping[str, Any], where: str, engine: Engine = _ENGINE) -> dict[str, list[Attack]]:
    """The judges of a file: a table or a list of tables (as `read_attack` reads them) per name.

    Errors: `UserError` for a name that is one of an attack already.
    """
    found = {}
    for name, given in tables.items():
        if name == "clean" or name in VERSIONS or parsed(name) is not None or asked_share(name) is not None:
            raise UserError(f"{where}.{name}: this is the name of an attack already, expected another one")
        parts = given if isinstance(given, list | tuple) else [given]
        if not parts or not all(isinstance(part, Mapping) for part in parts):
            raise UserError(
                f"{where}.{name}: {given!r} is wrong, expected a table with attack = ..., or a list of them"
            )
        found[name] = [read_attack(part, f"{where}.{name}", engine) for part in parts]
    return found


def parsed(name: str) -> tuple[Form, dict[str, Any]] | None:
    """The form of a name such as `pgd-20x5`, and the fields that the name gives; None for an unknown one."""
    match = _NAME.fullmatch(name)
    if match is None or match["base"] not in FORMS:
        return None
    form = FORMS[match["base"]]
    number = "queries" if form.kind is Square else "steps"
    texts = {number: match["number"], "restarts": match["restarts"], "samples": match["samples"]}
    given: dict[str, Any] = {key: int(text) for key, text in texts.items() if text is not None}
    given |= {"verdict": "last"} if match["last"] else {}
    if form.fields.keys() & given.keys() or given.keys() - form.kind.__dataclass_fields__.keys():
        return None
    return form, {**form.fields, **given}


def _transfer(fields: Mapping[str, Any], where: str, engine: Engine) -> Transfer:
    for key in fields:
        if key not in ("encoder", "with"):
            raise UserError(
                f"{where}: unknown key '{key}', expected encoder and with{nearest(key, ['encoder', 'with'])}"
            )
    inner, encoder = fields.get("with", {"attack": "pgd"}), fields.get("encoder")
    if not isinstance(encoder, str) or not isinstance(inner, Mapping):
        raise UserError(f"{where}: encoder {encoder!r}, expected encoder = <a name below [pretrain]>, with = {{...}}")
    attack = read_attack(inner, f"{where}.with", engine)
    if isinstance(attack, PGD) and "verdict" not in inner:
        attack = dataclasses.replace(attack, verdict="last")  # what has only just left its class transfers least
    return Transfer(source=encoder, attack=attack)
