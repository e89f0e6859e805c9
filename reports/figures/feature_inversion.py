"""The only owner of the figure of feature inversion."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.pictures import Group, groups, plate, show, write


class FeatureInversion(Drawing):
    """The images that drive one neuron to its extremum: a row per seed image, a column per encoder, from a probe."""

    needs = "the probe inversion (a [probes.inversion])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set and recipe of the probe `inversion`."""
        for group in groups(run, "inversion"):
            name = group.name.replace("inversion", "feature-inversion", 1)
            yield Drawn(name=name, figure=inversion(group), data=activations(group))


def activations(group: Group) -> pd.DataFrame:
    """One row per encoder and seed image: the neuron's activation at the seed and at what was found."""
    unit = group.first.part["probe"]["unit"]
    names = ("image", "label", "before", "after")
    parts = [
        pd.DataFrame(group.place | {"encoder": encoder, "unit": unit} | {name: of.arrays[name] for name in names})
        for encoder, of in group.probes.items()
    ]
    return pd.concat(parts, ignore_index=True)


def inversion(group: Group) -> Figure:
    """Seeds in the first column, then a column per encoder; below each image the activation before and after."""
    first, recipe = group.first.arrays, group.first.part["probe"]
    below = [0.14] * len(first["start"])
    extremum = {"max": "maximum", "min": "minimum"}[recipe["sign"]]
    said = f"{group.said}: neuron {recipe['unit']} to its {extremum}, {recipe['steps']} steps; below, its activation"
    figure, rows = plate(["seed", *group.probes], below, first["start"].shape[1:], said)
    for number, axes in enumerate(rows):
        show(axes[0], first["start"][number])
        for place, probed in enumerate(group.probes.values(), 1):
            show(axes[place], probed.arrays["found"][number])
            before, after = (float(probed.arrays[name][number]) for name in ("before", "after"))
            write(axes[place], f"{before:.2g} \u2192 {after:.2g}", (0.5, -0.04))
    return figure
