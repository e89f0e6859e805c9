"""The only owner of what a network family is: a frozen value that builds one body of convolutions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from robustcl.models.plugin import find
from robustcl.models.value import read, value

PACKAGE = "robustcl.models.architectures"
WIDEST = 4096  # channels of a first stage: more is a slip of the pen, or a file that wants all memory


class Body(nn.Module, ABC):
    """A network without head: (n, channels, height, width) images to (n, width) features after average pooling.

    It uses `nn.BatchNorm2d` freely; `robustcl.models.routing.branch` gives each of them one branch per route.
    """

    width: int
    map_width: int  # channels of the map between trunk and top

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """All but the last stage: (n, channels, h, w) to a map (n, map_width, rows, columns)."""

    @abstractmethod
    def top(self) -> nn.Module:
        """The rest, a map to (n, width), as a module that shares its weights with this one."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, width): the top of the trunk."""


@value
class Architecture(ABC):
    """A network family with its sizes as fields; one file per family in `models/architectures`."""

    @abstractmethod
    def build(self, channels: int) -> Body:
        """A freshly initialised body (from torch's global generator) for images of so many channels."""


def read_architecture(table: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a table `{name = "resnet", depth = 18}` describes."""
    fields = {key: entry for key, entry in table.items() if key != "name"}
    return read(find(PACKAGE, "architecture", table.get("name"), Architecture, where), fields, where)
