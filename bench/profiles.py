"""The only owner of the profiles: by name, one recipe and one selection per scheme for all methods."""

from collections.abc import Callable, Mapping
from typing import Any

from robustcl.bench.scheme import PACKAGE, Choice, Scheme
from robustcl.bench.schemes.autolora import AutoLoRa
from robustcl.bench.schemes.labelled import Labelled
from robustcl.bench.schemes.semi import Semi
from robustcl.bench.tables import entries
from robustcl.models.errors import UserError, unknown
from robustcl.models.plugin import find
from robustcl.models.value import Table, merge, plain, read
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.method import Training
from robustcl.pretraining.optim import Automatic, Optimiser, Schedule, Steps

DEFAULT = "paper_advcl"
TRADES = Ascent(steps=10, step="eps/4", init="gaussian")


def _paper_advcl() -> dict[str, Scheme]:
    """AdvCL's recipes (Fan et al., NeurIPS 2021), the epoch chosen on 5,000 of 50,000 training images.

    AdvCL chose by PGD-20 on test images. SLF, ALF and SFF take the best epoch, AFF and LP-AFF report the last one too.
    """
    best: tuple[Choice, ...] = ("best_val",)
    both: tuple[Choice, ...] = ("last", "best_val")
    linear, full = _training(512, 0.01, (15, 20)), _training(128, 0.1, (15, 20))
    return {
        "SLF": Labelled(training=linear, selection=best),
        "ALF": Labelled(training=linear, objective="adversarial", selection=best),
        "SFF": Labelled(training=full, trains="all", selection=best),
        "AFF": Labelled(training=full, trains="all", objective="trades", ascent=TRADES, selection=both),
        "LP-AFF": Labelled(
            training=full, trains="all", objective="trades", ascent=TRADES, selection=both, begins="SLF"
        ),
        **_semi(),
    }


def _robustssl() -> dict[str, Scheme]:
    """The vanilla mode of the RobustSSL benchmark: 25 epochs, the last one, on all training images.

    Of its rows those of DynACL on CIFAR-10, from whose code the benchmark's finetuning comes: SLF and ALF with batches
    of 512 at 0.01 (every method's but one), decays at 10 and 20 (every method's that is derived from ACL; 15 and 20
    elsewhere); AFF with batches of 128 at 0.1, decays at 15 and 20. ACL's own AFF has 100 epochs there: see per_method.
    AFF and LP-AFF report the best epoch too, from a second run on the images that are not held out.
    """
    last: tuple[Choice, ...] = ("last",)
    both: tuple[Choice, ...] = ("last", "best_val")
    linear, full = _training(512, 0.01, (10, 20)), _training(128, 0.1, (15, 20))
    adversarial = Labelled(
        training=full, trains="all", objective="trades", ascent=TRADES, selection=both, last_on="all"
    )
    return {
        "SLF": Labelled(training=linear, selection=last),
        "ALF": Labelled(training=linear, objective="adversarial", selection=last),
        "SFF": Labelled(training=full, trains="all", selection=last),
        "AFF": adversarial,
        "LP-AFF": read(Labelled, merge(plain(adversarial), {"begins": "SLF"}), "LP-AFF"),
        **_semi(),
    }


def _autolora() -> dict[str, Scheme]:
    """AutoLoRa (Xu et al., ICLR 2024): 50 epochs at a rate that follows validation, the best epoch of it.

    The released code follows PGD-20 on the training images and returns the best epoch on test images; here both are
    the held-out training images. The losses of SLF and ALF are the vanilla ones.
    """
    every = Automatic(checkpoints=tuple(4 * number / 50 for number in range(1, 13)))
    linear = _training(512, 0.1, every, epochs=50)
    full = _training(128, 0.1, Automatic(), epochs=50)
    best: tuple[Choice, ...] = ("best_val",)
    return {
        "SLF": Labelled(training=linear, selection=best),
        "ALF": Labelled(training=linear, objective="adversarial", selection=best),
        "AFF": AutoLoRa(training=full, selection=best),
    }


def _semi() -> dict[str, Scheme]:
    """ACL's semi-supervised finetuning (see `Semi`); no other source has one, so that profiles share it."""
    ten = read(Training, merge(plain(Semi().training), {"batch": 250}), "semi-10")
    return {"semi-1": Semi(share=0.01), "semi-10": Semi(share=0.1, training=ten)}


