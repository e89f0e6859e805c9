"""The only owner of where the pseudo-labels of a suite come from: the entries below [labels], typed and read."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from robustcl.models.errors import UserError, nearest
from robustcl.models.value import Table, read, value
from robustcl.pretraining.pseudo_labels import ClusterFit


@value
class Own:
    """Labels from the features of an encoder of the suite, by its name below [pretrain]; on its deployed `route`."""

    encoder: str
    route: str | None = None


@value
class LabelFile:
    """Labels that were made elsewhere, as `load_labels` reads them. `external` says that other data went into them."""

    file: Path
    external: bool = True


@value
class Saved:
    """Labels from the features of an encoder that robustcl saved; `external` as for files."""

    checkpoint: Path
    external: bool = True


@value
class Vision:
    """Labels from the features of a network of torchvision, its images resized to `size` times `size`.

    `weights` is the name of official ones, which have to lie in torch's cache, or the path of a `.pth`.
    """

    torchvision: str
    weights: str
    size: int = Field(default=224, ge=1)
    external: bool = True


Source = Own | LabelFile | Saved | Vision


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Where labels come from, and how the features are clustered: not at all where the labels are made already."""

    source: Source
    fit: ClusterFit | None

    @property
    def external(self) -> bool:
        """Whether more than the suite's own images went into them, the suite's encoders apart."""
        return not isinstance(self.source, Own) and self.source.external


def read_labels(table: Table, where: str) -> Labels:
    """An entry below [labels]. Errors: `UserError` for none or several sources, and for an unknown key."""
    kinds: dict[str, type[Source]] = {"encoder": Own, "file": LabelFile, "checkpoint": Saved, "torchvision": Vision}
    given = [key for key in kinds if key in table]
    if not given:
        raise UserError(f"{where}: missing key 'encoder', expected one of {', '.join(kinds)}")
    if len(given) > 1:
        raise UserError(f"{where}: both {given[0]} and {given[1]}, expected one source; remove one of them")
    kind, clusters = kinds[given[0]], ClusterFit.__dataclass_fields__
    known = [*kind.__dataclass_fields__, *(clusters if kind is not LabelFile else ())]
    for key in table:
        if key not in known:
            expected = f"expected one of {', '.join(known)}{nearest(key, known)}"
            raise UserError(f"{where}: unknown key '{key}' beside {given[0]}, {expected}")
    source = read(kind, {key: entry for key, entry in table.items() if key not in clusters}, where)
    fields = {key: entry for key, entry in table.items() if key in clusters}
    return Labels(source=source, fit=None if kind is LabelFile else read(ClusterFit, fields, where))
