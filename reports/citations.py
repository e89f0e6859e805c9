"""The only owner of what is to be cited: the papers behind what a run folder shows, as BibTeX, and none besides."""

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from robustcl.models import plugin
from robustcl.reports.folder import RunFolder
from robustcl.reports.published import sources

METHODS, SCHEMES = "robustcl.pretraining.methods", "robustcl.bench.schemes"
LIBRARY = Path(__file__).with_name("references.bib")
_OBJECTIVES = {"adversarial": "madry2018pgd", "trades": "zhang2019trades"}
_ATTACKS = {
    "pgd-margin": "carlini2017towards",
    "pgd": "madry2018pgd",
    "fgsm": "goodfellow2015explaining",
    "apgd": "croce2020reliable",
    "fab": "croce2020minimally",
    "square": "andriushchenko2020square",
}
_AUTOATTACK = "croce2020reliable"
_CORRUPTIONS = "hendrycks2019benchmarking"


@cache
def cite(package: str, name: str) -> str | None:
    """The BibTeX key that a method or scheme declares as its `cite`; None where there is no plug-in of this name.

    Its file is read and not imported: what trains needs torch, and reports do without.
    """
    if name not in plugin.names(package):
        return None
    found = importlib.util.find_spec(f"{package}.{name}")
    tree = ast.parse(Path(str(found and found.origin)).read_text(encoding="utf-8"))
    held = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "cite"]
    return str(ast.literal_eval(held[0].value)) if held and held[0].value else None


def entries(path: Path = LIBRARY) -> dict[str, str]:
    """Every entry of a BibTeX file by its key, in the order of the file."""
    found = re.split(r"^(?=@)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {entry.partition("{")[2].partition(",")[0]: entry.strip() for entry in found if entry.startswith("@")}


def keys(run: RunFolder, encoder: str | None = None) -> list[str]:
    """The keys of what stands behind the cells of a run folder, or those of one encoder, in the order of the file.

    Those of published numbers that are shown beside them are among them.
    """
    used: set[str | None] = set()
    for cell in run.cells:
        if encoder is None or cell["encoder"] == encoder:
            used |= {cite(METHODS, str(cell["method"])), *_attacks(cell["judges"])}
            used |= {key for stage in run.lineage(str(cell["stage"])).values() for key in _stage(stage)}
    cites = dict(zip(sources()["source"], sources()["cite"], strict=True))
    for table in run.tables:
        beside = table.published if encoder is None else table.published[table.published["row"] == encoder]
        used |= {cites[str(source)] for source in beside["source"]}
    return [key for key in entries() if key in used]


def bibtex(wanted: Iterable[str]) -> str:
    """The entries of these keys below each other. Errors: `KeyError` for one that the file does not have."""
    known = entries()
    return "\n\n".join(known[key] for key in wanted) + "\n"


def _attacks(judges: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """What judges are to be cited as: AutoAttack's members for themselves too, as their authors ask."""
    for judge, attacks in judges.items():
        if judge == "corruptions":
            yield _CORRUPTIONS
            continue
        if judge.startswith("autoattack"):
            yield _AUTOATTACK
        for attack in attacks:
            yield from [key for stem, key in _ATTACKS.items() if attack.startswith(stem)][:1]


def _stage(stage: Mapping[str, Any]) -> Iterator[str | None]:
    """What one stage is to be cited as: its method or scheme, and the objective, labels and coreset that it uses."""
    part = stage["part"]
    made = part.get("method") or part.get("scheme") or {}
    yield cite(METHODS if "method" in part else SCHEMES, str(made.get("name", "")))
    yield _OBJECTIVES.get(str(made.get("objective", "")))
    if stage["kind"] == "labels":
        yield "yan2020clusterfit"
    if (made.get("training") or {}).get("coreset"):
        yield "xu2023rcs"
