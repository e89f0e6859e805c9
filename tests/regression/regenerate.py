"""Makes the stored files of the regression gate: `python -m tests.regression.regenerate` from the checkout.

It trains a small classifier adversarially with the project's own code (about 10 s), judges it on the first 96 test
digits with PGD-20 and AutoAttack standard at the quickstart's threat (about 30 s), and refuses to write unless
between 20 and 80 % stay right under AutoAttack. Run it only when a change moves answers on purpose, and say so.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from robustcl.bench import records
from robustcl.bench.attacks import judges
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.spec import read_suite
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.checkpoint import save_classifier
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.models.value import plain, read
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Targets, Training, build_net, read_method
from robustcl.pretraining.optim import Optimiser

FOLDER = Path(__file__).parent / "stored"
JUDGES = ("pgd-20", "autoattack")
IMAGES = 96


def judged(model: nn.Module, threat: Threat, names: tuple[str, ...] = JUDGES) -> pd.DataFrame:
    """The quickstart's judge on the first 96 test digits."""
    images = Digits().load().test.take(slice(0, IMAGES))
    return judge(model, images, Trial(threat=threat, judges=judges(names, 10), seed=0, batch=IMAGES))


def right(found: pd.DataFrame) -> dict[str, dict[int, bool]]:
    """Judge -> image -> whether it is right; an image that a judge was not given was wrong before."""
    images = [int(image) for image in found["image"].unique()]
    clean = found[found["judge"] == "clean"].set_index("image")["right"]
    answers = {"clean": {image: bool(clean[image]) for image in images}}
    for name in (str(one) for one in found["judge"].unique() if one != "clean"):
        held = found[found["judge"] == name].groupby("image")["right"].all()
        answers[name] = {image: bool(clean[image] and held.get(image, False)) for image in images}
    return answers


def regenerate(epochs: int = 20) -> None:
    """Train, judge, check and write."""
    torch.set_num_threads(1)
    threat = read_suite("quickstart")[0].threat
    train = Digits().load().train
    method = read_method({"method": "supervised", "weak": "digits-weak", "ascent": {"steps": 5}}, "regenerate")
    training = Training(epochs=epochs, batch=128, optimiser=Optimiser(name="sgd", lr=0.1, weight_decay=5e-4))
    method = read_method({"method": "supervised", **plain(method), "training": plain(training)}, "regenerate")
    encoder = Encoder(Tiny(width=8), train.shape, routes=method.routes, seed=0)
    net = build_net(method, encoder, Targets(classes=10), 0)
    fit(method, net, train, Run(seed=0, threat=threat, where="regenerate"))
    head = net.heads["classes"]
    assert isinstance(head, nn.Linear)
    model = Classifier(net.encoder, head).eval()
    found = judged(model, threat)
    share = {name: sum(answers.values()) / IMAGES for name, answers in right(found).items()}
    print(share)
    if not 0.2 < share["autoattack"] < 0.8:
        raise SystemExit(f"AA {share['autoattack']:.0%}, expected 20 to 80 %: a gate at the ends sees nothing")
    FOLDER.mkdir(exist_ok=True)
    save_classifier(FOLDER / "classifier.safetensors", model)
    records.write(FOLDER / "records.parquet", found)
    (FOLDER / "threat.json").write_text(json.dumps(plain(threat)) + "\n")


def stored_threat() -> Threat:
    """The threat of the stored records."""
    held: dict[str, Any] = json.loads((FOLDER / "threat.json").read_text())
    return read(Threat, held, "threat.json")


if __name__ == "__main__":
    regenerate()
