"""The only owner of the fuzz of arrays: data sets, adversarial images, what probes wrote."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from robustcl.bench import adversarial
from robustcl.bench.datasets.npz import Npz
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.reports.folder import arrays_of
from tests.fuzz.changes import either, npz_changed
from tests.fuzz.desk import laid
from tests.fuzz.target import Target
from tests.fuzz.targets.labels import npz


def read(data: bytes) -> None:
    """The arrays of a file; its first byte says by which reader."""
    kind, path = data[:1] or b"\0", laid(data[1:], "arrays.npz")
    if kind[0] % 3 == 0:
        Npz(path=path).load()
    elif kind[0] % 3 == 1:
        adversarial.Saved(path=path).cost(10)
    else:
        arrays_of(path)


def seeds() -> Mapping[str, bytes]:
    """Grey and coloured sets, adversarial images, thumbnails."""
    grey, labels = np.zeros((3, 4, 5), dtype=np.uint8), np.arange(3)
    held = {"train_images": grey, "train_labels": labels, "test_images": grey[:2], "test_labels": labels[:2]}
    coloured = np.full((2, 4, 4, 3), 0.5, dtype=np.float32)
    images = Images(torch.from_numpy(grey[:, None]), torch.from_numpy(labels), classes=3, name="grey")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        points = (images.floats(slice(None)), torch.tensor([True, False, True]))
        adversarial.save(path, images, Threat("8/255"), {"pgd-20": points})
        saved = path.read_bytes()
    return {
        "grey": b"\0" + npz(**held, test_index=labels[:2]),
        "coloured": b"\0"
        + npz(**held | {"train_images": coloured, "train_labels": labels[:2], "test_images": coloured}),
        "adversarial": b"\1" + saved,
        "thumbnails": b"\2" + npz(image=labels, label=labels, pixels=grey[:, None]),
    }


TARGET = Target(read=read, seeds=seeds, mutate=either(npz_changed, npz_changed, npz_changed), share=0.15)
