"""The only owner of what is killed: stages of every kind that take a fraction of a second, and whole commands."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sklearn.datasets
import torch
import torch._dynamo

from robustcl import cli, judging
from robustcl.bench import runner
from robustcl.bench.runner import Job, prepare
from robustcl.bench.stages import execute
from robustcl.bench.store import Stage, Store
from robustcl.models.errors import unknown
from robustcl.reports import drawing, report
from tests.bench.tiny import Quiet, write_suite
from tests.models.official import acl

# What commands import when they are called, and an optimiser at its first step, is here before a process is forked.
assert all((judging, report, sklearn.datasets, torch._dynamo))
SUITE = Path(__file__).parent / "killed.toml"
STAGES = {
    "killed": [
        *("pretrain at", "pretrain acl", "pretrain advcl", "pretrain dynacl", "pretrain deacl"),
        *("import theirs", "labels groups"),
        *("finetune at SLF", "finetune at AFF", "finetune at LP-AFF"),
        *("finetune acl semi-10 labeller", "finetune acl semi-10"),
        *("evaluate acl SLF at 1/20", "evaluate acl AFF (best val) at 1/20"),
        *("evaluate at SLF at 1/20", "evaluate at SLF at 1/40", "evaluate at SLF at 1/10"),
        *("corrupt at SLF", "corrupt acl AFF (best val)"),
        *("probe thumbnails", "probe examples at SLF", "probe frequency", "probe features at"),
        *("probe inversion at", "probe landscape at SLF"),
    ],
    "automatic": ["finetune at ALF"],
    "estimate": ["evaluate at SLF at 1/20"],
}
"""The stages that are killed, by suite: methods with a monitor, snapshots, a coreset, a moving copy, a teacher, labels
of their own; schemes with a choice of epoch, a labeller, an automatic rate; every attack; a sweep; an estimate."""
KINDS = ("pretrain", "import", "labels", "finetune", "evaluate", "corrupt", "probe", "run", "given", "several")
"""The kinds of stages, and three of processes: `run` and `evaluate` as they are called, and three at work at once."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A piece of work that is killed: in a run folder that holds the stages of `before`, `work` makes others.

    Where they lie `apart`, the run folder begins empty, and `work` knows where they are. With several `processes` each
    does the work, at the same time in the same folder; `work` is told which one it is.
    """

    kind: str
    name: str
    work: Callable[[Path, int], object]
    before: Sequence[Stage] = ()
    apart: bool = False
    processes: int = 1


def scenes(folder: Path, kinds: Sequence[str] = KINDS, names: Sequence[str] | None = None) -> list[Scene]:
    """The scenes of these kinds, all or those of these `names`; what they read is written into `folder`, and below its
    `runs` what they build on. Errors: `UserError` where one of `names` is no scene of these kinds."""
    suites = {job.name: job for job in jobs(folder)}
    whole, store = suites["killed"], Store(folder / "runs")
    found = [_run(folder), _several(suites["automatic"]), *_given(folder, whole)]
    for suite, labels in STAGES.items():
        stages = {stage.label: stage for stage in suites[suite].plan.stages}
        found += [_stage(stages[label], suites[suite], suite) for label in labels]
    found.append(_stage(_labelled(whole, "evaluate at SLF at 1/20"), whole, workers=2))
    known = [one for one in found if one.kind in kinds]
    for name in names or ():
        if name not in (one.name for one in known):
            raise unknown("--scene", "scene", name, [one.name for one in known])
    chosen = [one for one in known if names is None or one.name in names]
    needed = {stage.key: stage for scene in chosen for stage in scene.before}
    for stage in needed.values():
        execute(stage, replace(whole.place, store=store), lambda done, total: None)
    return sorted(chosen, key=lambda scene: KINDS.index(scene.kind))


def write_files(folder: Path) -> Path:
    """What the suite reads, in `folder`: the suite's path."""
    g = np.random.default_rng(0)
    patterns = g.random((4, 16, 16, 3))
    arrays: dict[str, Any] = {}
    for split, n in (("train", 160), ("test", 40)):
        labels = np.arange(n) % 4
        pixels = patterns[labels] + 0.15 * g.standard_normal((n, 16, 16, 3))
        arrays |= {f"{split}_images": (pixels.clip(0, 1) * 255).astype(np.uint8), f"{split}_labels": labels}
    np.savez(folder / "patterns.npz", **arrays)
    (folder / "corrupted").mkdir()
    np.save(folder / "corrupted" / "labels.npy", np.tile(arrays["test_labels"], 5))
    for number, name in enumerate(("fog", "snow"), 1):
        shifted = arrays["test_images"] // (number + 1)
        np.save(folder / "corrupted" / f"{name}.npy", np.tile(shifted, (5, 1, 1, 1)))
    torch.save(acl()[1], folder / "theirs.pth")
    path = folder / "killed.toml"
    path.write_text(SUITE.read_text().replace("FOLDER", str(folder)))
    return path


