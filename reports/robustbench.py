"""The only owner of the export for RobustBench: a `model_info` JSON for every encoder that AutoAttack judged."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robustcl.models.errors import UserError
from robustcl.reports.answers import Records
from robustcl.reports.capsule import architecture
from robustcl.reports.filenames import distinct
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.placing import placed
from robustcl.reports.seeds import row_names
from robustcl.reports.table import CHANCE, GIVEN, RANDOM, attack_text
from robustcl.reports.verdicts import summary

JUDGE = "autoattack"
STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]  # the only version whose numbers their leaderboard takes
_THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def model_info(records: Records, architectures: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What a `frame` holds for RobustBench: `<data>/<threat>/<name>.json` -> its fields.

    Every cell of AutoAttack `standard` has one, in their form: accuracies in percent as text with two decimals, eps
    as text such as `8/255`. `architectures` are those of the suite's encoders by stage; a classifier that was
    given names its own. What only the authors know is left for them: link, authors and venue are empty,
    `additional_data` of a given classifier is null. `reported` is our own number, as no other was published. How many
    images stand behind it, with the interval, and what was judged, is the footnote.
    Errors: as `summary`.
    """
    return {path: fields for held in by_encoder(records, architectures).values() for path, fields in held.items()}


def by_encoder(records: Records, architectures: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The same for every encoder of its own. Names that differ are files that differ, however alike they are."""
    cells = list(_cells(summary(records)))
    data = distinct(str(robust["data"]) for _, robust in cells)
    names = distinct(_name(robust) for _, robust in cells)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for clean, robust in cells:
        path = f"{data[str(robust['data'])]}/{_THREATS[str(robust['norm'])]}/{names[_name(robust)]}.json"
        fields = _fields(clean, robust, architectures.get(str(robust["stage"]), ""))
        found.setdefault(str(robust["encoder"]), {})[path] = fields
    return found


def write(runs: str | Path, folder: str | Path | None = None) -> list[Path]:
    """Write the JSONs of a run folder into `folder`, by default `report/model_info` inside it: the paths.

    Errors: as `frame`; `UserError` where no cell was judged by AutoAttack `standard`, and for an unwritable folder.
    """
    run = RunFolder(Path(runs))
    target = Path(folder) if folder is not None else run.root / "report" / "model_info"
    found = model_info(run.answers, networks(run))
    if not found:
        raise UserError(f"{runs}: no finished cell has the judge {JUDGE} ({', '.join(STANDARD)}), expected one")
    paths = [target / name for name in found]
    with placed([target]) as hidden:
        for name, fields in found.items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            (hidden / name).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def networks(run: RunFolder) -> dict[str, str]:
    """The encoders of a suite for people, `resnet (depth 18, stem 3x3)`, by the stage that judged them."""
    return {str(cell["stage"]): architecture(cell["architecture"]) for cell in run.cells if "architecture" in cell}


def _name(robust: pd.Series) -> str:
    """What a cell is called: its row, its scheme unless it was given, its radius unless it is the table's."""
    row = str(robust["row"]) if robust["scheme"] == GIVEN else f"{robust['row']}_{robust['scheme']}"
    return row if robust["headline"] else f"{row}_eps-{robust['eps']}"


def _cells(numbers: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.Series]]:
    """The clean and the robust numbers of every cell that AutoAttack `standard` judged, but for the random encoder."""
    if numbers.empty:
        return
    numbers = numbers.assign(row=row_names(numbers))
    for _, cell in numbers.groupby(["stage", "row", "scheme", "headline"], observed=True, sort=False):
        robust = cell[(cell["judge"] == JUDGE) & ~cell["encoder"].isin([RANDOM, CHANCE])]
        if len(robust) and json.loads(str(robust["judges"].iloc[0]))[JUDGE] == STANDARD:
            yield cell[cell["judge"] == CLEAN].iloc[0], robust.iloc[0]


def _fields(clean: pd.Series, robust: pd.Series, architecture: str) -> dict[str, Any]:
    given, protocol = robust["scheme"] == GIVEN, str(robust["protocol"])
    accuracy = _percent(robust["accuracy"])
    return {
        "link": "",
        "name": str(robust["row"]) if given else f"{robust['row']}, {robust['scheme']}",
        "authors": "",
        "additional_data": None if given else "external data" in protocol,
        "number_forward_passes": 1,
        "dataset": str(robust["data"]),
        "venue": "",
        "architecture": str(robust["method"]) if given else architecture,
        "eps": str(robust["eps"]),
        "clean_acc": _percent(clean["accuracy"]),
        "reported": accuracy,
        "autoattack_acc": accuracy,
        "unreliable": {"ok": False, "unreliable": True}.get(str(robust["reliability"])),
        "footnote": _footnote(clean, robust, protocol),
    }


def _footnote(clean: pd.Series, robust: pd.Series, protocol: str) -> str:
    ends = [f"{name} {_percent(of['low'])} to {_percent(of['high'])}" for name, of in (("SA", clean), ("AA", robust))]
    return (
        f"n = {robust['n']} test images; 95 % Wilson intervals {', '.join(ends)}; "
        f"{attack_text({JUDGE: STANDARD})}; {robust['norm']} {robust['eps']}; protocol: {protocol}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
