"""The figures that are drawn from probes, on arrays that the tests make: what they show, and with which names."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import NDArray

from robustcl.reports import drawing, style
from robustcl.reports.figures.adversarial_examples import answers, examples
from robustcl.reports.figures.features import planes, points
from robustcl.reports.figures.frequency_views import shares, views
from robustcl.reports.figures.loss_landscape import landscapes, losses
from robustcl.reports.folder import RunFolder
from robustcl.reports.pictures import Group, groups, wrapped

NAMES = {
    "adversarial-examples": "examples",
    "frequency-views": "frequency",
    "features": "features",
    "loss-landscape": "landscape",
    "feature-inversion": "inversion",
}
RECIPES: dict[str, dict[str, Any]] = {
    "examples": {"attack": "pgd-20", "images": 3},
    "frequency": {"images": 2},
    "features": {"perplexity": 30.0},
    "landscape": {"attack": "recomputed", "images": 512, "steps": 10},
    "inversion": {"unit": 5, "sign": "max", "steps": 200},
}
ODD = ("advcl", r"$a_1^{b}$ <&> 50 % \n", "a_name_without_end_and_without_a_blank_in_it", "\u03b1\u03b2 \u00fc")
Arrays = dict[str, NDArray[Any]]


def made(probe: str, seed: int = 0, *, channels: int = 1, side: int = 8, classes: int = 10) -> Arrays:
    """Arrays of the form that a probe writes."""
    g = np.random.default_rng(seed)
    n = {"features": 200}.get(probe, 3)
    which: Arrays = {"image": np.arange(n, dtype=np.int32), "label": np.arange(n, dtype=np.int16) % classes}
    clean = g.random((n, channels, side, side), dtype=np.float32)
    if probe == "examples":
        after = np.array([0, 3, 5], dtype=np.int16)
        return which | {
            "clean": clean,
            "adversarial": np.clip(clean + np.float32(0.1) * np.sign(g.normal(size=clean.shape)), 0, 1),
            "before": np.array([0, 1, 5], dtype=np.int16),
            "after": after,
            "sure_before": np.array([0.9, 0.8, 0.7], dtype=np.float32),
            "sure_after": np.array([0.6, 0.5, 0.7], dtype=np.float32),
            "broken": after != which["label"],
        }
    if probe == "frequency":
        low = np.stack([clean.mean((2, 3), keepdims=True) + 0 * clean, clean])
        return which | {"clean": clean, "radius": np.array([1.0, 9.0]), "low": low, "high": clean - low}
    if probe == "features":
        return which | {"plane": g.normal(size=(n, 2)) + 9 * which["label"][:, None]}
    if probe == "landscape":
        at = np.linspace(-1, 1, 5)
        return {"at": at, "loss": (1 + seed) * (0.5 + at[:, None] ** 2 + 2 * at**2)}
    return which | {"start": clean, "found": 1 - clean, "before": np.zeros(n), "after": np.full(n, 1234.5)}


def folder(root: Path, probes: Mapping[str, Mapping[str, Arrays]], **more: Any) -> RunFolder:
    """A run folder with probe -> encoder -> arrays."""
    entries = []
    pairs = [(probe, encoder) for probe, found in probes.items() for encoder in found]
    for number, (probe, encoder) in enumerate(pairs):
        key = f"{number:016x}"
        place = root / "probe" / key
        place.mkdir(parents=True)
        part = {"probe": {"name": probe, **RECIPES[probe]}, "images": 40, "threat": {"norm": "linf", "eps": "8/255"}}
        (place / "stage.json").write_text(json.dumps({"part": part | more, "parents": {}}))
        np.savez(place / "arrays.npz", allow_pickle=False, **probes[probe][encoder])
        of = {"encoder": encoder, "method": "", "scheme": "SLF", "data": "digits", "seeds": {}}
        entries.append({"probe": probe, **of, "stage": key})
    suite = {"schema": 1, "suite": "s", "resolved": {}, "cells": [], "probes": entries}
    (root / "suite.json").write_text(json.dumps(suite))
    return RunFolder(root)


def one(root: Path, probe: str, found: Mapping[str, Arrays]) -> Group:
    (group,) = groups(folder(root, {probe: found}), probe)
    return group


def images(figure: Figure) -> list[NDArray[Any]]:
    """What the images of a figure show, in the order in which they were drawn."""
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def line(figure: Figure) -> str:
    """All texts of a figure, wherever they were broken into lines."""
    return " ".join(" ".join(texts(figure)).split())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_names_grey_and_colour_are_drawn_and_all_text_is_inside(tmp_path: Path, name: str, channels: int) -> None:
    probe = NAMES[name]
    found = {encoder: made(probe, seed, channels=channels) for seed, encoder in enumerate(ODD)}
    run = folder(tmp_path, {probe: found})
    with style.style():
        (drawn,) = drawing.find(name).draw(run)
        assert drawn.name == name
        figure = drawn.figure
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        for text in figure.findobj(lambda of: isinstance(of, Text) and bool(of.get_text()) and of.get_visible()):
            assert isinstance(text, Text)
            box = text.get_window_extent(renderer)
            assert box.x0 >= -1, text.get_text()
            assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert box.y1 <= figure.bbox.y1 + 1, text.get_text()
    assert figure.get_figwidth() == style.WIDTH


def test_the_same_probes_are_the_same_files(tmp_path: Path) -> None:
    drawn = ["adversarial-examples", "features"]
    run = folder(tmp_path / "runs", {NAMES[name]: {"advcl": made(NAMES[name])} for name in drawn})
    paths = [drawing.save(run, tmp_path / at, drawn) for at in ("one", "two")]
    assert [path.name for path in paths[0]] == [f"{n}.{end}" for n in drawn for end in ("png", "svg", "pdf", "csv")]
    for left, right in zip(*paths, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


def test_without_probes_there_is_no_figure(tmp_path: Path) -> None:
    run = folder(tmp_path, {})
    assert [drawn for name in NAMES for drawn in drawing.find(name).draw(run)] == []


def test_examples_show_what_the_arrays_say(tmp_path: Path) -> None:
    group = one(tmp_path, "examples", {"advcl": made("examples"), "at": made("examples", 1)})
    with style.style():
        figure = examples(group)
    clean, change, adversarial = (images(figure)[number] for number in (0, 3, 6))
    of = group.probes["advcl"].arrays
    assert np.allclose(clean, of["clean"][0, 0])
    assert np.allclose(adversarial, of["adversarial"][0, 0])
    assert np.allclose(change, 0.5 + 5 * (of["adversarial"] - of["clean"])[0, 0], atol=1e-5)
    said = texts(figure)
    assert "perturbations \u00d7 5 about grey" in line(figure)
    assert {"label 0", "0 \u2192 0\n90 \u2192 60 %", "1 \u2192 3\n80 \u2192 50 %", "5, wrong\n70 %"} <= set(said)
    assert all(image.get_interpolation() == "nearest" for axes in figure.axes for image in axes.images)
    assert all(isinstance(image, AxesImage) for axes in figure.axes for image in axes.images)
    table = answers(group)
    assert table["encoder"].tolist() == ["advcl"] * 3 + ["at"] * 3
    assert table["largest_change"].round(4).tolist() == [0.1] * 6


def test_a_perturbation_that_is_nothing_is_drawn_as_it_is(tmp_path: Path) -> None:
    found = made("examples")
    with style.style():
        figure = examples(one(tmp_path, "examples", {"advcl": found | {"adversarial": found["clean"]}}))
    assert "\u00d7 1 about grey" in line(figure)


def test_frequency_shares_by_hand(tmp_path: Path) -> None:
    group = one(tmp_path, "frequency", {"": made("frequency")})
    assert shares(group)["high_share"].round(6).tolist() == [1.0] * 3 + [0.0] * 3
    with style.style():
        shown = images(views(group))
    of = group.first.arrays
    expected = [of["clean"][0], of["low"][0][0], 0.5 + of["high"][0][0], of["low"][1][0], 0.5 + of["high"][1][0]]
    for found, pixels in zip(shown, expected, strict=False):
        assert np.allclose(found, np.clip(pixels[0], 0, 1))


@pytest.mark.parametrize(("classes", "named"), [(10, True), (20, True), (40, False)])
def test_classes_are_named_at_their_centres_while_there_is_room(tmp_path: Path, classes: int, named: bool) -> None:
    group = one(tmp_path, "features", {"advcl": made("features", classes=classes)})
    with style.style():
        figure = planes(group)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ([str(label) for label in range(classes)] if named else [])
    looks = [(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in axes.collections]
    assert len(set(looks)) == classes, "no two classes look alike"
    for text in axes.texts:
        label = int(text.get_text())
        of = group.first.arrays
        middle = np.median(of["plane"][of["label"] == label], axis=0)
        assert np.allclose(text.get_position(), middle)


def test_colours_of_ten_classes_differ_for_colour_blind_readers() -> None:
    from matplotlib.colors import to_rgb

    from robustcl.reports.figures.features import COLOURS

    # Vienot, Brettel and Mollon (1999): a deuteranope's view of linear RGB.
    seen = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    views = [np.array(to_rgb(colour)) ** 2.2 for colour in COLOURS]
    for left, right in itertools.combinations(views, 2):
        assert np.abs(seen @ left - seen @ right).max() > 0.02


def test_adversarial_features_have_a_panel_of_their_own(tmp_path: Path) -> None:
    found = made("features")
    group = one(tmp_path, "features", {"advcl": found | {"adversarial_plane": -found["plane"]}})
    assert points(group)["kind"].value_counts().to_dict() == {"clean": 200, "adversarial": 200}
    with style.style():
        figure = planes(group)
    clean, adversarial = figure.axes
    assert clean.get_xlim() == adversarial.get_xlim()


def test_landscapes_share_their_levels_and_say_their_range(tmp_path: Path) -> None:
    group = one(tmp_path, "landscape", {"advcl": made("landscape"), "at": made("landscape", 3)})
    with style.style():
        figure = landscapes(group)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left") in ("advcl", "at")]
    levels = [axes.collections[0].levels for axes in panels]  # type: ignore[attr-defined]
    assert np.array_equal(*levels)
    assert levels[0][0] <= 0.5
    assert levels[0][-1] >= 4 * 3.5
    assert {"0.5 to 3.5, centre 0.5", "2 to 14, centre 2"} <= set(texts(figure))
    assert "40 images, PGD-10 anew at every point" in line(figure)
    table = losses(group)
    # The first direction goes along the rows: loss = 0.5 + first^2 + 2 second^2.
    advcl = table[table["encoder"] == "advcl"]
    assert np.allclose(advcl["loss"], 0.5 + advcl["first"] ** 2 + 2 * advcl["second"] ** 2)


def test_a_flat_landscape_is_drawn(tmp_path: Path) -> None:
    found = made("landscape")
    with style.style():
        landscapes(one(tmp_path, "landscape", {"advcl": found | {"loss": np.full((5, 5), 2.3)}}))


def test_recipes_are_figures_of_their_own_with_names_of_their_own(tmp_path: Path) -> None:
    run = folder(tmp_path, {"inversion": {"advcl": made("inversion")}})
    place = tmp_path / "probe" / "ff"
    place.mkdir()
    part = {"probe": {"name": "inversion", **RECIPES["inversion"], "unit": 6}, "images": 40}
    (place / "stage.json").write_text(json.dumps({"part": part, "parents": {}}))
    np.savez(place / "arrays.npz", allow_pickle=False, **made("inversion"))
    suite = json.loads((tmp_path / "suite.json").read_text())
    suite["probes"].append(suite["probes"][0] | {"stage": "ff"})
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    with style.style():
        drawn = list(drawing.find("feature-inversion").draw(RunFolder(run.root)))
    assert [of.name for of in drawn] == ["feature-inversion-digits-SLF", "feature-inversion-digits-SLF-2"]
    assert [int(of.data["unit"].iloc[0]) for of in drawn] == [5, 6]
    assert isinstance(drawn[0].data, pd.DataFrame)


@pytest.mark.parametrize(
    ("text", "inches", "lines"),
    [
        ("advcl", 0.6, ["advcl"]),
        ("acl_without_high", 0.4, ["acl_", "without_", "high"]),
        ("advcl (lambda=0.5)", 0.6, ["advcl", "(lambda=0.5)"]),
        ("without-any-", 0.19, ["with", "out-", "any-"]),
    ],
)
def test_names_are_broken_where_they_have_joints(text: str, inches: float, lines: list[str]) -> None:
    assert wrapped(text, inches).split("\n") == lines
