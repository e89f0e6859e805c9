"""The only owner of fingerprints: a short text that says which attack a robust accuracy stands for.

Only the attack is in it. Images, split, route, normalisation, finetuning and selection are the protocol's.
"""

import re
from collections.abc import Mapping, Sequence

from robustcl.bench.adversarial import Saved
from robustcl.bench.attacks import Attack, Wrapped, identity
from robustcl.bench.autoattack.attacks import APGD
from robustcl.bench.autoattack.engine import Engine
from robustcl.bench.estimate import Drawn, Screen
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain, read

_SHARED = ("batch", "engine", "precision")  # said once, behind the attacks
_NAMED = ("loss", "target", "targeted", "samples", "verdict")  # said by the attack's name
_ENGINE = re.compile(
    r"; (batch (?P<batch>\d+); )?((?P<own>fast|replay) \d+|(py)?autoattack( [^;]+)?)"
    r"(; (?P<precision>bfloat16|tf32))?; sha:"
)
_TOLD = {"steps": "{}it", "queries": "{}q", "step": "step {}"}


def fingerprint(judge: str, attacks: Sequence[Attack], threat: Threat, seed: int, classes: int) -> str:
    """`autoattack@apgd-ce 100it, ...; linf 8/255; seed 0; batch 512; pyautoattack 0.2.0; sha:1a2b3c4d`.

    The hash covers everything but the seed, which the text states: what differs by its seed alone is one attack at
    two draws, and shares a hash. `classes` bound the targets.
    """
    shared = [
        f"batch {held}" if name == "batch" else str(held)
        for name in _SHARED
        for held in sorted({getattr(attack, name, None) for attack in attacks} - {None, "float32"}, key=str)
    ]
    alone = [attack.name for attack in attacks] == [judge]
    told = ", ".join(" ".join([*([] if alone else [a.name]), *_settings(a, threat, classes)]) for a in attacks)
    shares = {attack.share for attack in attacks if isinstance(attack, Drawn)}
    told += "".join(f", drawn for {share} % of the passes" for share in sorted(shares))
    sha = digest([[identity(attack) for attack in attacks], plain(threat)])[:8]
    return "; ".join([f"{judge}@{told}", f"{threat.norm} {threat.eps}", f"seed {seed}", *shared, f"sha:{sha}"])


def engine_of(fingerprint: str) -> Engine | None:
    """Who runs the attacks of AutoAttack in a fingerprint, as it is here; None where there are none in it."""
    found = _ENGINE.search(fingerprint)
    if found is None:
        return None
    said = {"name": found["own"] or "reference", "precision": found["precision"], "batch": found["batch"]}
    return read(Engine, {name: text for name, text in said.items() if text}, "fingerprint")


def fingerprints(judges: Mapping[str, Sequence[Attack]], threat: Threat, seed: int, classes: int) -> dict[str, str]:
    """Judge -> its fingerprint."""
    return {judge: fingerprint(judge, attacks, threat, seed, classes) for judge, attacks in judges.items()}


def _settings(attack: Attack, threat: Threat, classes: int) -> list[str]:
    """The settings that people know an attack by, then whatever else is not at its default."""
    if isinstance(attack, Wrapped):
        return ["(a callable)"]
    if isinstance(attack, Saved):
        return [f"(images {attack.content[:8]})"]
    if isinstance(attack, Transfer):
        return [f"from {attack.source_identity[:16]}", *_settings(attack.attack, threat, classes)]
    if isinstance(attack, Screen | Drawn):
        return _settings(attack.attack, threat, classes)
    held = {name: of for name, of in plain(attack).items() if name not in (*_SHARED, *_NAMED)}
    if isinstance(attack, APGD):
        held["restarts"], held["targets"], held["shrinking"] = attack.settings(classes, threat.norm)
    goals = f"/{min(held['targets'], classes - 1)}t" if _targeted(attack) else ""
    told = {**_TOLD, "steps": f"{{}}it{goals}"}
    first = [text.format(held[name]) for name, text in told.items() if name in held]
    again = [f"{held['restarts']}x"] if held.get("restarts", 1) > 1 else []
    fields = type(attack).__pydantic_fields__  # type: ignore[attr-defined]
    rest = [name for name in held if name not in (*_TOLD, "restarts", "targets") and held[name] != fields[name].default]
    return [*first, *again, *(f"{name}={held[name]}" for name in rest if held[name])]


def _targeted(attack: Attack) -> bool:
    """Whether it runs once for each of several targets."""
    said = {"target": "each", "loss": "targeted", "targeted": True}
    return any(getattr(attack, name, None) == of for name, of in said.items())
