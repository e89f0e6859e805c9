"""The only owner of fingerprints: a short text that says which attack a robust accuracy stands for.

Only the attack is in it. Images, split, route, normalisation, finetuning and selection are the protocol's.
"""

from collections.abc import Mapping, Sequence

from robustcl.bench.attacks import Attack, Wrapped, identity
from robustcl.bench.autoattack.reference import Reference
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain

_MEMBERS = {"apgd-ce": "100it", "apgd-t": "100it/{}t", "fab-t": "100it/{}t", "square": "5000q"}
_SHARED = ("batch", "engine")  # said once, behind the attacks


def fingerprint(judge: str, attacks: Sequence[Attack], threat: Threat, seed: int) -> str:
    """`autoattack@apgd-ce 100it, ...; linf 8/255; seed 0; batch 512; pyautoattack 0.2.0; sha:1a2b3c4d`.

    The hash covers everything but the seed, which the text states: what differs by its seed alone is one attack at
    two draws, and shares a hash.
    """
    shared = [
        f"batch {held}" if name == "batch" else str(held)
        for name in _SHARED
        for held in sorted({getattr(attack, name) for attack in attacks if hasattr(attack, name)})
    ]
    alone = [attack.name for attack in attacks] == [judge]
    told = ", ".join(" ".join([*([] if alone else [attack.name]), *_settings(attack)]) for attack in attacks)
    sha = digest([[identity(attack) for attack in attacks], plain(threat)])[:8]
    return "; ".join([f"{judge}@{told}", f"{threat.norm} {threat.eps}", f"seed {seed}", *shared, f"sha:{sha}"])


def fingerprints(judges: Mapping[str, Sequence[Attack]], threat: Threat, seed: int) -> dict[str, str]:
    """Judge -> its fingerprint."""
    return {judge: fingerprint(judge, attacks, threat, seed) for judge, attacks in judges.items()}


def _settings(attack: Attack) -> list[str]:
    """The settings that people know an attack by, then whatever else is not at its default."""
    if isinstance(attack, Wrapped):
        return ["(a callable)"]
    if isinstance(attack, Reference):
        return [_MEMBERS[attack.member].format(attack.targets)]
    fields = type(attack).__pydantic_fields__  # type: ignore[attr-defined]
    said = {"steps": "{}it", "step": "step {}", "restarts": "{}x"}
    held = {name: of for name, of in plain(attack).items() if name not in _SHARED}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    known = [said[name].format(of) for name, of in held.items() if name in said and (name, of) != ("restarts", 1)]
    return known + [f"{name}={of}" for name, of in held.items() if name not in said and of != defaults[name]]
