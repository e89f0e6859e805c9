"""The only owner of the site of a run folder: a leaderboard and a page per encoder, as files that need nothing else."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustcl.reports import citations, drawing
from robustcl.reports.capsule import Capsule, architectures, capsule
from robustcl.reports.curves import HEIGHT, WIDTH, trainings
from robustcl.reports.extremes import Pixels, address, extremes
from robustcl.reports.filenames import distinct
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import CLEAN
from robustcl.reports.leaderboard import Row, leaderboard
from robustcl.reports.published import split
from robustcl.reports.table import Table, heading

SITE = Path(__file__).with_name("site")
INDEX, BIBTEX, ENCODERS = "index.html", "references.bib", "encoders"
OURS = '<meta name="generator" content="robustcl">'  # in every page, and no other page is replaced
Kept = Mapping[str, Mapping[int, Pixels]]
_TABLE_KINDS = (".csv", ".md", ".tex", ".txt", ".html")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the report as the page shows it; `files` are the names of its files beside the page."""

    name: str
    title: str
    about: str
    address: str
    files: Sequence[str]


def save(run: RunFolder, folder: str | Path, beside: Sequence[Path] = ()) -> list[Path]:
    """Write the site into `folder`: `index.html`, `references.bib` and `encoders/<name>.html`; the paths.

    `beside` are the files of the report that will lie in the same folder: the SVG figures among them are shown, the
    others linked. Every page holds its style and its script, and names nothing outside the folder. The same records
    and files give the same bytes. Errors: as `frame`; `OSError` where the folder cannot be written.
    """
    made = {Path(folder) / name: text for name, text in site(run, beside).items()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(made)


def site(run: RunFolder, beside: Sequence[Path] = ()) -> dict[str, str]:
    """The files of the site by their place in it. Everything that a record or a suite says is escaped."""
    shown = run.tables
    rows = leaderboard(run, shown)
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    files, found = distinct(encoders), pictures(beside)
    capsules = {encoder: capsule(run, encoder) for encoder in encoders}
    common = _common(run, rows, shown) | {"figures": found, **_software(capsules.values())}
    environment = _environment()
    index, one = (environment.get_template(name) for name in ("index.html", "encoder.html"))
    keys, kept = citations.keys(run), _kept(run)
    made = {
        INDEX: index.render(
            **common,
            lead=_lead(rows),
            rows=rows,
            files=files,
            choices=_choices(rows),
            tables=shown,
            downloads=_downloads(beside, found),
            bibtex=citations.bibtex(keys),
        ),
        BIBTEX: citations.bibtex(keys),
    }
    for encoder in encoders:
        own = [row for row in rows if row.encoder == encoder]
        made[f"{ENCODERS}/{files[encoder]}.html"] = one.render(
            **common,
            encoder=encoder,
            lead=_lead_of(run, own),
            rows=own,
            known=list(_known(shown, encoder)),
            trainings=trainings(run, encoder),
            width=WIDTH,
            height=HEIGHT,
            ends=list(_ends(run, own, kept)),
            capsule=capsules[encoder],
            bibtex=citations.bibtex(citations.keys(run, encoder)),
        )
    return made


def pictures(files: Iterable[Path]) -> list[Picture]:
    """The figures among the files of a report, in their order, each with what its kind says of itself."""
    found = list(files)
    kinds = sorted(drawing.drawings(), key=len, reverse=True)
    made = []
    for path in found:
        if path.suffix != ".svg":
            continue
        kind = next((name for name in kinds if path.stem.startswith(name)), None)
        about = (type(drawing.find(kind)).__doc__ or "").splitlines()[0] if kind else ""
        held = base64.b64encode(path.read_bytes()).decode()
        made.append(
            Picture(
                name=path.stem,
                title=path.stem[0].upper() + path.stem[1:].replace("-", " ").replace("_", "/"),
                about=about,
                address=f"data:image/svg+xml;base64,{held}",
                files=[other.name for other in found if other.stem == path.stem],
            )
        )
    return made


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(SITE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["heading"] = heading
    environment.filters["number"] = lambda value: f"{value:.3g}"
    parts = {"css": "page.css", "early": "early.js", "late": "page.js"}
    environment.globals |= {name: Markup((SITE / file).read_text(encoding="utf-8")) for name, file in parts.items()}
    return environment


def _common(run: RunFolder, rows: Sequence[Row], shown: Sequence[Table]) -> dict[str, Any]:
    """What the leaderboard and the page of an encoder both ask for."""
    planned = [CLEAN, *(judge for cell in run.cells if cell["headline"] for judge in cell["judges"])]
    return {
        "suite": str(run.suite["suite"]),
        "judges": list(dict.fromkeys([judge for table in shown for judge in table.judges] or planned)),
        "spread": any(row.seeds > 1 for row in rows),
        "several": {
            "data": len({row.data for row in rows}) > 1,
            "threat": len({row.threat for row in rows}) > 1,
            "seeds": any(row.seeds > 1 for row in rows),
        },
    }


def _software(capsules: Iterable[Capsule]) -> dict[str, str]:
    """The versions of robustcl and the commits behind all stages, for the foot of every page."""
    held = list(capsules)
    versions = dict.fromkeys(of.software["robustcl"] for of in held if "robustcl" in of.software)
    commits = dict.fromkeys(step.commit for of in held for step in of.steps if step.commit)
    return {"software": ", ".join(versions), "commits": ", ".join(commits)}


def _lead(rows: Sequence[Row]) -> str:
    """What there is, in a line."""
    counts = sorted({number.n for row in rows for number in row.numbers.values()})
    images = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0] if counts else 'no'}"
    parts = [
        _some([row.encoder for row in rows], "encoder"),
        _some([row.scheme for row in rows], "scheme"),
        ", ".join(dict.fromkeys(row.data for row in rows)),
        ", ".join(dict.fromkeys(row.threat for row in rows)),
        f"{images} test images",
    ]
    left = sum(not row.numbers for row in rows)
    return " · ".join([*filter(None, parts), *([f"{left} of {len(rows)} rows not finished"] if left else [])])


