"""The only owner of what tests of every scheme share: their names, and what a run of one needs beside images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from robustcl.bench.profiles import DEFAULT, read_scheme, schemes
from robustcl.bench.scheme import Scheme
from robustcl.bench.schemes.semi import Semi
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run
from robustcl.pretraining.method import Method
from robustcl.pretraining.partial import Partial
from robustcl.pretraining.selection import Validation


def every_scheme() -> list[str]:
    """Every scheme of the default profile by its name, and those of AutoLoRa as `autolora/<name>`."""
    return [*schemes(), *(f"autolora/{name}" for name in schemes("autolora"))]


def is_scheme(case: str) -> bool:
    """Whether a case is a scheme."""
    return case in every_scheme()


def scheme(case: str, table: Mapping[str, Any] | None = None) -> Scheme:
    """A scheme by its name in `every_scheme`, with the fields of `table`."""
    profile, _, name = case.rpartition("/")
    return read_scheme({"scheme": name, **(table or {})}, "test", profile or DEFAULT)


def fitted(method: Method, images: Images, run: Run) -> Run:
    """The run with what the method needs: every third image has a label; two others are asked after every epoch."""
    if isinstance(method, Semi):
        known = torch.arange(len(images)) % 3 == 0
        logits = torch.linspace(-1, 1, images.classes).roll(1) + torch.arange(len(images))[:, None] % 2
        run = replace(run, partial=Partial(known=known, logits=logits * (1 + torch.arange(images.classes))))
    if isinstance(method, Scheme) and method.held:
        held = images.take(slice(0, 2))
        run = replace(run, validation=Validation(held, run.threat if method.attacked else None, run.seed))
    return run
