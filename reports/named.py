"""The only owner of the named reports: the figures and tables of a paper, their parts, the suites that feed them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcl.models.errors import UserError, unknown
from robustcl.reports import corruptions, drawing, matrix, writers
from robustcl.reports.folder import RunFolder
from robustcl.reports.placing import placed


@dataclass(frozen=True, kw_only=True)
class Named:
    """A named report: `parts` are tables (see `TABLES`) and drawings, `suites` those that feed it; none is any suite.

    `given` is what the command line of those suites has to say on top, where they are not enough by themselves.
    """

    title: str
    parts: tuple[str, ...]
    suites: tuple[str, ...] = ()
    given: str = ""

    @property
    def command(self) -> str:
        """The command that makes a run folder for it."""
        return " ".join(filter(None, ["robustcl run", self.suites[0] if self.suites else "quickstart", self.given]))


TABLES: Mapping[str, Callable[[RunFolder, Path], list[Path]]] = {
    "table": lambda run, folder: writers.save(run.tables, folder),
    "transfer": lambda run, folder: matrix.save(run.answers, folder),
    "severities": lambda run, folder: corruptions.save(run.finished, folder),
}
_NEEDS = {
    "table": "a finished cell of the table",
    "transfer": "a cell judged on another data set than its encoder was pretrained on",
    "severities": "corruptions (a [judge] with corruptions)",
}
_TABLE = ("table",)


def _twin(suite: str) -> tuple[str, str]:
    """A suite and its mini twin."""
    return suite, f"{suite}-mini"


# Figures and tables of the AdvCL paper (Fan et al., NeurIPS 2021), and ablations of this field beyond it (E).
REPORTS: Mapping[str, Named] = {
    "fig1": Named(
        title="AdvCL, figure 1: SA against AA of every encoder, and the gap between linear and full finetuning",
        parts=("clean-against-robust", "gap"),
        suites=_twin("table1"),
    ),
    "fig2": Named(title="AdvCL, figure 2: its views, routes and pseudo-label branch", parts=("pipeline",)),
    "fig3": Named(
        title="AdvCL, figure 3: RA against the steps of PGD, and against eps",
        parts=("accuracy-against-steps", "accuracy-against-eps"),
        suites=_twin("fig3"),
    ),
    "fig4": Named(title="AdvCL, figure 4: t-SNE of the features", parts=("features",), suites=_twin("fig4")),
    "fig5": Named(
        title="AdvCL, figure 5: images that drive one feature to its extremum",
        parts=("feature-inversion",),
        suites=_twin("fig5"),
    ),
    "fig6": Named(
        title="AdvCL, figure 6: the adversarial loss around the weights",
        parts=("loss-landscape",),
        suites=_twin("fig6"),
    ),
    "tab1": Named(title="AdvCL, table 1: SLF and AFF on one data set", parts=_TABLE, suites=_twin("table1")),
    "tab2": Named(title="AdvCL, table 2: transfer to another data set", parts=_TABLE, suites=_twin("table2")),
    "tab3": Named(title="AdvCL, table 3: SLF against ALF", parts=_TABLE, suites=_twin("table3")),
    "tab4": Named(title="AdvCL, table 4: which views to contrast", parts=_TABLE, suites=_twin("table4")),
    "tab5": Named(title="AdvCL, table 5: whose features are clustered", parts=_TABLE, suites=_twin("table5")),
    "e1": Named(title="the radius of AdvCL's high-frequency view", parts=_TABLE, suites=_twin("radius")),
    "e2": Named(title="the number of clusters", parts=_TABLE, suites=_twin("clusters")),
    "e3": Named(title="AdvCL's two parts, each with and without", parts=_TABLE, suites=_twin("components")),
    "e4": Named(title="the weight of the pseudo-supervision", parts=_TABLE, suites=_twin("lambda")),
    "e5": Named(title="batch norms: routes, and their mode in the attack", parts=_TABLE, suites=_twin("batchnorm")),
    "e7": Named(title="ACL's four arms", parts=_TABLE, suites=_twin("acl_arms")),
    "e9": Named(
        title="accuracy by corruption and severity",
        parts=("severities", "per-corruption"),
        suites=("table1",),
        given="--set judge.corruptions=FOLDER",
    ),
    "e10": Named(
        title="every data set pretrained on and judged on",
        parts=("transfer", "transfer-matrix"),
        suites=_twin("transfer"),
    ),
    "e11": Named(title="AA against what it cost", parts=("cost-against-accuracy",), suites=_twin("table1")),
    "e13": Named(title="DynACL's two schedules", parts=_TABLE, suites=_twin("augmentation")),
}  # fmt: skip


# The suites of drawings that are in none of these reports and need a probe, which not every suite has.
_FED: Mapping[str, tuple[str, ...]] = {"adversarial-examples": ("quickstart", "fig5"), "frequency-views": _twin("fig4")}


def reports() -> dict[str, Named]:
    """Every named report, then every drawing as a report of its own, fed by the suites of the reports it is part of."""
    own = {}
    for name in drawing.drawings():
        fed = [report for report in REPORTS.values() if name in report.parts]
        title = (drawing.find(name).__doc__ or "").splitlines()[0]
        suites = dict.fromkeys(suite for report in fed for suite in report.suites) or _FED.get(name, ())
        given = next((report.given for report in fed), "")
        own[name] = Named(title=title, parts=(name,), suites=tuple(suites), given=given)
    return {**REPORTS, **own}


def write(runs: str | Path, names: Sequence[str], folder: str | Path | None = None) -> list[Path]:
    """Write the reports of these names from the run folder `runs` into `folder`, by default `report` inside it.

    All of them or none. Errors: `UserError` for a name that is none, for a run folder that lacks what a report needs
    (the line says what, and which suite makes it), and for a folder that cannot be written.
    """
    known = reports()
    for name in names:
        if name not in known:
            raise unknown("report --figure", "figure", name, known)
    run = RunFolder(Path(runs))
    target = Path(folder) if folder is not None else run.root / "report"
    parts = dict.fromkeys((part, name) for name in names for part in known[name].parts)
    with placed([target]) as hidden:
        made = [path for part, name in parts for path in _made(run, part, hidden, name, known[name])]
    return [target / path.name for path in dict.fromkeys(made)]


def foreign(runs: str | Path, names: Sequence[str]) -> list[str]:
    """What to tell of reports that are fed by other suites than the one of this run folder: a line each."""
    suite, known = RunFolder(Path(runs)).suite["suite"], reports()
    return [
        f"{name} ({known[name].title}) is that of suite {' or '.join(known[name].suites)}; this run is of '{suite}'"
        for name in names
        if name in REPORTS and known[name].suites and suite not in known[name].suites
    ]


def _made(run: RunFolder, part: str, folder: Path, name: str, report: Named) -> list[Path]:
    paths = TABLES[part](run, folder) if part in TABLES else drawing.save(run, folder, [part])
    if not paths:
        needs = _NEEDS.get(part) or drawing.find(part).needs
        raise UserError(
            f"report --figure {name}: {run.root} has nothing for {part}{f', expected {needs}' if needs else ''}; "
            f"run '{report.command}'"
        )
    return paths
