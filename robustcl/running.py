"""The only owner of a job of the command line: its plan, or what it makes, who follows that, and its table."""

from pathlib import Path

import typer

from robustcl.bench.cluster import Ray
from robustcl.bench.runner import Job, claim, make
from robustcl.bench.together import leave
from robustcl.console import Display, beside
from robustcl.models.share import processes
from robustcl.options import Level
from robustcl.outline import estimate, outline
from robustcl.reports.board import Board
from robustcl.reports.report import report


def run(
    job: Job, workers: int | None, dry_run: bool, level: Level, curves: Path | None = None, ray: Ray | None = None
) -> None:
    """Make what a job lacks and print its table, or only its plan."""
    first = processes()[0] == 0  # of those that torchrun started, one speaks
    if dry_run:
        typer.echo(outline(job) if first else "", nl=first)
        return
    claim(job)
    quiet, store = not first or level == Level.QUIET, job.place.store
    if job.missing and not quiet and not (ray and job.place.device == "cuda"):  # which this machine need not have
        typer.echo(estimate(job), err=True)
    display = Display(job.plan.cost, job.missing, store, quiet=quiet)
    followers = [Board(store.root, curves).write] if curves and first else []
    followers += [display.follow()] if level == Level.DEBUG and first else []
    with display, beside(followers):
        make(job, display, workers, ray)
    leave()
    if first:
        typer.echo(str(report(store.root)))
