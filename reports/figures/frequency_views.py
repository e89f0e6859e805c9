"""The only owner of the figure of high- and low-frequency views."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.pictures import Group, groups, plate, show


class FrequencyViews(Drawing):
    """Test images with their low- and high-frequency parts at some radii (AdvCL, eq. 8), from a probe."""

    needs = "the probe frequency (a [probes.frequency])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set and recipe of the probe `frequency`."""
        for group in groups(run, "frequency"):
            name = group.name.replace("frequency", "frequency-views", 1)
            yield Drawn(name=name, figure=views(group), data=shares(group))


def shares(group: Group) -> pd.DataFrame:
    """One row per image and radius: the share of the variance of its pixels that lies in the high-frequency part."""
    of = group.first.arrays
    whole = of["clean"] - of["clean"].mean((2, 3), keepdims=True)
    total = (whole**2).sum((1, 2, 3))
    parts = []
    for radius, high in zip(of["radius"], of["high"], strict=True):
        varied = ((high - high.mean((2, 3), keepdims=True)) ** 2).sum((1, 2, 3))
        numbers = {"image": of["image"], "label": of["label"], "radius": radius, "high_share": varied / total}
        parts.append(pd.DataFrame(group.place | numbers))
    return pd.concat(parts, ignore_index=True)


def views(group: Group) -> Figure:
    """A row per image: itself, and for every radius its low- and its high-frequency part, the latter about grey."""
    of = group.first.arrays
    radii = of["radius"]
    heads = ["image", *(f"{side} {radius:g}" for radius in radii for side in ("below", "from"))]
    said = f"{group.said}: parts by frequency, in cycles per image side; high ones about grey"
    figure, rows = plate(heads, [0.03] * len(of["clean"]), of["clean"].shape[1:], said)
    for number, axes in enumerate(rows):
        show(axes[0], of["clean"][number])
        for place in range(len(radii)):
            show(axes[1 + 2 * place], of["low"][place][number])
            show(axes[2 + 2 * place], 0.5 + of["high"][place][number])
    return figure
