"""The only owner of labels that are known of some images alone: which ones, and how batches share them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcl.models.seeding import generator
from robustcl.models.value import digest
from robustcl.pretraining.images import Images


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Which images have labels, `known` (n,) bool, and what a classifier answers for all, `logits` (n, classes)."""

    known: Tensor
    logits: Tensor

    @property
    def identity(self) -> str:
        """What tells it from another."""
        return digest([self.known.tolist(), self.logits.tolist()])

    def take(self, rows: Tensor) -> "Partial":
        """What is known of these images."""
        rows = rows.to(self.known.device)
        return Partial(known=self.known[rows], logits=self.logits[rows])

    def batches(self, order: Tensor, size: int) -> list[Tensor]:
        """The rows of an epoch in about `size` per batch, each with its share of those that have labels.

        1 % of batches of 200 are 2 and 198, as in ACL's released code. Where there are fewer labels than batches, they
        come again, so that each batch has one.
        """
        known = self.known.cpu()[order]
        steps = math.ceil(len(order) / size)
        few, many = order[known], order[~known]
        few = few.repeat(math.ceil(steps / max(len(few), 1)))[: max(len(few), steps)]
        pairs = zip(few.tensor_split(steps), many.tensor_split(steps), strict=True)
        return [torch.cat(pair) for pair in pairs]


def some(images: Images, share: float) -> Tensor:
    """(n,) bool: the `share` of every class that has labels, at least one image of each; always the same images.

    A smaller share is a part of a larger one. Every label is read here, as whoever draws a sample by class has to, and
    none but those of the sample afterwards. ACL ships lists of images, which are not drawn by class.
    """
    labels, found = images.labels.cpu(), torch.zeros(len(images), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator(0, "labelled", label))]
        found[rows[: max(round(share * len(rows)), 1)]] = True
    return found.to(images.labels.device)


def hidden(images: Images, known: Tensor) -> Images:
    """The same images with the labels of all but the `known` ones gone (0)."""
    labels = torch.where(known, images.labels, 0)
    return Images(images.pixels, labels, classes=images.classes, index=images.index, name=images.name)
