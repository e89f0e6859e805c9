"""The only owner of the fuzz of label readers: pseudo-labels, the labels of corruptions, Tiny ImageNet's lists."""

import io
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustcl.bench import corruptions
from robustcl.bench.datasets.tiny_imagenet import TinyImagenet
from robustcl.pretraining.images import Images
from robustcl.pretraining.pseudo_labels import balance, load_labels
from tests.fuzz.changes import either, npy_changed, npz_changed
from tests.fuzz.desk import folder, laid
from tests.fuzz.target import Target

N = 12
PICTURES = ("train/n1/images/n1_0.JPEG", "train/n2/images/n2_0.JPEG", "val/images/a.JPEG")
LISTS = ("wnids.txt", "val/val_annotations.txt")


def read(data: bytes) -> None:
    """The labels of a file; its first byte says by which reader."""
    kind, content = data[:1], data[1:]
    if not kind or kind[0] % 4 == 0:
        balance(load_labels(laid(content, "labels.npz"), N))
    elif kind[0] % 4 == 1:
        images = Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), classes=10, name="cifar10 test")
        corruptions.check({"labels": laid(content, "labels.npy")}, images)
    else:
        lists = dict(zip(LISTS, (b"n1\nn2\n", b"a.JPEG\tn1\t0\n"), strict=True))
        lists[LISTS[kind[0] % 2]] = content
        for name, text in {**lists, **dict.fromkeys(PICTURES, _picture())}.items():
            laid(text, f"tiny-imagenet-200/{name}")
        TinyImagenet(path=folder(), size=4).read()


@cache
def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def seeds() -> Mapping[str, bytes]:
    """Labels for two K, the labels of corruptions, the lists of Tiny ImageNet."""
    few = np.arange(N, dtype=np.int32)
    return {
        "pseudo": b"\0" + npz(k_2=few % 2, k_4=few % 4 - 1),
        "corruptions": b"\1" + npy(np.tile(np.arange(4), 5)),
        "wnids": b"\2n1\nn2\n",
        "annotations": b"\3a.JPEG\tn1\t0\t0\t9\t9\na.JPEG\tn2\n",
    }


def npz(**arrays: Any) -> bytes:
    """Arrays as an npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    """An array as an npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def lines_changed(data: bytes, draw: Random) -> bytes:
    """Text with pieces exchanged, lost or doubled."""
    pieces = data.replace(b"\n", b"\n\0").replace(b"\t", b"\t\0").split(b"\0")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(pieces))
        pieces[at] = draw.choice((b"", pieces[at] * 2, draw.choice(pieces), b"\xff", b"../../etc/passwd\t", b"n1\n"))
    return b"".join(pieces)


TARGET = Target(
    read=read, seeds=seeds, mutate=either(npz_changed, npy_changed, lines_changed, lines_changed), share=0.2
)
