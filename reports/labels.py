"""The only owner of where names stand in a figure: beside line ends and points, without covering each other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from robustcl.reports.style import dark, settle

Point = tuple[float, float]
Floats = NDArray[np.float64]
LINE = 10.5  # points from one line of text to the next
_NEAR = 12.0  # points; a name farther off needs a line to its point
# As bad as covering so much of points and lines is covering a name, and crossing one on the way to another.
_TEXT, _CROSS = 5.0, 1.0
_LEADER: dict[str, Any] = {"arrowstyle": "-", "lw": 0.6, "shrinkA": 1, "shrinkB": 3}
# Where a name may stand, in points from what it names; the earlier the better.
_FAR = (6, 12, 18, 24, 36, 48, 60)
_SIDES = tuple((dx, dy) for far in _FAR for dx in (far, -far) for dy in (0, far, -far))


def label_ends(axes: Axes, ends: Mapping[str, Point], colours: Mapping[str, str]) -> None:
    """Write names beside the right ends of their lines (data units), moved apart where they would overlap.

    The layout of the figure must have been settled (`style.settle`).
    """
    low, high = axes.get_ylim()
    pixels_per_point = axes.figure.dpi / 72
    gap = (high - low) * LINE * pixels_per_point / axes.bbox.height
    names = sorted(ends, key=lambda name: ends[name][1])
    places = spread([ends[name][1] for name in names], gap, low, high)
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            name,
            xy=ends[name],
            xytext=(1.06, place),
            textcoords=("axes fraction", "data"),
            va="center",
            color=dark(colours[name]),
            arrowprops=_LEADER | {"color": colours[name], "relpos": (0, 0.5)},
        )


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved so that neighbours are at least `gap` apart, each crowd about its middle.

    All stay in [low, high] while there is room for them there; without it they go on above `high`.
    """
    crowds: list[list[float]] = []  # of each crowd the places it would start at if one member stood where it wants
    for place in places:
        crowds.append([place])
        while len(crowds) > 1 and _start(crowds[-2]) + gap * len(crowds[-2]) > _start(crowds[-1]):
            last = crowds.pop()
            crowds[-1] += [start - gap * len(crowds[-1]) for start in last]
    moved = [_start(crowd) + gap * rank for crowd in crowds for rank in range(len(crowd))]
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], high - gap * (len(moved) - 1 - at))
    for at in range(len(moved)):
        moved[at] = max(moved[at], low + gap * at)
    return moved


def label_points(
    axes: Axes, points: Mapping[str, Sequence[Point]], colours: Mapping[str, str], lines: Iterable[Sequence[Point]]
) -> None:
    """Write every name once, beside one of its points, where it covers least of the points, `lines` and other texts.

    `points` and `lines` (two ends each) are in data units. A thin line leads to a name that has to stand far off, and
    crosses no other name where that can be.
    """
    figure: Any = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    settle(figure)
    scale = figure.dpi / 72
    texts = [np.asarray(text.get_window_extent(renderer).extents) for text in axes.texts if text.get_text()]
    taken = [_box(axes, [point], 3.5 * scale) for where in points.values() for point in where]
    taken += [_box(axes, piece, 1.0) for line in lines for piece in _pieces(line)]
    for name, where in ((name, where) for name, where in points.items() if where):
        options = [(point, offset) for offset in _SIDES for point in where]
        sample = axes.annotate(name, where[0])
        size = np.asarray(sample.get_window_extent(renderer).size)
        sample.remove()
        at = [np.asarray(axes.transData.transform(point)) for point, _ in options]
        boxes = np.array([_place(to, scale, offset, size) for to, (_, offset) in zip(at, options, strict=True)])
        ways = [_leader(to, scale, offset) for to, (_, offset) in zip(at, options, strict=True)]
        cost = _covered(boxes, np.array(taken), np.asarray(axes.bbox.extents))
        if texts:
            cost += _TEXT * _shared(boxes, np.array(texts)).sum(axis=1)
            cost += [_CROSS * float(_shared(way, np.array(texts)).sum()) if len(way) else 0.0 for way in ways]
        best = int(np.argmin(cost))
        texts.append(boxes[best])
        taken += list(ways[best])
        _write_beside(axes, name, *options[best], colours[name])


def _start(crowd: Sequence[float]) -> float:
    return sum(crowd) / len(crowd)


def _write_beside(axes: Axes, name: str, point: Point, offset: Point, colour: str) -> None:
    right = offset[0] > 0
    far = max(map(abs, offset)) > _NEAR
    axes.annotate(
        name,
        point,
        offset,
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        color=dark(colour),
        arrowprops=_LEADER | {"color": colour, "relpos": (0 if right else 1, 0.5)} if far else None,
    )


def _place(point: Floats, scale: float, offset: Point, size: Floats) -> Floats:
    """The pixels (x0, y0, x1, y1) of a text of this size that is written off a point."""
    at = point + scale * np.asarray(offset)
    corner = at - size * np.array([0.0 if offset[0] > 0 else 1.0, 0.5])
    return np.concatenate([corner, corner + size])


def _leader(at: Floats, scale: float, offset: Point, pieces: int = 8) -> Floats:
    """The pixels (pieces, 4) that the line to a name takes, which stands so far off a point; none where it is near."""
    if max(map(abs, offset)) <= _NEAR:
        return np.zeros((0, 4))
    ends = at + scale * np.linspace(0.2, 0.95, pieces + 1)[:, None] * np.asarray(offset)
    return np.concatenate([np.minimum(ends[:-1], ends[1:]) - 1, np.maximum(ends[:-1], ends[1:]) + 1], axis=1)


def _pieces(line: Sequence[Point], pieces: int = 16) -> Iterator[list[Point]]:
    """A line as short pieces, as a slanted one takes far less room than the box around it."""
    (x0, y0), (x1, y1) = line
    ends = [(x0 + (x1 - x0) * at / pieces, y0 + (y1 - y0) * at / pieces) for at in range(pieces + 1)]
    yield from (list(piece) for piece in pairwise(ends))


def _box(axes: Axes, ends: Sequence[Point], margin: float) -> Floats:
    """The pixels (x0, y0, x1, y1) that a point or the piece of a line takes."""
    pixels = np.asarray(axes.transData.transform(ends))
    return np.concatenate([pixels.min(axis=0) - margin, pixels.max(axis=0) + margin])


def _covered(boxes: Floats, taken: Floats, frame: Floats) -> Floats:
    """The area that each box (n, 4) shares with those taken (m, 4), what leaves the frame (4,) counted double."""
    outside = _area(boxes) - _shared(boxes, frame[None])[:, 0]
    return np.asarray(_shared(boxes, taken).sum(axis=1) + 2 * outside)


def _shared(boxes: Floats, others: Floats) -> Floats:
    """The area that every box (n, 4) shares with every other (m, 4): (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=-1))


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1))
