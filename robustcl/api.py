"""The only owner of the Python front door: run, evaluate, pretrain, load_encoder, import_encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robustcl.bench import shards
from robustcl.bench.attacks import Attack, Engine, Plain, judges
from robustcl.bench.budget import Check, blocks, within
from robustcl.bench.cluster import asked_for
from robustcl.bench.estimate import designs, refuse
from robustcl.bench.evaluate import Model, Trial, count_classes, judge
from robustcl.bench.fingerprint import fingerprints
from robustcl.bench.pace import duration
from robustcl.bench.reliability import check
from robustcl.bench.runner import make, prepare
from robustcl.bench.strays import Strays
from robustcl.console import Display
from robustcl.models.architecture import Architecture, read_architecture
from robustcl.models.architectures.resnet import Stem
from robustcl.models.convert import import_encoder as import_encoder
from robustcl.models.encoder import Encoder, Shape
from robustcl.models.errors import UserError, nearest
from robustcl.models.share import processes
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images, check_pixels
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Method, Targets, build_net, read_method
from robustcl.reports.evaluation import Evaluation
from robustcl.reports.report import Report, report


def run(
    suite: str | Path,
    *,
    runs: str | Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    overrides: Sequence[str] = (),
    offline: bool = False,
    executor: str = "local",
    address: str | None = None,
    gpus_per_stage: float | None = None,
) -> Report:
    """Run a suite (a name that comes with robustcl, or a path that ends in `.toml`) and report on it.

    What `runs` (default `runs/<suite>`) holds already is not made again. `overrides` are texts `path.to.key=value`;
    `workers` defaults to one per core, with one torch thread each. In a process that torchrun started, or within a
    process group of torch.distributed, all processes call this alike and run the suite together (docs/devices.md).
    With the `executor` `ray` stages are tasks of the Ray cluster at `address` (`auto`, or HOST:PORT of its head), else
    of one on this machine that ends with the call; on `cuda` a stage takes `gpus_per_stage`, default 1
    (docs/clusters.md).
    Errors: `UserError`, `NumberError`, `LostError`.
    """
    ray = asked_for(executor, address, gpus_per_stage, device)
    job = prepare(suite, runs=runs, device=device, overrides=overrides, offline=offline, elsewhere=ray is not None)
    rank = processes()[0]
    with Display(job.plan.cost, job.missing, job.place.store, quiet=rank > 0) as display:
        make(job, display, workers, ray)
    if rank == 0:
        return report(job.place.store.root)
    with TemporaryDirectory() as folder:  # the first process writes into the run folder
        return report(job.place.store.root, folder)


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    threat: Threat,
    attacks: Sequence[str | Attack | Plain] = ("pgd-20", "autoattack"),
    seed: int = 0,
    batch_size: int = 256,
    engine: str | Engine = "fast",
    index: Tensor | None = None,
    budget: float | None = None,
    workers: int = 1,
    checks: bool = True,
) -> Evaluation:
    """Judge any torch classifier: raw images in, logits out, its normalisation inside.

    `images` (n, channels, height, width), float32 in [0, 1] or uint8; `labels` (n,) integers; `index` (n,) says which
    images of the official split they are (default 0 to n - 1). `attacks` are names (`pgd-<steps>`, `autoattack`, or one
    of its members), `Attack` values, or callables `(model, x, y, threat, generator) -> x_adv`. Results do not depend on
    `batch_size`. AutoAttack is run by `engine`: our own (`fast`), or the released package (`reference`), which draws
    per batch, so that `batch_size` is part of what it does; `Engine(precision="bfloat16")` searches in half precision
    and confirms in float32 (docs/speed.md). The model's modes, gradient flags and device
    stay as they are, and no global generator moves. `checks` looks at up to 128 of the images for signs that the
    numbers only look good (docs/trust.md), at 168 passes for each.

    With several `workers` the batches are shared by forks of this process, of one torch thread each, or for a model on
    CUDA by that many GPUs; the records are the same (docs/devices.md).

    With a `budget` (seconds) the images are judged in a fixed random order, in blocks of `batch_size`, until the time
    is over; whole blocks alone count, and one in any case (see `robustcl.bench.budget.within`). The evaluation is then
    of the images that were judged, in the order in which they were given; `order` says which.

    Errors: `UserError` for images outside [0, 1], labels outside the classes, answers that are not logits (n, classes);
    `NumberError` where the model answers NaN.
    """
    if not isinstance(threat, Threat):
        raise UserError(f"evaluate: threat {threat!r}, expected a Threat such as Threat('8/255')")
    for name, given in {"images": images, "labels": labels}.items():
        if not isinstance(given, Tensor):
            raise UserError(f"evaluate: {name} of type {type(given).__name__}, expected a torch tensor")
    for name, number, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if not isinstance(number, int) or number < least:
            raise UserError(f"evaluate: {name} {number!r}, expected an integer of at least {least}")
    if budget is not None and (not isinstance(budget, int | float) or not budget > 0):
        raise UserError(f"evaluate: budget {budget!r}, expected seconds above 0")
    device = next((p.device for p in getattr(model, "parameters", list)()), torch.device("cpu"))
    check_pixels(images.detach(), "evaluate")  # before the model sees them
    classes = count_classes(model, images[:1].to(device))
    whole = Images(images.detach(), labels.detach(), classes=classes, index=index, name="evaluate").to(device)
    shards.check(workers, str(device), budget)
    how = engine if isinstance(engine, Engine) else Engine(name=engine, batch=batch_size)
    held, strays = judges(attacks, classes, how), Strays()
    trial = Trial(threat=threat, judges=held, seed=seed, batch=batch_size, workers=workers, watch=strays.see)
    names = {name: [attack.name for attack in bench] for name, bench in trial.judges.items()}
    told = ""
    if budget is None:
        records = judge(model, whole, trial)
    else:
        refuse(held, "evaluate: no budget, which judges block by block")
        records = _within(budget, model, whole, trial)
        whole = whole.take(torch.isin(whole.index, torch.tensor(records["image"].unique(), device=device)))
        told = f"{len(whole)} of {len(labels)} images in random order, budget {duration(budget)}"
    return Evaluation(
        records,
        whole.index.tolist(),
        threat=str(threat),
        judges=names,
        protocol=told,
        fingerprints=fingerprints(trial.judges, threat, seed, classes),
        designs=designs(records, held, classes, threat.norm, seed),
        checked=check(model, whole, trial, records).beside(strays.findings()) if checks else None,
    )


def _within(seconds: float, model: Model, images: Images, trial: Trial) -> pd.DataFrame:
    """The records of the blocks that could be judged within the time."""

    def block(part: Images, check: Check) -> pd.DataFrame:
        return judge(model, part, replace(trial, report=lambda done, total: check()))

    return pd.concat(within(seconds, blocks(images, trial.batch), block), ignore_index=True)


def pretrain(
    method: str | Method,
    images: Tensor,
    *,
    encoder: str | Architecture | Mapping[str, Any] = "resnet",
    threat: Threat | None = None,
    labels: Tensor | None = None,
    pseudo: Mapping[int, Tensor] | None = None,
    given: Mapping[str, Encoder] | None = None,
    seed: int = 0,
    keep: str | Path | None = None,
    device: str = "cpu",
) -> Encoder:
    """Pretrain an encoder on `images` (n, channels, height, width), float32 in [0, 1] or uint8; all its routes stay.

    `labels` (n,) are for supervised methods, `pseudo` (K -> (n,) labels below K) for AdvCL, `given` are the encoders
    that a method needs, by their roles, such as `{"teacher": encoder}`. `keep` is a file for the state after each
    epoch, from which an interrupted call goes on. What is returned is what the method deploys: the trained encoder, or
    the copy that moves beside it. Errors: `UserError`, `NumberError`.
    """
    chosen = read_method({"method": method}, "pretrain") if isinstance(method, str) else method
    needs, given = chosen.facts.needs, given or {}
    for role in given:
        if role not in needs:
            says = f"the method needs {' and '.join(needs) or 'no encoder'}"
            raise UserError(f"pretrain: given '{role}', {says}{nearest(role, needs)}")
    check_pixels(images, "pretrain")
    if chosen.supervision == "labels" and labels is None:
        raise UserError("pretrain: the method reads labels, expected labels=")
    if chosen.supervision == "pseudo" and not pseudo:
        raise UserError("pretrain: the method reads pseudo-labels, expected pseudo={K: labels}, see pseudo_labels")
    for k, part in (pseudo or {}).items():
        if part.shape != (len(images),) or int(part.min()) < -1 or int(part.max()) >= k:
            raise UserError(
                f"pretrain: pseudo[{k}] of shape {tuple(part.shape)}, expected {len(images)} labels below {k}"
            )
    known = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    classes = int(known.max()) + 1 if known.numel() else 1
    whole = Images(images, known, classes=classes, name="pretrain").to(device)
    table = {"name": encoder} if isinstance(encoder, str) else encoder
    architecture = table if isinstance(table, Architecture) else read_architecture(table, "encoder")
    made = Encoder(architecture, whole.shape, routes=chosen.routes, seed=seed)
    targets = Targets(classes=whole.classes, pseudo=pseudo or {})
    net = build_net(chosen, made, targets, seed, given).to(device)
    path = Path(keep) if keep else None
    fit(chosen, net, whole, Run(seed=seed, threat=threat, pseudo=pseudo or {}, keep=path, where="pretrain"))
    return net.deployed(chosen.facts.network)


def load_encoder(
    path: str | Path,
    route: str | None = None,
    layout: str | None = None,
    *,
    shape: Shape = (3, 32, 32),
    stem: Stem | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Encoder:
    """The encoder of a checkpoint, ours or of another project, on one route (`"all"` keeps every route), in eval mode.

    Without `route` it is the one that the method deploys, or that its project judges. The rest is for files of others
    alone, as for `import_encoder`, which also says how the file was read. Errors: `UserError` unless every tensor
    matches.
    """
    return import_encoder(path, layout=layout, route=route, shape=shape, stem=stem, mean=mean, std=std)[0]