def _lead_of(run: RunFolder, rows: Sequence[Row]) -> str:
    """What an encoder is, in a line."""
    parts = [f"method {row.method}" for row in rows] + architectures(run, rows[0].encoder)
    parts += [row.data for row in rows] + [row.threat for row in rows]
    return " · ".join(dict.fromkeys(parts))


def _some(names: Iterable[str], noun: str) -> str:
    count = len(set(names))
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _choices(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """The filters that tell rows apart: name, label, options."""
    held = [
        ("data", "Data set", [row.data for row in rows]),
        ("scheme", "Scheme", [row.scheme for row in rows]),
        ("threat", "Threat", [row.threat for row in rows]),
    ]
    return [(name, label, list(dict.fromkeys(of))) for name, label, of in held if len(set(of)) > 1]


def _known(shown: Iterable[Table], encoder: str) -> Iterable[dict[str, Any]]:
    """What was published for an encoder beside what was measured here, per table that has any: rows, and what is told.

    Of what a table tells of its sources, only that which is about those that are shown.
    """
    for table in shown:
        rows = [[scheme, *rest] for scheme, row, *rest in table.beside() if row == encoder]
        own = table.published[table.published["row"] == encoder]
        names = {*own["source"], *(flag for text in own["flags"] for flag in split(str(text)))}
        told = [line for line in table.sources if line.partition(": ")[0] in names or ": " not in line]
        if rows:
            head = ["Scheme", "Source", *map(heading, table.judges)]
            yield {"head": head, "rows": rows, "told": told, "first": table.parts[0]}


def _downloads(files: Iterable[Path], shown: Iterable[Picture]) -> list[str]:
    """The names of the files that are tables, and no figure's."""
    drawn = {name for picture in shown for name in picture.files}
    return [path.name for path in files if path.name not in drawn and path.suffix in _TABLE_KINDS]


def _ends(run: RunFolder, rows: Iterable[Row], kept: Kept) -> Iterable[dict[str, Any]]:
    """The hardest and the easiest images of every row, by its first seed: of those with pixels, where any were kept."""
    for row in rows:
        cells = run.finished.described
        cells = cells[cells["headline"]]
        for name in ("encoder", "scheme", "data", "norm", "eps"):
            cells = cells[cells[name] == getattr(row, name)]
        part = run.finished.frame(cells.index[:1])
        pixels = kept.get(row.data, {})
        seen = part[part["image"].isin(list(pixels))] if pixels else part
        found = extremes(seen)
        if found is not None:
            yield {
                "row": row,
                "found": found,
                "images": {one.image: address(pixels[one.image]) for one in found.shown if one.image in pixels},
                "of": seen["image"].nunique(),
            }


def _kept(run: RunFolder) -> Kept:
    """The images that were kept to be shown, by data set and place in the official split."""
    kept: dict[str, dict[int, Pixels]] = {}
    for probed in run.probes("thumbnails"):
        images = (int(image) for image in probed.arrays["image"])
        kept.setdefault(probed.data, {}).update(zip(images, probed.arrays["pixels"], strict=True))
    return kept
