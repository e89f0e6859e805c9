"""The only owner of model cards: what every encoder of a run is and is worth, as Hugging Face reads it."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from robustcl.models.errors import UserError
from robustcl.reports import citations, robustbench
from robustcl.reports.capsule import architectures, capsule
from robustcl.reports.filenames import distinct
from robustcl.reports.folder import RunFolder
from robustcl.reports.leaderboard import Number, Row, leaderboard
from robustcl.reports.page import SITE
from robustcl.reports.placing import placed
from robustcl.reports.table import GIVEN, RANDOM, heading

CARD, OURS = "README.md", "\nlibrary_name: robustcl\n"


def write(runs: str | Path, folder: str | Path) -> list[Path]:
    """Write `<encoder>/README.md` for every encoder of the run folder `runs` into `folder`: the paths.

    RobustBench's `model_info` JSONs of an encoder that AutoAttack judged lie beside it. The license is left out, as
    only the owner knows it. Errors: `UserError` as `frame`, where nothing is finished, and for an unwritable folder.
    """
    run = RunFolder(Path(runs))
    texts = cards(run)
    if not texts:
        raise UserError(f"{runs}: no encoder has a finished cell, expected one to write a card of")
    names, exports = distinct(texts), robustbench.by_encoder(run.records, robustbench.networks(run))
    made = {f"{names[encoder]}/{CARD}": text for encoder, text in texts.items()}
    for encoder, held in exports.items():
        for name, fields in held.items():
            text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
            made[f"{names[encoder]}/model_info/{name}"] = text
    _refuse(Path(folder) / name for name in made if name.endswith(CARD))
    with placed([Path(folder)]) as hidden:
        for name, text in made.items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            (hidden / name).write_text(text, encoding="utf-8", newline="\n")
    return [Path(folder) / name for name in made]


def cards(run: RunFolder) -> dict[str, str]:
    """The card of every encoder that has a finished cell, the random one apart: YAML front matter, then Markdown."""
    shown = run.tables
    judges = list(dict.fromkeys(judge for table in shown for judge in table.judges))
    rows = [row for row in leaderboard(run, shown) if row.numbers and row.encoder != RANDOM]
    template = _environment().get_template("card.md")
    made = {}
    for encoder in dict.fromkeys(row.encoder for row in rows):
        own = [row for row in rows if row.encoder == encoder]
        found = capsule(run, encoder)
        methods = list(dict.fromkeys(row.method for row in own))
        made[encoder] = template.render(
            suite=str(run.suite["suite"]),
            encoder=encoder,
            methods=methods,
            lead=", ".join([f"Method {', '.join(methods)}", *architectures(run, encoder)]),
            datasets=list(dict.fromkeys(row.data for row in own)),
            results=[_result(row) for row in own],
            rows=own,
            judges=judges,
            spread=any(row.seeds > 1 for row in own),
            given=all(row.scheme == GIVEN for row in own),
            external=any(row.external for row in own),
            capsule=found,
            commits=list(dict.fromkeys(step.commit for step in found.steps if step.commit)),
            bibtex=citations.bibtex(citations.keys(run, encoder)),
        )
    return made


def _refuse(paths: Iterable[Path]) -> None:
    """Never write over a page that somebody else wrote. Errors: `UserError` for the first one."""
    for path in paths:
        if path.is_file() and OURS not in path.read_bytes()[:200].decode(errors="replace"):
            raise UserError(f"{path}: not a model card of robustcl, expected it out of the way, or another folder")


def _result(row: Row) -> dict[str, Any]:
    """One entry of the results block: a scheme on a data set under a threat."""
    return {
        "task": f"Image classification, {row.scheme}, {row.norm} {row.eps}",
        "data": row.data,
        "split": row.split,
        "metrics": [
            {"name": f"{heading(judge)}, {row.scheme}, {row.norm} {row.eps}", "value": number.value}
            for judge, number in row.numbers.items()
        ],
    }


def _environment() -> Environment:
    environment = Environment(  # Markdown and YAML are not HTML: each text is made harmless by its own filter
        loader=FileSystemLoader(SITE),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"heading": heading, "quoted": _quoted, "plain": _plain, "code": _code, "told": _told}
    return environment


def _quoted(text: str) -> str:
    """Text as a double-quoted scalar of YAML, which JSON's is too."""
    return json.dumps(str(text), ensure_ascii=False)


def _plain(text: object) -> str:
    """Text of which Markdown and HTML read nothing as markup, on one line."""
    return re.sub(r"([\\`*_\[\]<>&|#~$])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    """Text as code, between more backticks than it has in a row."""
    marks = "`" * (1 + max(map(len, re.findall("`+", str(text))), default=0))
    apart = " " if len(marks) > 1 else ""
    return f"{marks}{apart}{text}{apart}{marks}"


def _told(number: Number | None) -> str:
    """A number with its interval, spread and rank."""
    if number is None:
        return "-"
    spread = "" if number.spread is None else f" ± {number.spread:.1f}"
    rank = f", {number.standing}" if number.standing else ""
    return f"{number.value:.1f} [{number.low:.1f}, {number.high:.1f}]{spread}{rank}"