def _training(batch: int, lr: float, schedule: Schedule | tuple[int, ...], epochs: int = 25) -> Training:
    steps = Steps(milestones=schedule, factor=0.1) if isinstance(schedule, tuple) else schedule
    optimiser = Optimiser(name="sgd", lr=lr, momentum=0.9, weight_decay=2e-4)
    return Training(epochs=epochs, batch=batch, optimiser=optimiser, schedule=steps)


PROFILES: Mapping[str, Callable[[], dict[str, Scheme]]] = {
    "paper_advcl": _paper_advcl,
    "robustssl": _robustssl,
    "autolora": _autolora,
}


def schemes(profile: str = DEFAULT, where: str = "finetune") -> dict[str, Scheme]:
    """The named schemes of a profile. Errors: `UserError` with the nearest name where there is none."""
    if not isinstance(profile, str) or profile not in PROFILES:
        raise unknown(f"{where}.profile", "profile", str(profile), PROFILES)
    return PROFILES[profile]()


def read_scheme(
    table: Mapping[str, Any], where: str, profile: str = DEFAULT, row: Mapping[str, Any] | None = None
) -> Scheme:
    """The scheme of a table `{scheme = "SLF", ...}`: the profile's with what a method's `row` and the table change."""
    known = schemes(profile, where)
    name = str(table.get("scheme"))
    if name not in known:
        raise unknown(where, "scheme", name, known)
    fields = {key: entry for key, entry in table.items() if key != "scheme"}
    base = merge(plain(known[name]), row or {})
    found = read(type(known[name]), merge(base, fields), where)
    if name == "SLF" and getattr(found, "begins", "zero") != "zero":
        raise UserError(f"{where}.begins: 'SLF' is wrong, expected 'zero': SLF has no other head to begin with")
    return found


def changed(scheme: Scheme, base: Scheme) -> dict[str, str | int | float | None]:
    """What a suite's scheme has other than the profile's, by path; None where the new value is more than a word.

    What a protocol tells of every scheme (epochs, selection, what is held out) is left out.
    """
    told = ("training.epochs", "selection", "validation", "last_on")
    new, old = _leaves(plain(scheme)), _leaves(plain(base))
    odd = [path for path in dict.fromkeys([*new, *old]) if path not in told and new.get(path) != old.get(path)]
    words = {path.removesuffix(".ops"): new.get(path) for path in odd}  # a recipe is known by its name
    return {path: entry if isinstance(entry, str | int | float) else None for path, entry in words.items()}


def _leaves(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The entries of nested tables by their path."""
    found: dict[str, Any] = {}
    for key, entry in table.items():
        found |= _leaves(entry, f"{above}{key}.") if isinstance(entry, Mapping) else {f"{above}{key}": entry}
    return found


def read_schemes(table: Table, name: str) -> tuple[str, bool, dict[str, Scheme]]:
    """The profile of [finetune], whether rows per method go before it, and the schemes that a suite asks for.

    Errors: `UserError` for an unknown profile, scheme or field.
    """
    where, tables = f"{name}.finetune", dict(table["finetune"])
    profile, per_method = tables.pop("profile", DEFAULT), tables.pop("per_method", False)
    schemes(profile, where)  # there is one of this name
    if not isinstance(per_method, bool):
        raise UserError(f"{where}.per_method: {per_method!r} is wrong, expected true or false")
    if per_method and profile == "autolora":
        raise UserError(f"{where}.per_method: fixes the rates that profile autolora finds by itself, expected false")
    for key, entry in tables.items():
        if not isinstance(entry, dict) and key not in schemes(profile, where):
            raise unknown(f"{where}.{key}", "key", key, ["profile", "per_method", *schemes(profile, where)])
    parts = entries({"finetune": tables}, name, "finetune")
    found = {key: read_scheme({"scheme": key, **part}, f"{where}.{key}", profile) for key, part in parts.items()}
    if not found:
        raise UserError(f"{where}: no scheme, expected a table such as [finetune.SLF]")
    return profile, per_method, found


def scheme_from(identity: Mapping[str, Any], where: str) -> Scheme:
    """The scheme that an identity in a key describes."""
    fields = {name: held for name, held in identity.items() if name not in ("name", "version")}
    found: type[Scheme] = find(PACKAGE, "scheme", identity["name"], Scheme, where)
    return read(found, fields, where)
