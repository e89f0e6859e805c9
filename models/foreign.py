"""The only owner of taking a foreign state dict apart: the encoder by our names, its constants, and the rest."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustcl.models.architectures.resnet import ResNet, Stem
from robustcl.models.errors import UserError
from robustcl.models.layouts import (
    COPIES,
    HEADS,
    LAYOUTS,
    RENAMES,
    SEQUENTIAL,
    Constants,
    Layout,
    find_layout,
    recognise,
)

Origin = Literal["file", "layout", "caller"]
SAYS = {"file": "the file says", "layout": "the layout has it", "caller": "asked for"}
COUNTER = "num_batches_tracked"
NORM = re.compile(
    r"(?P<norm>stem\.1|stages\.\d\.\d+\.(?:bn\d|shortcut\.1))\.(?:branches\.(?P<branch>\d+)\.)?"
    rf"(?P<part>weight|bias|running_mean|running_var|{COUNTER})"
)
DEPTHS: Mapping[tuple[bool, tuple[int, ...]], Literal[18, 34, 50]] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A foreign state dict, taken apart.

    `encoder` has the names of a body of ours, with branches by number; `stored` are the constants that normalise the
    input, where the file has them; `dropped` are heads and copies. `fits` says whether the names are those of the
    layout, as they need not be where it was asked for. `where` begins the line of every error.
    """

    where: str
    layout: Layout
    fits: bool
    alike: tuple[str, ...]
    prefix: str
    encoder: Mapping[str, Tensor]
    stored: Constants | None
    dropped: Mapping[str, Tensor]

    def network(self, channels: int, stem: Stem | None) -> tuple[ResNet, Origin]:
        """The architecture, from names and shapes; the stem's padding, which no shape tells, from the layout or `stem`.

        Errors: `UserError` for another depth, a first convolution of another size or other channels.
        """
        shape = tuple(self.encoder["stem.0.weight"].shape)
        if len(shape) != 4 or shape[1] != channels or shape[2:] not in ((3, 3), (7, 7)):
            raise UserError(
                f"{self.where}: a first convolution of shape {shape}, expected 3x3 or 7x7 on {channels} channels"
            )
        found = self.layout.rules(shape[2])
        if found is None or (stem is not None and (stem == "7x7") != (shape[2] == 7)):
            asked = f"stem {stem}" if stem else f"layout {self.layout.name}"
            raise UserError(f"{self.where}: a first convolution of {shape[2]}x{shape[2]}, which is not that of {asked}")
        chosen = stem or found[0]
        origin: Origin = "file" if chosen == "7x7" else "caller" if stem else "layout"
        return ResNet(depth=self._depth(), width=shape[0], stem=chosen), origin

    def _depth(self) -> Literal[18, 34, 50]:
        places = {tuple(map(int, name.split(".")[1:3])) for name in self.encoder if name.startswith("stages.")}
        counts = tuple(sum(stage == number for stage, _ in places) for number in range(4))
        deep = any(".conv3." in name for name in self.encoder)
        if (deep, counts) not in DEPTHS:
            kind = "bottlenecks" if deep else "basic blocks"
            raise UserError(f"{self.where}: stages of {counts} {kind}, expected those of a ResNet-18, 34 or 50")
        return DEPTHS[deep, counts]

    def constants(self, asked: Constants | None) -> tuple[Constants, Origin]:
        """What normalises the input: as asked, or as the file says, or as the layout has it.

        Errors: `UserError` where they are not one number per channel, or not those of images in [0, 1].
        """
        channels, kernel = self.encoder["stem.0.weight"].shape[1:3]
        rules = self.layout.rules(kernel)
        assert rules is not None
        found: tuple[Constants, Origin] = (rules[1], "layout") if self.stored is None else (self.stored, "file")
        found = found if asked is None else (asked, "caller")
        (mean, std), origin = found
        if any(part and len(part) != channels for part in (mean, std)):
            raise UserError(
                f"{self.where}: mean {mean} and std {std} as {SAYS[origin]}, expected {channels} numbers each; "
                "set mean and std"
            )
        if not all(math.isfinite(n) and 0 <= n <= 1 for n in (*mean, *std)) or 0 in std:
            raise UserError(
                f"{self.where}: mean {mean} and std {std} as {SAYS[origin]}, expected those of images in [0, 1]; "
                "where they are of 0 to 255, set mean and std to these numbers / 255"
            )
        return found

    @property
    def branched(self) -> bool:
        """Whether batch norms have branches by number."""
        return any(".branches." in name for name in self.encoder)

    def routes(self) -> tuple[str, ...]:
        """The names of the branches, in official order; that of the only one where there are none.

        Errors: `UserError` for more of them than the layout knows, and where only some batch norms have them.
        """
        found = {match["branch"] for name in self.encoder if (match := NORM.fullmatch(name))}
        numbers = sorted(int(number) for number in found if number is not None)
        if None in found and numbers:
            raise UserError(f"{self.where}: some batch norms have branches and others have none, expected all or none")
        if numbers != list(range(len(numbers))) or len(numbers) > len(self.layout.routes):
            raise UserError(
                f"{self.where}: batch-norm branches {numbers}, expected those of {', '.join(self.layout.routes)} from 0"
            )
        return self.layout.routes[: len(numbers)] if numbers else (self.layout.single,)

    def tensors(self, routes: tuple[str, ...], missing_counters: Collection[str]) -> dict[str, Tensor]:
        """The tensors by the names that an encoder with these routes has; counters that old files lack are 0."""
        made: dict[str, Tensor] = {name: torch.zeros((), dtype=torch.int64) for name in missing_counters}
        for name, tensor in self.encoder.items():
            match = NORM.fullmatch(name)
            if match:
                name = f"{match['norm']}.branches.{routes[int(match['branch'] or 0)]}.{match['part']}"
            made[f"body.{name}"] = tensor
        return made

    def classes(self) -> int | None:
        """The size of the linear head that was dropped, where there was one."""
        linear = re.compile(r"(^|\.)(fc|linear|classifier)\.weight$")
        found = [len(tensor) for name, tensor in self.dropped.items() if linear.search(name) and tensor.ndim == 2]
        return found[0] if found else None


