"""Makes `tests/old/<version>/`: small files of every format as this version writes them, and what they say.

`python -m tests.old.make` from the checkout, before a release, takes seconds and refuses to touch a folder that is
there: what an old version wrote never changes. `values.json` holds what this version's readers found, and the tests ask
later readers for the same.
"""

import json
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch

from robustcl import __version__
from robustcl.bench import runner
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.pgd import PGD
from robustcl.models.checkpoint import load_classifier, load_encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Targets, build_net, read_method
from robustcl.reports.baseline import Baseline, rows_of, write_baseline
from robustcl.reports.frame import frame
from tests.bench.tiny import Quiet, write_suite
from tests.old.values import values

HERE = Path(__file__).parent
MORE = """
sweep = { eps = ["1/20"], judges = ["pgd-3"] }
corruptions = { path = "corrupted", names = ["fog"], severities = [1, 3] }

[labels.groups]
encoder = "at"
k = [3]

[pretrain.advcl]
method = "advcl"
labels = "groups"
strong = "digits"
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 2, batch = 64, snapshots = [1] }

[probes.thumbnails]
images = 6

[probes.frequency]
images = 12

[probes.landscape]
images = 4
points = 3
steps = 1
rows = ["at"]
"""
SMALL = ("data.train=128", "judge.images=24", "judge.judges=['pgd-3', 'autoattack', 'aa-estimate']")


def main() -> None:
    """Write the folder of this version."""
    target = HERE / __version__
    if target.exists():
        sys.exit(f"{target}: is there, and stays as it was written")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as hidden:
        folder = Path(hidden) / __version__
        folder.mkdir()
        run(Path(hidden), folder / "run")
        beside(folder)
        (folder / "values.json").write_text(json.dumps(values(folder), indent=1, sort_keys=True) + "\n")
        shutil.copytree(folder, target)


def run(work: Path, runs: Path) -> None:
    """A run folder with a stage of every kind that needs nobody else's files."""
    (work / "corrupted").mkdir()
    train, test = Digits().load()
    order = torch.cat([train.index, test.index]).argsort()
    pixels = torch.cat([train.pixels, test.pixels])[order].permute(0, 2, 3, 1).numpy()
    np.save(work / "corrupted" / "labels.npy", np.tile(torch.cat([train.labels, test.labels])[order].numpy(), 5))
    np.save(work / "corrupted" / "fog.npy", np.tile(pixels // 2, (5, 1, 1, 1)))
    with chdir(work):  # no path of this machine in what is kept
        job = runner.prepare(write_suite(work, "old", MORE), runs=runs, overrides=SMALL)
        runner.make(job, Quiet(), workers=1)
    shutil.rmtree(runs / ".locks")


def beside(folder: Path) -> None:
    """Files that lie outside run folders: baselines of both versions, images, a state of training."""
    runs = folder / "run"
    records = frame(runs)
    rows = rows_of(records)
    whole = tuple(row for row in rows if not row.estimate)
    write_baseline(folder / "baseline-1.parquet", Baseline(rows=whole))
    write_baseline(folder / "baseline-2.parquet", Baseline(rows=rows, about={"suite": "old"}))
    images = Digits().load().test.take(slice(0, 8))
    classifier = load_classifier(next(runs.glob("finetune/*/classifier.safetensors")))
    trial = Trial(threat=Threat("1/10"), judges={"pgd": [PGD(steps=3)]}, save=folder / "adversarial.npz")
    judge(classifier, images, trial)
    method = read_method({"method": "supervised", "weak": "digits-weak", "training": {"epochs": 1, "batch": 4}}, "old")
    encoder = load_encoder(next(runs.glob("pretrain/*/encoder.safetensors")), "all")
    net = build_net(method, encoder, Targets(classes=10), 0)
    fit(method, net, images, Run(seed=0, threat=Threat("1/10"), keep=folder / "training.safetensors"))


if __name__ == "__main__":
    main()
