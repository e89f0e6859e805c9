"""The only owner of the figure of adversarial loss landscapes."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import RunFolder
from robustcl.reports.pictures import SMALL, Group, caption, groups, wrapped

_LEVELS = 13


class LossLandscape(Drawing):
    """The adversarial loss over a random plane in the weights, the same levels for all encoders, from a probe."""

    needs = "the probe landscape (a [probes.landscape])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set, scheme and recipe of the probe `landscape`."""
        for group in groups(run, "landscape"):
            name = group.name.replace("landscape", "loss-landscape", 1)
            yield Drawn(name=name, figure=landscapes(group), data=losses(group))


def losses(group: Group) -> pd.DataFrame:
    """One row per encoder and point: how far along both directions, and the loss there."""
    parts = []
    for encoder, probed in group.probes.items():
        at, loss = probed.arrays["at"], probed.arrays["loss"]
        held = {"first": np.repeat(at, len(at)), "second": np.tile(at, len(at)), "loss": loss.flatten()}
        parts.append(pd.DataFrame(group.place | {"encoder": encoder} | held))
    return pd.concat(parts, ignore_index=True)


def landscapes(group: Group) -> Figure:
    """Contours of all encoders at the same levels, evenly apart in the logarithm, with the range in each title."""
    every = np.concatenate([probed.arrays["loss"].flatten() for probed in group.probes.values()])
    low, high = max(float(every.min()), 1e-6), float(every.max())
    levels = np.geomspace(low, max(high, low * 1.01), _LEVELS)
    levels[0], levels[-1] = levels[0] * 0.999, levels[-1] * 1.001  # so that rounding leaves nothing blank
    columns = min(2, len(group.probes))
    rows, side = -(-len(group.probes) // columns), style.WIDTH / columns
    figure = Figure(figsize=(style.WIDTH, rows * (0.85 * side + 0.3) + 0.55), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes in grid[len(group.probes) :]:
        axes.set_axis_off()
    for place, (axes, (encoder, probed)) in enumerate(zip(grid, group.probes.items(), strict=False)):
        at, loss = probed.arrays["at"], np.maximum(probed.arrays["loss"], low)
        drawn = axes.contourf(at, at, loss.T, levels=levels, norm="log", cmap="cividis")
        axes.contour(at, at, loss.T, levels=levels, colors="white", linewidths=0.3, alpha=0.6)
        axes.plot(0, 0, marker="+", color="white", markersize=5, markeredgewidth=0.9)
        middle = float(loss[len(at) // 2, len(at) // 2])
        axes.set_title(wrapped(encoder, 0.7 * side, 8, bold=True), loc="left", fontweight="bold", pad=11)
        told = f"{loss.min():.3g} to {loss.max():.3g}, centre {middle:.3g}"
        axes.text(0, 1.02, told, transform=axes.transAxes, va="bottom", fontsize=SMALL)
        axes.set(aspect="equal", xticks=[at[0], 0, at[-1]], yticks=[at[0], 0, at[-1]])
        axes.tick_params(labelbottom=place + columns >= len(group.probes))  # nothing stands below it
    bar = figure.colorbar(drawn, ax=list(grid), location="bottom", fraction=0.06, pad=0.02, aspect=35)
    bar.set_label("adversarial cross-entropy, the same levels in every panel")
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_ticks(list(levels[:: (_LEVELS - 1) // 4]))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.2g}"))
    caption(figure, _said(group))
    return figure


def _said(group: Group) -> str:
    recipe = group.first.part["probe"]
    attack = {"recomputed": "anew at every point", "fixed": "made once, at the centre"}[recipe["attack"]]
    n = min(recipe["images"], group.first.part["images"])
    return f"{group.said}: {n} images, PGD-{recipe['steps']} {attack}; filter-normalised directions, + the classifier"
