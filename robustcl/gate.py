"""The only owner of the commands `check` and `bless`: files in, files and text out, and the exit code.

What they need is imported when they run, so that the command line starts without it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustcl.models.errors import UserError
from robustcl.models.whole import writable, writing

if TYPE_CHECKING:
    from robustcl.reports.baseline import Row
    from robustcl.reports.check import Check
    from robustcl.reports.folder import RunFolder

Runs = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.")]
File = Annotated[Path, typer.Option("--baseline", help="A baseline, such as baselines/quickstart.parquet.")]


def check(
    target: Annotated[str, typer.Argument(help="A run folder; with --sequential a classifier, as evaluate takes it.")],
    baseline: File,
    margin: Annotated[float, typer.Option(help="The drop that is put up with, in points of accuracy.")] = 1.0,
    level: Annotated[float, typer.Option(help="The error rate of the whole check.")] = 0.05,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, one test case per row.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request.")] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Attack image after image, and stop as soon as the answer is certain.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="Sequential: as for evaluate; default the baseline's.")] = None,
    encoder: Annotated[list[str] | None, typer.Option(help="Sequential: the row of the baseline.")] = None,
    scheme: Annotated[list[str] | None, typer.Option(help="Sequential: the row of the baseline.")] = None,
    judge: Annotated[list[str] | None, typer.Option(help="Sequential: only these; clean is one.")] = None,
    block: Annotated[int | None, typer.Option(min=1, help="Sequential: images between two looks.")] = None,
    device: Annotated[str | None, typer.Option(help="Sequential: cpu, cuda, cuda:1 or mps; default cpu.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Sequential: where blocks are kept.")] = None,
    models: Annotated[Path | None, typer.Option(help="Sequential: RobustBench's files, as for evaluate.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Sequential: data.<key>=<value>.")] = None,
) -> None:
    """Compare a run with a baseline, image by image. With --sequential it is a classifier, attacked now.

    Exit code 0: no row lost more than the margin; 1: at least one did; 3: cannot tell, and how many images could; 2:
    the two cannot be compared.
    """
    from robustcl.reports import checked
    from robustcl.reports.baseline import read_baseline
    from robustcl.reports.check import check as compare
    from robustcl.reports.frame import frame
    from robustcl.reports.junit import junit as xml

    files = [path.resolve() for path in (baseline, junit, markdown) if path]
    if len(set(files)) < len(files):
        raise UserError("check: one file for two of --baseline, --junit and --markdown, expected another for each")
    for path in (junit, markdown):
        _write(path, "")  # no file of an earlier check stays where this one ends before it is through
    held = read_baseline(baseline)
    given: dict[str, Any] = {
        "data": data,
        "encoders": encoder,
        "schemes": scheme,
        "judges": judge,
        "block": block,
        "device": device,
    }
    given |= {"runs": runs, "models": models, "overrides": overrides}
    chosen = {name: of for name, of in given.items() if of is not None}
    if sequential:
        found = _sequential(target, baseline, margin / 100, level, chosen)
    elif chosen:
        options = {"encoders": "encoder", "schemes": "scheme", "judges": "judge", "overrides": "set"}
        told = ", ".join(f"--{options.get(name, name)}" for name in chosen)
        raise UserError(f"check: {told} given, expected --sequential beside it")
    elif not Path(target).is_dir():
        raise UserError(f"{target}: no such folder, expected a run folder, or a classifier and --sequential")
    else:
        found = compare(frame(target), held, margin / 100, level)
    _write(junit, xml(found, held))
    _write(markdown, checked.markdown(found, held))
    typer.echo(checked.terminal(found, held))
    raise typer.Exit(found.code)


def _sequential(target: str, baseline: Path, margin: float, level: float, given: dict[str, Any]) -> "Check":
    from robustcl import sequential

    asked = sequential.Asked(target=target, baseline=baseline, margin=margin, level=level, **given)
    return sequential.check(sequential.hear(asked), lambda text: typer.echo(text, err=True))


def bless(
    runs: Runs,
    baseline: File,
    encoder: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    scheme: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    judge: Annotated[list[str] | None, typer.Option(help="Only this one, or clean; may be repeated.")] = None,
    unreliable: Annotated[bool, typer.Option("--unreliable", help="Take unreliable numbers too.")] = False,
) -> None:
    """Write a run's numbers as the baseline for later ones. Never in CI.

    What changes is shown, row by row. The random encoder, a control, is left out unless it is named.
    """
    from robustcl.reports.baseline import Baseline, chosen, read_baseline, rows_of, write_baseline
    from robustcl.reports.checked import blessed
    from robustcl.reports.folder import RunFolder

    refuse_ci("bless")
    run = RunFolder(runs)
    rows = chosen(rows_of(run.records), encoder or (), scheme or (), judge or ())
    _worth(rows, runs, unreliable)
    old = read_baseline(baseline) if baseline.exists() else None
    new = Baseline(rows=rows, about=_about(run, rows))
    write_baseline(baseline, new)
    count = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} of {run.suite['suite']}"
    lines = [f"{baseline}: {count}, {'which replace those that were there' if old else 'a new baseline'}"]
    lines += [f"not finished, and left out: {', '.join(open_)}" for open_ in [_open(run)] if open_]
    typer.echo("\n".join(lines) + f"\n\n{blessed(new, old)}")


def refuse_ci(where: str) -> None:
    """Errors: `UserError` in CI, where nobody has looked at the numbers that would be blessed."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise UserError(f"{where}: this is CI (CI is set), expected a person who has looked at the numbers")


def _worth(rows: Sequence["Row"], runs: Path, unreliable: bool) -> None:
    """Refuse what is no baseline."""
    from robustcl.reports.baseline import names

    if not rows:
        raise UserError(f"bless: {runs} holds no finished number of these, expected at least one")
    doubts = [(name, row) for name, row in zip(names(rows), rows, strict=True) if row.reliability == "unreliable"]
    if doubts and not unreliable:
        name, row = doubts[0]
        more = f", and {len(doubts) - 1} more rows" if len(doubts) > 1 else ""
        raise UserError(
            f"bless: {name} is unreliable ({row.why}){more}, expected numbers that can be believed; "
            "--unreliable takes them as they are"
        )


def _about(run: "RunFolder", rows: Sequence["Row"]) -> dict[str, Any]:
    """What the baseline is of: the suite, and the commits and versions that its records were made with."""
    shown = run.records[run.records["headline"]]
    of = {row.encoder for row in rows}
    keys = dict.fromkeys(str(key) for key in shown.loc[shown["encoder"].isin(of), "stage"].unique())
    made = [dict((run.stage(key) or {}).get("made", {})) for key in keys]
    versions: dict[str, set[str]] = {}
    for one in made:
        for name, version in {"robustcl": one.get("robustcl"), **one.get("versions", {})}.items():
            versions.setdefault(name, set()).update([version] if version else [])
    return {
        "suite": str(run.suite["suite"]),
        "commits": sorted({str(one["commit"]) for one in made if "commit" in one}),
        "dirty": any(bool(one.get("dirty")) for one in made),
        "versions": {name: sorted(held) for name, held in sorted(versions.items())},
    }


def _open(run: "RunFolder") -> list[str]:
    """The cells of the table that are not finished."""
    done = {str(key) for key in run.records["stage"].unique()}
    return [
        f"{cell['encoder']} {cell['scheme']}" for cell in run.cells if cell["headline"] and cell["stage"] not in done
    ]


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    with writable(path, "file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
