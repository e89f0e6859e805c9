"""The only owner of `Encoder`: images in [0, 1] to features, with the normalisation inside and a route to choose."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcl.models.architecture import Architecture, read_architecture
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.routing import Switch, branch, keep
from robustcl.models.seeding import derive
from robustcl.models.shared_norm import whole
from robustcl.models.value import plain

Shape = tuple[int, int, int]


class Encoder(nn.Module):
    """A network body with its input normalisation and one batch-norm branch per route.

    Shapes: (n, channels, height, width) float in [0, 1] to (n, width). The range is not checked here: AdvCL's
    high-frequency view is negative in places.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: Architecture,
        shape: Shape,
        *,
        routes: tuple[str, ...] = ("normal",),
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        seed: int = 0,
    ) -> None:
        """`mean` and `std` have one entry per channel (default 0 and 1: raw images, as in AdvCL and RoCL)."""
        super().__init__()
        channels = shape[0]
        mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise UserError(f"encoder: mean {mean} and std {std}, expected {channels} numbers each and std above 0")
        self.architecture, self.shape, self.switch = architecture, tuple(shape), Switch(tuple(routes))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "encoder"))
            self.body = architecture.build(channels)
        branch(self.body, self.switch)
        # Constants of the description, not weights: they are rebuilt with the network and never loaded by halves.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def width(self) -> int:
        """The number of features."""
        return self.body.width

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes, in order."""
        return self.switch.routes

    def forward(self, images: Tensor, route: str | None = None) -> Tensor:
        """Features (n, width) by way of `route` (default: the first one).

        Where the switch has a share of a batch, the images are this process's part, and the features those of all.
        Errors: `UserError` for images of another shape than the encoder's and for an unknown route.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise UserError(f"encoder: images of shape {tuple(images.shape)}, expected (n, {str(self.shape)[1:]}")
        self.switch.take(route or self.routes[0])
        x, share = (images - self.mean) / self.std, self.switch.share
        features: Tensor = self.body(x) if share is None else whole(self.body, x, share)
        return features

    def map(self, images: Tensor, route: str | None = None) -> Tensor:
        """The map before the last stage, (n, body.map_width, rows, columns); patches, of other sizes, are welcome.

        Errors: `UserError` for images of another number of channels than the encoder's and for an unknown route.
        """
        if self.switch.share is not None:
            raise UserError("encoder: a map of a part of a batch, expected one process and groups = 1")
        if images.ndim != 4 or images.shape[1] != self.shape[0]:
            raise UserError(f"encoder: images of shape {tuple(images.shape)}, expected (n, {self.shape[0]}, h, w)")
        self.switch.take(route or self.routes[0])
        return self.body.trunk((images - self.mean) / self.std)

    def finish(self, map: Tensor, route: str | None = None) -> Tensor:
        """Features (n, width) of a `map`: `finish(map(images))` is what `forward` answers."""
        self.switch.take(route or self.routes[0])
        features: Tensor = self.body.top()(map)
        return features

    def top(self, route: str | None = None) -> nn.Module:
        """A copy of the last stage and what follows it, a map to (n, width), with one route's batch norms alone."""
        single = copy.deepcopy(self.body.top())
        keep(single, route or self.routes[0])
        return single

    def keep(self, route: str) -> "Encoder":
        """A copy with this route alone."""
        self.switch.take(route)
        single = copy.deepcopy(self)
        keep(single, route)
        return single

    def description(self) -> dict[str, Any]:
        """What `from_description` rebuilds this encoder from, weights apart."""
        return {
            "architecture": {"name": name_of(self.architecture), **plain(self.architecture)},
            "shape": list(self.shape),
            "routes": list(self.routes),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }


def from_description(description: Mapping[str, Any], where: str) -> Encoder:
    """A freshly initialised encoder as described (see `Encoder.description`)."""
    try:
        channels, height, width = (int(size) for size in description["shape"])
        return Encoder(
            read_architecture(description["architecture"], f"{where}.architecture"),
            (channels, height, width),
            routes=tuple(str(route) for route in description["routes"]),
            mean=tuple(float(number) for number in description["mean"]),
            std=tuple(float(number) for number in description["std"]),
        )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: not the description of an encoder ({error!r})") from None