def take_apart(tensors: Mapping[str, Tensor], layout: str | None, where: str) -> Foreign:
    """Sort the tensors of a file of the layout, or (None) of the one that they are recognised as.

    Errors: `UserError` for an unknown layout, a tensor of no known name, and NaN or infinity in one.
    """
    bare = {re.sub(r"(^|\.)module\.", r"\1", name): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise UserError(f"{where}: the same names with and without 'module.', expected one kind")
    chosen, alike = _layout(bare, layout, where)
    inner = _prefix(bare, chosen.prefixes)
    if inner is None:
        places = " or ".join(repr(prefix + "conv1.weight") for prefix in chosen.prefixes)
        raise UserError(f"{where}: no first convolution, expected {places} as in layout {chosen.name}")
    encoder, dropped, stored = _sorted(bare, inner, where)
    for name, tensor in encoder.items():
        if tensor.dim() > 4:  # torch itself stumbles over more than 64
            raise UserError(f"{where}: {name}: {tensor.dim()} dimensions, expected weights of at most four")
        if not name.endswith(COUNTER) and not (tensor.is_floating_point() and torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name}: NaN, infinity or integers of type {tensor.dtype}, expected weights")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise UserError(f"{where}: {name}: a variance below 0, expected weights")
    return Foreign(
        where=where,
        layout=chosen,
        fits=chosen.known_by(bare),
        alike=alike,
        prefix=("module." if all(name.startswith("module.") for name in tensors) else "") + inner,
        encoder=encoder,
        stored=_constants(stored, where),
        dropped=dropped,
    )


def _layout(bare: Mapping[str, Tensor], name: str | None, where: str) -> tuple[Layout, tuple[str, ...]]:
    if name is not None:
        return find_layout(name, where), ()
    known = _prefix(bare, [prefix for layout in LAYOUTS for prefix in layout.prefixes])
    first = None if known is None else bare[_first(bare, known)]
    kernel = int(first.shape[-1]) if first is not None and first.ndim == 4 else 3
    constants = {key.rpartition(".")[2]: bare[key] for key in bare if re.search(r"normalize\.(mean|std)$", key)}
    stored = _constants(constants, where)
    chosen, *others = recognise(bare, kernel, stored, where)
    return chosen, tuple(layout.name for layout in others)


def _first(names: Collection[str], prefix: str) -> str:
    """The name of the first convolution below a prefix."""
    return f"{prefix}conv1.weight" if f"{prefix}conv1.weight" in names else f"{prefix}0.weight"


def _prefix(names: Collection[str], prefixes: Collection[str]) -> str | None:
    return next((prefix for prefix in prefixes if _first(names, prefix) in names), None)


def _sorted(
    bare: Mapping[str, Tensor], inner: str, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The encoder by our names, what is dropped by its own, and `mean` and `std`."""
    children = next((names for mark, names in SEQUENTIAL.items() if any(n.startswith(inner + mark) for n in bare)), ())
    encoder: dict[str, Tensor] = {}
    dropped: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    odd: list[str] = []
    for name, tensor in bare.items():
        below = name.removeprefix(inner) if name.startswith(inner) else None
        ours = _renamed(below, children) if below is not None else None
        if ours is not None and ours not in encoder:
            encoder[ours] = tensor
        elif below in ("normalize.mean", "normalize.std"):
            stored[below.removeprefix("normalize.")] = tensor
        elif HEADS.match(below or name) or name.startswith(COPIES):
            dropped[name] = tensor
        else:
            odd.append(name)
    if odd:
        raise UserError(
            f"{where}: matched {len(encoder)} tensors of an encoder and dropped {len(dropped)} of heads, "
            f"but {len(odd)} are of no known name or there twice (first: {min(odd)}), expected none"
        )
    return encoder, dropped, stored


def _renamed(name: str, children: tuple[str, ...]) -> str | None:
    """Our name of an encoder's tensor; None where it is none."""
    index, _, rest = name.partition(".")
    if children and index.isdigit() and int(index) < len(children):
        name = f"{children[int(index)]}.{rest}"
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name if re.match(r"stem\.[01]\.|stages\.\d\.\d+\.", name) else None


def _constants(stored: Mapping[str, Tensor], where: str) -> Constants | None:
    if not stored:
        return None
    if len(stored) < 2:
        raise UserError(f"{where}: normalize.{next(iter(stored))} alone, expected mean and std")
    return decimals(stored["mean"]), decimals(stored["std"])


def decimals(constants: Tensor) -> tuple[float, ...]:
    """float32 constants as the decimals that people wrote."""
    return tuple(round(float(number), 7) for number in constants.flatten())
