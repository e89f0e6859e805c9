"""The only owner of plates: images in a grid with names, and which probes are drawn together."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from robustcl.reports import style
from robustcl.reports.drawing import named
from robustcl.reports.folder import Probed, RunFolder
from robustcl.reports.style import NORMS

Array = NDArray[Any]
_GAP = 0.03  # inches between images
_LARGEST = 0.75  # inches of an image's side
_LETTER, _BOLD = 0.0072, 0.0093  # inches of a letter per point of its size
_LINE = 0.095  # inches of a line of small text
SMALL, _SAID = 5.5, 6.0  # points


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """What one figure is drawn from: the probes of one data set, scheme and recipe, by encoder.

    Of several seeds the first one is drawn. `name` is the stem of the files.
    """

    name: str
    probes: Mapping[str, Probed]

    @property
    def first(self) -> Probed:
        """Any of them, for what they share."""
        return next(iter(self.probes.values()))

    @property
    def place(self) -> dict[str, str]:
        """The columns that say where the numbers are from."""
        return {"data": self.first.data, "scheme": self.first.scheme}

    @property
    def said(self) -> str:
        """Data, scheme and threat for people."""
        threat = self.first.part.get("threat")
        parts = [self.first.data, self.first.scheme]
        parts += [f"{NORMS.get(threat['norm'], threat['norm'])} {threat['eps']}"] if threat else []
        return ", ".join(filter(None, parts))


def groups(run: RunFolder, probe: str) -> Iterator[Group]:
    """The figures that the finished probes of a name make, in the order of the suite."""
    found: dict[str, dict[str, Probed]] = {}
    for probed in run.probes(probe):
        recipe = {key: probed.part.get(key) for key in ("probe", "threat", "data")}
        key = json.dumps([probed.data, probed.scheme, recipe], sort_keys=True)
        found.setdefault(key, {}).setdefault(probed.encoder, probed)
    taken: dict[str, int] = {}
    for probes in found.values():
        first = next(iter(probes.values()))
        place = {"data": first.data, "scheme": first.scheme}
        columns = [name for name, text in place.items() if text]
        stem = named(probe, pd.DataFrame([place]), columns, several=len(found) > 1)
        taken[stem] = taken.get(stem, 0) + 1
        yield Group(name=stem if taken[stem] == 1 else f"{stem}-{taken[stem]}", probes=probes)


def plate(
    heads: Sequence[str], below: Sequence[float], shape: Sequence[int], said: str, *, left: float = _GAP
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of one column's width with axes for images of `shape` (c, h, w), a column for each of `heads`.

    It has as many rows as `below` is long, the inches under each; `left` are those before the first image, for names.
    What is `said` stands at the top, as `caption` has it.
    """
    wide = min(_LARGEST, (style.WIDTH - left - _GAP * len(heads)) / len(heads))
    high, names = wide * shape[-2] / shape[-1], [wrapped(head, wide, bold=True) for head in heads]
    top = 0.08 + _LINE * (_lines(wrapped(said, style.WIDTH, _SAID)) + max(map(_lines, names)))
    height = top + sum(high + space for space in below)
    figure = Figure(figsize=(style.WIDTH, height))
    rows, at = [], height - top
    for space in below:
        at -= high
        boxes = [(left + number * (wide + _GAP), at, wide, high) for number in range(len(heads))]
        rows.append([figure.add_axes(_share(box, height)) for box in boxes])
        at -= space
    for axes in (axes for row in rows for axes in row):
        axes.set_axis_off()
    for axes, name in zip(rows[0], names, strict=True):
        write(axes, name, (0.5, 1 + 0.03 / high), va="bottom", fontweight="bold")
    caption(figure, said)
    return figure, rows


def caption(figure: Figure, said: str) -> None:
    """What a figure shows, at its top, in small text."""
    # A layout engine makes room for a title only while it may place it.
    at = {} if figure.get_layout_engine() else {"y": 1 - _GAP / figure.get_figheight(), "va": "top"}
    figure.suptitle(wrapped(said, style.WIDTH, _SAID), fontsize=_SAID, linespacing=1.1, x=0.01, ha="left", **at)


def show(axes: Axes, pixels: Array) -> None:
    """An image (c, h, w) in [0, 1], grey or in colour, each pixel a square; what lies outside is clipped."""
    shown = np.clip(pixels, 0, 1).transpose(1, 2, 0)
    grey = shown.shape[2] != 3
    axes.imshow(shown[..., 0] if grey else shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    # A thin frame, or an image with white at its edge would seem smaller than it is.
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor="#999999", linewidth=0.3))


def write(axes: Axes, text: str, at: tuple[float, float], **more: Any) -> None:
    """Small text at a place in shares of an image, (0.5, 0) being the middle of its lower edge."""
    options: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL, "linespacing": 1.1, **more}
    axes.text(*at, text, transform=axes.transAxes, **options)


def beside(axes: Axes, text: str, inches: float, **more: Any) -> None:
    """A name to the left of the first image of a row, broken into lines that fit into so many inches."""
    write(axes, wrapped(text, inches - 0.06, bold=True), (-0.04 / _wide(axes), 0.5), ha="right", va="center", **more)


def wrapped(text: str, inches: float, size: float = SMALL, *, bold: bool = False) -> str:
    """The text in lines that fit into so many inches, broken at blanks and joints, inside words where nothing helps."""
    most = max(4, int(inches / ((_BOLD if bold else _LETTER) * size)))
    words = re.findall(r"[^\s_@-]*(?:[_@-]+|\s+|$)", text)
    lines = [""]
    for piece in (word[at : at + most] for word in words for at in range(0, len(word), most)):
        if lines[-1] and len((lines[-1] + piece).strip()) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _wide(axes: Axes) -> float:
    """The width of an image in inches."""
    return float(axes.get_position().width) * style.WIDTH


def _share(box: tuple[float, float, float, float], height: float) -> tuple[float, float, float, float]:
    x, y, wide, high = box
    return x / style.WIDTH, y / height, wide / style.WIDTH, high / height