def jobs(folder: Path) -> list[Job]:
    """The suite, with what it reads in `folder`; the same with the one automatic rate, and with an estimate."""
    path = write_files(folder)
    table = tomllib.loads(path.read_text())
    less = {**table, "table": {"rows": ["at"]}, "probes": {}}
    automatic = {"profile": "autolora", "ALF": {**table["finetune"]["AFF"], "selection": ["best_val"]}}
    estimate = {"judges": ["aa-estimate"], "images": 12, "batch": 4}
    return [
        prepare(path, runs=folder / "runs"),
        prepare("automatic", runs=folder / "runs", table={**less, "finetune": automatic}),
        prepare("estimate", runs=folder / "runs", table={**less, "judge": estimate}),
    ]


def parents(stage: Stage) -> list[Stage]:
    """All that a stage builds on, parents first."""
    found = [one for parent in stage.parents.values() for one in (*parents(parent), parent)]
    return list({one.key: one for one in found}.values())


def _labelled(job: Job, label: str) -> Stage:
    return next(stage for stage in job.plan.stages if stage.label == label)


def _stage(stage: Stage, job: Job, suite: str = "killed", workers: int = 1) -> Scene:
    def work(root: Path, number: int) -> None:
        execute(stage, replace(job.place, store=Store(root), workers=workers), lambda done, total: None)

    name = (
        stage.label + (f" in {workers} processes" if workers > 1 else "") + (f", {suite}" if suite != "killed" else "")
    )
    return Scene(kind=stage.kind, name=name, work=work, before=parents(stage))


def _run(folder: Path) -> Scene:
    suite = write_suite(folder)
    small = [f"--set={one}" for one in ("data.train=160", "judge.images=16", "judge.judges=['pgd-3']")]
    return Scene(
        kind="run",
        name="run and report",
        work=lambda root, number: command("run", str(suite), "--runs", str(root), "--workers", "1", *small),
    )


def _given(folder: Path, job: Job) -> list[Scene]:
    """A classifier in a file under one radius with its adversarial images, under two, and in blocks."""
    stage = _labelled(job, "finetune at SLF")
    model = job.place.store.folder(stage) / "classifier.safetensors"
    judged = [
        str(model),
        "--data",
        f"npz:{folder / 'patterns.npz'}",
        "--attacks",
        "pgd-3,pgd-5",
        "--images=24",
        "--batch=8",
    ]

    def scene(name: str, *more: str, processes: int = 1) -> Scene:
        def work(root: Path, number: int) -> None:
            here = [one.format(root=root, number=number) for one in more]
            command("evaluate", *judged, "--runs", str(root), *here)

        kind = "several" if processes > 1 else "given"
        before = [*parents(stage), stage]
        return Scene(kind=kind, name=name, work=work, before=before, apart=True, processes=processes)

    return [
        scene("evaluate, images saved", "--eps=1/20", "--save-adversarial={root}/../adversarial.npz"),
        scene("evaluate, two radii", "--eps=1/40", "--eps=1/20"),
        scene("evaluate, in blocks", "--eps=1/20", "--budget=1h"),
        scene("evaluate twice, two rows", "--eps=1/20", "--name=row-{number}", processes=2),
        scene("evaluate twice, one row", "--eps=1/20", processes=2),
    ]


def _several(job: Job) -> Scene:
    """Three processes that run one suite."""

    def work(root: Path, number: int) -> None:
        runner.make(replace(job, place=replace(job.place, store=Store(root))), Quiet(), workers=1)

    return Scene(kind="several", name="three runs of a suite", work=work, processes=3)


def command(*words: str) -> None:
    """The command line, in this process; its report has tables and pages, and no drawings, which take seconds."""
    sys.argv = ["robustcl", *words]
    with mock.patch.object(drawing, "save", return_value=[]):
        cli.main()
