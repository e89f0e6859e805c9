"""The only owner of the command line: `run`, `evaluate`, `report`, `ls`, `fetch`; `check` and `bless` are in gate.py.

What a command needs is imported when it runs, so that help, and readers of runs, come without torch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcl import __version__, ending, gate, interrupt
from robustcl.models.errors import UserError
from robustcl.options import Level, LogLevel, Runs, Set, TensorBoard

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite that comes with robustcl (see ls), or a path to a .toml file.")],
    runs: Runs = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side; default one per core.")] = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; write nothing.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fail where anything would reach the network.")] = False,
    log_level: LogLevel = Level.INFO,
    tensorboard: TensorBoard = None,
    executor: Annotated[str, typer.Option(help="local: this machine; ray: a cluster, a task per stage.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray's cluster, auto or HOST:PORT; default one of this machine for this run.")
    ] = None,
    gpus_per_stage: Annotated[float | None, typer.Option(help="With ray on cuda, such as 0.5; default 1.")] = None,
) -> None:
    """Pretrain, finetune, attack and report, as a suite says. What the run folder holds is not made again.

    Any number of the same commands may share a run folder: each makes what no other is at (docs/clusters.md). A
    [reference] of the suite that names a factory runs that code, with --dry-run too.
    """
    from robustcl import running
    from robustcl.bench.cluster import asked_for
    from robustcl.bench.runner import prepare

    ray = asked_for(executor, address, gpus_per_stage, device)
    elsewhere = ray is not None and not dry_run
    job = prepare(suite, runs=runs, device=device, overrides=overrides or [], offline=offline, elsewhere=elsewhere)
    running.run(job, workers, dry_run, log_level, tensorboard, ray)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="path/to/file.py:factory or package.module:factory (this runs that code), robustbench:NAME, a "
            "classifier.safetensors of ours, or with --scheme the file of an encoder."
        ),
    ],
    data: Annotated[str, typer.Option(help="digits, npz:FILE, folder:FOLDER; NAME[:PATH], or a TOML table.")],
    eps: Annotated[list[str], typer.Option(help="The radius as an exact fraction, such as 8/255; may be repeated.")],
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    attacks: Annotated[list[str] | None, typer.Option(help="Judges, default pgd-20,autoattack (see ls).")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="So many test images, drawn once; default all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws of the attacks.")] = 0,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images at a time; part of what the reference does. Default 256, with --budget 32."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Who runs AutoAttack: fast (ours), or reference (the package).")] = "fast",
    precision: Annotated[str, typer.Option(help="Of fast's search: float32, bfloat16, tf32.")] = "float32",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the batches, or GPUs with --device cuda; default 1.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    runs: Annotated[Path | None, typer.Option(help="The run folder; default runs/evaluate-<name>.")] = None,
    name: Annotated[str | None, typer.Option(help="The row of the table; default the file and the factory.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Judge images in random order for so long: 90s, 20m, 1.5h.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="RobustBench's files: FOLDER/cifar10/Linf/NAME.pt.")] = None,
    save_adversarial: Annotated[Path | None, typer.Option(help="A .npz for the adversarial images.")] = None,
    scheme: Annotated[list[str] | None, typer.Option(help="MODEL is an encoder's file: finetune it first.")] = None,
    profile: Annotated[str | None, typer.Option(help="The recipe of the scheme.")] = None,
    layout: Annotated[str | None, typer.Option(help="Whose file MODEL is, such as advcl; default recognised.")] = None,
    route: Annotated[str | None, typer.Option(help="The batch-norm branch of MODEL, such as pgd.")] = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; write nothing.")] = False,
    log_level: LogLevel = Level.INFO,
) -> None:
    """Judge any torch classifier: raw images in [0, 1] in, logits out.

    A factory is called without arguments and returns the model. It is the one thing that robustcl runs of somebody
    else's code: with the rights of whoever calls this, so name no file that you would not run yourself.
    """
    from robustcl import judging, running
    from robustcl.bench.runner import prepare
    from robustcl.reports.report import report as write

    asked = judging.Asked(
        target=model,
        data=data,
        eps=eps,
        norm=norm,
        attacks=attacks or ["pgd-20,autoattack"],
        images=images,
        seed=seed,
        batch=batch or (32 if budget else 256),  # a budget counts whole batches alone
        engine=engine,
        precision=precision,
        workers=workers or 1,
        device=device,
        runs=runs,
        name=name,
        budget=budget,
        models=models,
        save=save_adversarial,
        schemes=scheme or [],
        profile=profile,
        layout=layout,
        route=route,
        overrides=overrides or [],
    )
    if asked.schemes:
        suite, table = judging.encoder_suite(asked)
        job = prepare(suite, runs=runs, device=device, overrides=asked.overrides, table=table)
        running.run(job, workers, dry_run, log_level)
        return
    hearing = judging.hear(asked)
    if dry_run:
        typer.echo(judging.outline(hearing))
        return
    if hearing.missing and log_level != Level.QUIET:
        typer.echo(f"{judging.head(hearing)}; {judging.estimate(hearing)}", err=True)
        for line in judging.unsplit(hearing):
            typer.echo(f"note: {line}", err=True)
    end = judging.judge(hearing, quiet=log_level == Level.QUIET, debug=log_level == Level.DEBUG)
    if end and log_level != Level.QUIET:
        typer.echo(end, err=True)
    typer.echo(str(write(hearing.store.root)))


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.")],
    robustbench: Annotated[
        bool, typer.Option("--robustbench", help="Write RobustBench's model_info JSONs as well.")
    ] = False,
    figure: Annotated[
        list[str] | None, typer.Option(help="Only this figure or table, such as fig3 (see ls figures); repeatable.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="A folder for a copy of the report, its page included, for others to read.")
    ] = None,
    cards: Annotated[
        Path | None, typer.Option(help="A folder for a model card of every encoder, with RobustBench's JSONs.")
    ] = None,
    tensorboard: TensorBoard = None,
) -> None:
    """Write tables, figures and page of a run again. The table is printed."""
    from robustcl.reports import board, card, named
    from robustcl.reports import robustbench as leaderboard
    from robustcl.reports.report import report as write

    if figure and (robustbench or page or cards or tensorboard):
        others = "--robustbench, --page, --cards or --tensorboard"
        raise UserError(f"--figure: writes the named figures alone, expected no {others}")
    if figure:
        paths = named.write(runs, figure)
        typer.echo("\n".join(map(str, paths)))
        for line in named.foreign(runs, figure):
            typer.echo(f"note: {line}", err=True)
        return
    written = write(runs, site=page)
    made = leaderboard.write(runs) if robustbench else []
    made += card.write(runs, cards) if cards else []
    made += board.export(runs, tensorboard) if tensorboard else []
    typer.echo("\n".join([*map(str, made), str(written)]))


@app.command()
def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="methods, schemes, architectures, attacks, data, probes, layouts, suites, figures, or runs."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(help="With runs: a run folder, or one that holds some. Default runs.")
    ] = None,
) -> None:
    """List what there is, or how far runs are.

    Without a kind: all there is, and no runs. Of runs: what is finished, who works at what, and why something failed.
    """
    if kind == "runs":
        from robustcl.reports import progress

        typer.echo(progress.listing(folder or Path("runs")))
        return
    if folder:
        raise UserError(f"ls {kind} {folder}: expected a folder with runs alone, as in 'robustcl ls runs {folder}'")
    from robustcl.outline import listing

    typer.echo(listing(kind))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set in official files, such as cifar10, or cifar10-c.")],
    folder: Annotated[Path, typer.Argument(help="Where the files are to lie.")],
    offline: Annotated[bool, typer.Option("--offline", help="Refuse, as everything that needs the network.")] = False,
) -> None:
    """Download the official files of a data set. Nothing else of robustcl ever downloads anything."""
    from robustcl.bench.fetch import fetch as get

    typer.echo(get(name, folder, offline=offline))


app.command()(gate.check)
app.command()(gate.bless)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Pretrain robust self-supervised encoders and measure what their robustness is worth."""
    if show:
        typer.echo(f"robustcl {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; mistakes end in one line on the standard error."""
    interrupt.mind()
    with ending.told():
        code = app(standalone_mode=False)
        if code == interrupt.CODE:  # typer answers Ctrl-C with this code, older ones with Abort
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
