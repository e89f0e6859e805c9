"""The only owner of strict import: an encoder of ours or of other people from a file, every tensor of it or none."""

import dataclasses
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from robustcl.models import checkpoint
from robustcl.models.architectures.resnet import Stem
from robustcl.models.encoder import Encoder, Shape
from robustcl.models.errors import UserError
from robustcl.models.foreign import COUNTER, SAYS, Foreign, Origin, decimals, take_apart
from robustcl.models.layouts import Constants
from robustcl.models.plugin import name_of
from robustcl.models.value import plain, value
from robustcl.models.weights import read_weights, state_dict, unread


@value
class Report:
    """What an import did: every tensor of the encoder `matched`, and where each choice that it made came from.

    `alike` are layouts whose files look the same and mean the same. `classes` is the size of a linear head, if the file
    had one. `mean` and `std` are empty where the network sees raw images.
    """

    layout: str
    alike: tuple[str, ...] = ()
    matched: int
    total: int
    nest: str = ""
    prefix: str = ""
    route: str
    routes: tuple[str, ...]
    dropped: int = 0
    first_dropped: str = ""
    classes: int | None = None
    network: dict[str, Any]
    stem_from: Origin = "file"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalised_from: Origin = "file"
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A few lines for people."""
        sizes = ", ".join(f"{key} {entry}" for key, entry in self.network.items() if key != "name")
        alike = f" (files of {' and '.join(self.alike)} look the same)" if self.alike else ""
        found = [
            f"matched {self.matched}/{self.total} tensors of a {self.network['name']} ({sizes})",
            f"layout {self.layout}{alike}"
            + (f", read under '{self.nest}'" if self.nest else "")
            + (f", prefix '{self.prefix}' stripped" if self.prefix else ""),
            f"route {self.route}" + (f", of {', '.join(self.routes)}" if len(self.routes) > 1 else ""),
            f"stem as {SAYS[self.stem_from]}; input {self.normalised} as {SAYS[self.normalised_from]}",
        ]
        if self.dropped:
            head = f", with a linear head of {self.classes} classes" if self.classes else ""
            found.append(f"dropped {self.dropped} tensors beside the encoder (first: {self.first_dropped}){head}")
        return "\n".join([*found, *self.notes])

    @property
    def normalised(self) -> str:
        """What happens to the input, in words."""
        return f"normalised (mean {_short(self.mean)}, std {_short(self.std)})" if self.mean else "raw"


def import_encoder(
    path: str | Path,
    *,
    layout: str | None = None,
    route: str | None = None,
    shape: Shape = (3, 32, 32),
    stem: Stem | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Encoder, Report]:
    """The encoder of a checkpoint of ours or of a known layout, for images of `shape` in [0, 1], and how it was read.

    `route` is kept alone (default: the one that its project judges; `"all"` keeps every one). `layout`, `stem`, `mean`
    and `std` override what is recognised; `()` for both of the latter is raw images. Nothing in the file is executed.

    Errors: `UserError` unless every tensor of the encoder matches and every other one is a known head or copy.
    """
    path = Path(path)
    if layout == "robustcl" or (layout is None and is_ours(path)):
        if (stem, mean, std) != (None, None, None):
            raise UserError(f"{path}: stem, mean or std given, expected none: a file of robustcl says them itself")
        encoder, report = _ours(path)
    elif (mean is None) != (std is None):
        raise UserError(f"{path}: mean {mean} and std {std}, expected both or neither")
    else:
        asked = None if mean is None or std is None else (mean, std)
        encoder, report = _theirs(path, layout, shape, stem, asked)
    if route == "all":
        return encoder, report
    kept = encoder.keep(route or report.route)
    return kept, dataclasses.replace(report, route=kept.routes[0])


def is_ours(path: Path) -> bool:
    """Whether robustcl wrote this file."""
    try:
        with safe_open(path, framework="pt") as file:
            return "robustcl" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _ours(path: Path) -> tuple[Encoder, Report]:
    """The encoder of a file of ours with every route; the report's is the deployed one."""
    encoder = checkpoint.load_encoder(path, "all")
    count = len(encoder.state_dict())
    mean, std = (decimals(part) for part in (encoder.mean, encoder.std))
    raw = not any(mean) and set(std) == {1.0}
    return encoder, Report(
        layout="robustcl",
        matched=count,
        total=count,
        route=str(checkpoint.read(path).description["deploy"]),
        routes=encoder.routes,
        network=encoder.description()["architecture"],
        mean=() if raw else mean,
        std=() if raw else std,
    )


def _theirs(
    path: Path, layout: str | None, shape: Shape, stem: Stem | None, asked: Constants | None
) -> tuple[Encoder, Report]:
    """The encoder of a foreign file with every route; the report's is the one that its project judges."""
    whole = read_weights(path)
    nest, held = state_dict(whole, path)
    found = take_apart(held, layout, str(path))
    network, stem_from = found.network(shape[0], stem)
    (mean, std), normalised_from = found.constants(asked)
    routes = found.routes()
    encoder = Encoder(network, shape, routes=routes, mean=mean or None, std=std or None).eval()
    notes = _load(encoder, found)
    beside = unread(whole, nest)
    if beside:
        notes = (*notes, f"not read: what the file holds beside '{nest}', under {', '.join(beside)}")
    return encoder, Report(
        layout=found.layout.name,
        alike=found.alike,
        matched=len(encoder.state_dict()),
        total=len(encoder.state_dict()),
        nest=nest,
        prefix=found.prefix,
        route="pgd" if "pgd" in routes else routes[0],
        routes=routes,
        dropped=len(found.dropped),
        first_dropped=min(found.dropped, default=""),
        classes=found.classes(),
        network={"name": name_of(network), **plain(network)},
        stem_from=stem_from,
        mean=mean,
        std=std,
        normalised_from=normalised_from,
        notes=notes,
    )


def _load(encoder: Encoder, found: Foreign) -> tuple[str, ...]:
    """Load every tensor or none; what people should know of the file, in lines."""
    counters = [name for name in encoder.state_dict() if name.endswith(COUNTER)]
    old = not any(name.endswith(COUNTER) for name in found.encoder)
    tensors = found.tensors(encoder.routes, counters if old else ())
    checkpoint.match(encoder, tensors, f"{found.where}: layout {found.layout.name}")
    notes = []
    kinds = {str(tensor.dtype) for tensor in found.encoder.values() if tensor.is_floating_point()} - {"torch.float32"}
    if kinds:
        notes.append(f"weights of {', '.join(sorted(kinds))}, judged as float32")
    if not found.fits:
        notes.append(f"warning: the names in the file are not those of layout {found.layout.name}, which was asked for")
    if old:
        notes.append(f"without the counters {COUNTER}, as old files are: begun at 0, no feature depends on them")
    if len(found.layout.routes) > 1 and not found.branched:
        notes.append(f"one branch in each batch norm, called {encoder.routes[0]}: which one it was is not in the file")
    return tuple(notes)


def _short(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)
