"""The only owner of the figure of features in the plane."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.pictures import Group, caption, groups, wrapped

# Tol's muted scheme, made for ten classes and colour-blind readers; classes beyond differ by their markers.
COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p")
_NAMED = 20  # classes; the names of more would cover the points
_SETS = {"clean": "plane", "adversarial": "adversarial_plane"}
Array = NDArray[Any]


class Features(Drawing):
    """Features of test images in the plane (t-SNE), coloured by true label, a panel per encoder, from a probe."""

    needs = "the probe features (a [probes.features])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set, scheme and recipe of the probe `features`."""
        for group in groups(run, "features"):
            yield Drawn(name=group.name, figure=planes(group), data=points(group))


def points(group: Group) -> pd.DataFrame:
    """One row per encoder, image and (where there are adversarial ones) kind: its label and its place."""
    parts = []
    for encoder, probed in group.probes.items():
        of = probed.arrays
        for kind, name in _SETS.items():
            if name in of:
                held = {"image": of["image"], "label": of["label"], "x": of[name][:, 0], "y": of[name][:, 1]}
                parts.append(pd.DataFrame(group.place | {"encoder": encoder, "kind": kind} | held))
    return pd.concat(parts, ignore_index=True)


def planes(group: Group) -> Figure:
    """Two panels side by side: two encoders, or one encoder's clean and adversarial images in the same plane."""
    panels = [(encoder, kind) for encoder, of in group.probes.items() for kind in _SETS if _SETS[kind] in of.arrays]
    both = any(kind == "adversarial" for _, kind in panels)
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    side = style.WIDTH / columns
    figure = Figure(figsize=(style.WIDTH, rows * (0.92 * side + 0.14) + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (encoder, kind) in zip(grid, panels, strict=False):
        of = group.probes[encoder].arrays
        _scatter(axes, of[_SETS[kind]], of["label"])
        name = f"{encoder}, {kind}" if both else encoder
        axes.set_title(wrapped(name, side, 8, bold=True), loc="left", fontweight="bold", pad=2)
        if both:  # the same window, since it is the same plane
            whole = np.concatenate([of[name] for name in _SETS.values()])
            low, high = whole.min(0), whole.max(0)
            margin = 0.04 * (high - low)
            axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    n, recipe = len(group.first.arrays["label"]), group.first.part["probe"]
    said = f"{group.said}: t-SNE of {n} test images, perplexity {recipe['perplexity']:g}, by true label"
    caption(figure, said)
    return figure


def _scatter(axes: Axes, plane: Array, labels: Array) -> None:
    """A colour and marker per class, and its number where most of it lies."""
    classes = np.unique(labels)
    size = float(np.clip(1500 / len(labels), 0.8, 6))
    for label in classes:
        x, y = plane[labels == label].T
        marker = _MARKERS[label // len(COLOURS) % len(_MARKERS)]
        axes.scatter(x, y, s=size, c=COLOURS[label % len(COLOURS)], marker=marker, linewidths=0, rasterized=True)
    for label in classes if len(classes) <= _NAMED else ():
        x, y = np.median(plane[labels == label], axis=0)
        colour = style.dark(COLOURS[label % len(COLOURS)])
        halo = [patheffects.withStroke(linewidth=1.6, foreground="white")]
        axes.text(x, y, str(label), color=colour, fontweight="bold", ha="center", va="center", path_effects=halo)
    axes.set(xticks=[], yticks=[])
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#cccccc")
