"""The only owner of how a heat map looks: shares as shades of one colour, with their percent written in the cells."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from robustcl.reports import style

ROW = 0.155  # inches: the height of a cell that holds a number
_SHADES: Any = "Blues"  # of one hue, darker all the way: the order of the shades stays in grey


def heat(axes: Axes, shares: pd.DataFrame, top: float, written: bool = True) -> Any:
    """Draw shares in [0, 1], a cell per row and column of the frame, from white (0) to dark (`top`): the mesh.

    What is missing (NaN) is left white with a dash. Without `written`, for cells too small to hold them, the numbers
    are left out.
    """
    held = shares.to_numpy(dtype=float)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(100 * held), cmap=_SHADES, vmin=0, vmax=100 * top, edgecolors="white", linewidth=0.4
    )
    axes.set_ylim(len(shares), 0)
    axes.set_yticks(np.arange(len(shares)) + 0.5, [str(name) for name in shares.index])
    axes.set_xticks(np.arange(shares.shape[1]) + 0.5, [str(name) for name in shares.columns])
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    for (row, column), share in np.ndenumerate(held) if written else ():
        colour = "white" if share > 0.6 * top else style.INK
        text = "-" if np.isnan(share) else f"{100 * share:.0f}"
        shown = axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", size=5.5, color=colour)
        shown.set_in_layout(False)  # inside its cell: the layout need not measure hundreds of numbers
    return mesh


def top_of(*parts: pd.DataFrame) -> float:
    """The share that is darkest in all of these heat maps: the largest one, up to the next tenth."""
    most = max((float(np.nanmax(part.to_numpy(dtype=float), initial=0)) for part in parts), default=0)
    return max(0.1, float(np.ceil(10 * most - 1e-9)) / 10)


def widest(low: pd.Series, high: pd.Series) -> str:
    """What to say of the 95 % intervals of many cells, in points."""
    return f"95 % intervals of a cell: at most ±{100 * float((high - low).max()) / 2:.0f} points"
