"""The only owner of the networks that are measured on: residual ones as drawn, and robust ones, trained once.

The robust ones are PGD-trained for a minute or two on scikit-learn's digits, coloured and enlarged to 3x32x32, and kept
in `runs/benchmarks/`, which git ignores.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architectures.resnet import ResNet
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.seeding import BatchDraws, generator
from robustcl.models.threat import Threat
from robustcl.pretraining.ascent import Ascent

SHAPE, CLASSES = (3, 32, 32), 10
KEPT = Path(__file__).resolve().parent.parent / "runs" / "benchmarks"
TESTED = 297  # the last of the 1,797 digits

Digits = tuple[Tensor, Tensor]
"""Images (n, 3, 32, 32) in [0, 1], labels (n,)."""


def resnet(width: int) -> Classifier:
    """ResNet-18 of this width as it was drawn, in eval mode; 64 is the usual one, of 555 MMAC."""
    torch.manual_seed(0)
    encoder = Encoder(ResNet(width=width), SHAPE, seed=0)
    return Classifier(encoder, nn.Linear(8 * width, CLASSES)).eval()


def cnn() -> nn.Sequential:
    """Three convolutions with batch norm and a linear layer: 0.7 MMAC per image."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 8, 1), (8, 16, 2), (16, 24, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 64, CLASSES)).eval()


def digits() -> tuple[Digits, Digits]:
    """The digits for training and for attacking, each in a colour of its own on a ground of its own."""
    from sklearn.datasets import load_digits

    found = load_digits()
    ink = torch.from_numpy(found.images).float().div(16)[:, None]
    ink = F.interpolate(ink, size=SHAPE[1:], mode="bilinear", align_corners=False)
    colours = torch.rand(2, len(ink), 3, 1, 1, generator=torch.Generator().manual_seed(0))
    light, dark = 0.7 + 0.3 * colours[0], 0.3 * colours[1]
    images, labels = dark + (light - dark) * ink, torch.from_numpy(found.target).long()
    return (images[:-TESTED], labels[:-TESTED]), (images[-TESTED:], labels[-TESTED:])


def robust(name: str, model: nn.Module, eps: str, epochs: int) -> nn.Module:
    """The model PGD-trained at `eps` (7 steps of eps / 4), from its file where there is one; 0 is clean training."""
    path = KEPT / f"{name}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return model.eval()
    images, labels = digits()[0]
    threat, ascent = Threat(eps), Ascent(steps=7 if eps != "0" else 0, init="random" if eps != "0" else "clean")
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (len(images) // 100))
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator(0, "order", epoch))
        for number, rows in enumerate(order.split(100)):
            draws = BatchDraws(generator(0, "start", epoch, number))
            x, y = ascended(model, ascent, threat, (images[rows], labels[rows]), draws), labels[rows]
            model.train()
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
            schedule.step()
    KEPT.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model.eval()


def ascended(model: nn.Module, ascent: Ascent, threat: Threat, batch: Digits, draws: BatchDraws) -> Tensor:
    """The images of a batch, moved up the cross-entropy."""
    x, y = batch
    return ascent(lambda point: F.cross_entropy(model(point), y, reduction="sum"), x, threat, model, draws)
