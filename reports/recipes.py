"""The only owner of what the rows of a run folder are in the terms of published numbers: method, data and recipe."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Entry = Mapping[str, Any]
"""A table of a resolved suite, such as an entry below [pretrain]."""

_ADVCL = {"weighting": "official", "weight": 0.2, "route": "pgd", "ascent": {"batch_norm": "train"}}
_VIEWS = {
    "advcl": ["x+d", "t1", "t2", "high"],
    "advcl/no-high": ["x+d", "t1", "t2"],
    "advcl/low": ["x+d", "t1", "t2", "low"],
    "advcl/low-high": ["x+d", "t1", "t2", "low", "high"],
    "advcl/tau-one": ["t1+d", "t2"],
    "advcl/tau-both": ["t1+d", "t2+d"],
    "advcl/tau-both-clean": ["t1+d", "t2+d", "t1", "t2"],
}
_AIR = {"method": "air", "regulariser": "official"}
_IP = {"method": "a_infonce", "base": {"name": "advcl"}, "form": "corrected"}
# A method or an arm as `reference.csv` names it, and the fields that make an entry it: a changed one is another method.
METHODS: Mapping[str, Entry] = {
    **{name: {"method": "advcl", "contrasted": views, **_ADVCL} for name, views in _VIEWS.items()},
    "advcl/no-pseudo": {"method": "advcl", "contrasted": _VIEWS["advcl"], **_ADVCL, "weight": 0.0},
    "supervised": {"method": "supervised", "objective": "adversarial"},
    "simclr": {"method": "simclr"},
    "ap_dpe": {"method": "ap_dpe", "tasks": ["rotation", "jigsaw", "selfie"], "sign": "released"},
    "rocl": {"method": "rocl", "detach_second_factor": True},
    "acl": {"method": "acl", "form": "DS"},
    "dynacl": {"method": "dynacl", "annealed": True, "deployed": "momentum"},
    "deacl": {"method": "deacl"},
    "air": {**_AIR, "dynamic": False},
    "air/dynamic": {**_AIR, "dynamic": True},
    "a_infonce": {**_IP, "inferior": True},
}
_FILES = {"cifar10": "cifar10", "cifar100": "cifar100", "stl10": "stl10", "stl10-32": "stl10-32"}
_FULL = 96  # the side of STL-10's images


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a row is: `method` and `data` as `published` is asked for them; `architecture` is the encoder's."""

    method: str
    data: str
    profile: str
    labels: str
    architecture: str


def recipes(suite: Entry) -> dict[tuple[str, str], Recipe]:
    """The rows that published numbers can be about, by their names and those of their data, from a `suite.json`."""
    return {key: recipe for point in suite.get("resolved", {}).get("points", []) for key, recipe in _of(point)}


def plain_scheme(scheme: str) -> str:
    """A scheme without the selection in brackets that parts it from another one of the same name."""
    return re.sub(r" \((last|best val)\)$", "", scheme)


def _of(point: Entry) -> Iterator[tuple[tuple[str, str], Recipe]]:
    sets = [point["data"], *([point["target"]] if point.get("target") else [])]
    names, kinds = point.get("transfer") or [set_name(one) for one in sets], [_kind(one) for one in sets]
    if not all(kinds):
        return
    told = " -> ".join(dict.fromkeys(names))
    for name, entry in point["pretrain"].items():
        method = _method(entry, point["pretrain"])
        if method:
            recipe = Recipe(
                method=method,
                data=" -> ".join(map(str, kinds)),
                profile=str(point.get("profile", "")),
                labels=_labels(entry, point.get("labels", {})),
                architecture=architecture(point["encoder"]),
            )
            yield (f"{name} ({point['point']})" if point.get("point") else name, told), recipe


def set_name(data: Entry) -> str:
    """A data set for people, as `bench` names it: what it is, and of somebody's own files the stem of their path."""
    name = PurePath(data["path"]).stem if data["name"] in ("npz", "folder") and data.get("path") else data["name"]
    return f"{name} (held-out training images)" if data.get("holdout") else str(name)


def architecture(encoder: Entry) -> str:
    """An architecture as `reference.csv` names it, such as `resnet18`."""
    return f"{encoder['name']}{encoder.get('depth', '')}"


def _kind(data: Entry) -> str | None:
    """The published name of a data set: of an official one, or of an `.npz` of that name; None for any other."""
    if data.get("holdout") or data.get("train"):
        return None
    if data["name"] == "stl10" and int(data.get("size", _FULL)) != _FULL:
        return f"stl10-{data['size']}"
    return _FILES.get(set_name(data).lower())


def _method(entry: Entry, others: Mapping[str, Entry]) -> str | None:
    """The name of the method that an entry is, with the fields that it has."""
    if entry.get("method") == "lp_aff":  # DynACL++ where it begins as DynACL
        return "lp_aff" if _method(others.get(entry.get("start", ""), {}), others) == "dynacl" else None
    return next((name for name, fields in METHODS.items() if _has(entry, fields)), None)


def _has(entry: Entry, fields: Entry) -> bool:
    """Whether an entry has all of these fields, those of its tables included."""
    pairs = [(entry.get(name), wanted) for name, wanted in fields.items()]
    return all(_has(of, wanted) if isinstance(wanted, Mapping) and of else of == wanted for of, wanted in pairs)


def _labels(entry: Entry, labels: Mapping[str, Entry]) -> str:
    """Pseudo-labels as `reference.csv` names them: `own 10` where an encoder of the suite was clustered into ten."""
    of = labels.get(entry.get("labels") or "", {})
    clusters = of.get("k") or []
    return f"own {clusters[0]}" if "encoder" in of and len(clusters) == 1 else ""
