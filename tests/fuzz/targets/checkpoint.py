"""The only owner of the fuzz of our checkpoints: encoders, classifiers, kept states of training."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from tests.fuzz.changes import safetensors_changed
from tests.fuzz.desk import laid
from tests.fuzz.target import Target


def read(data: bytes) -> None:
    """A checkpoint as whatever it may be, and an image through what came of it."""
    path = laid(data, "weights.safetensors")
    found = checkpoint.read(path)
    for load in (checkpoint.load_encoder, checkpoint.load_classifier):
        try:
            network = load(path)
        except UserError:
            continue
        encoder = network.encoder if isinstance(network, Classifier) else network
        if max(encoder.shape) <= 64:
            network(torch.zeros(1, *encoder.shape))
    checkpoint.read(path).tensors.keys() - found.tensors.keys()


def seeds() -> Mapping[str, bytes]:
    """An encoder of one route, one of two, a classifier, a state; and a file of nobody's."""
    body = Tiny(width=1, blocks=(1,))
    one = Encoder(body, (1, 8, 8), mean=(0.5,), std=(0.2,))
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        checkpoint.save_encoder(path, one, "normal")
        made["encoder"] = path.read_bytes()
        checkpoint.save_encoder(path, Encoder(body, (1, 8, 8), routes=("normal", "pgd")), "pgd")
        made["routes"] = path.read_bytes()
        checkpoint.save_classifier(path, Classifier(one, nn.Linear(one.width, 3)))
        made["classifier"] = path.read_bytes()
        checkpoint.write(path, "training", {"identity": "x", "history": "[]"}, {"net/a": torch.zeros(2)})
        made["training"] = path.read_bytes()
    return made


TARGET = Target(read=read, seeds=seeds, mutate=safetensors_changed, share=0.17)
