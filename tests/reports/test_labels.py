"""The only owner of the tests of where names stand in a figure."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from robustcl.reports.labels import label_points, spread


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ([0, 50, 100], [0, 50, 100]),  # room enough: nothing moves
        ([50, 50], [45, 55]),  # a crowd stands about its middle
        ([0, 0, 0], [0, 10, 20]),
        ([99, 100, 100], [80, 90, 100]),
        ([50, 50, 62], [44, 54, 64]),  # a neighbour joins the crowd
    ],
)
def test_spread_by_hand(places: list[float], wanted: list[float]) -> None:
    assert spread(places, gap=10, low=0, high=100) == pytest.approx(wanted)


def test_spread_keeps_order_distance_and_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        places = sorted(rng.uniform(-5, 105, size=rng.integers(1, 11)).tolist())
        moved = spread(places, gap=10, low=0, high=100)
        assert (np.diff(moved) >= 10 - 1e-9).all()
        assert min(moved) >= 0
        assert max(moved) <= 100 + 1e-9
    assert np.diff(spread([5.0] * 15, gap=10, low=0, high=100)).min() == pytest.approx(10)


def test_names_of_one_crowded_place_cover_neither_each_other_nor_a_line() -> None:
    figure = Figure(figsize=(3.3, 3.3))
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(0, 100))
    names = [f"encoder {place}" for place in range(6)]
    lines = [[(40, 50), (60, 50)], [(50, 40), (50, 60)], [(40, 40), (60, 60)]]
    label_points(axes, dict.fromkeys(names, ((50, 50),)), dict.fromkeys(names, "#000000"), lines)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    boxes = {text.get_text(): Text.get_window_extent(text, renderer) for text in axes.texts}
    assert list(boxes) == names
    for one, other in itertools.combinations(boxes.values(), 2):
        assert not one.overlaps(other)
    for (start, end), box in itertools.product(lines, boxes.values()):
        along = np.linspace(start, end, 50)
        assert not any(box.contains(x, y) for x, y in axes.transData.transform(along))
    # Who had to give way is led back to the place; who stands beside it needs no line.
    leaders = [isinstance(text, Annotation) and text.arrow_patch is not None for text in axes.texts]
    assert not leaders[0]
    assert leaders[-1]
