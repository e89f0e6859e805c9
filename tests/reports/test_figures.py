"""The only owner of the tests of the figures: what they show, that it can be read, and that it is the same again."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from robustcl.models.errors import UserError
from robustcl.reports import drawing, style
from robustcl.reports.figures.accuracy_against_eps import against_eps, curves
from robustcl.reports.figures.clean_against_robust import clean_against_robust
from robustcl.reports.folder import RunFolder
from robustcl.reports.frame import frame
from robustcl.reports.table import tables
from tests.reports.synthetic import CURVES, JUDGES, answers, cell, write_run

PGD = {"pgd-20": ["pgd-20"]}


def swept(
    encoder: str, scheme: str, robust: dict[str, int], **changes: Any
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Sweep cells of ten images of which eight are right clean: eps -> how many survive."""
    stage = f"{encoder}-{scheme}-{changes.get('norm', '')}-"
    return [
        (
            cell(encoder, scheme, eps, headline=False, judges=PGD, stage=stage + eps.replace("/", "_")) | changes,
            answers(10, 8, {"pgd-20": count}, PGD),
        )
        for eps, count in robust.items()
    ]


@pytest.fixture(scope="module")
def drawn(quickstart: Path) -> dict[str, Figure]:
    run = RunFolder(quickstart)
    with style.style():
        (points,), (table,) = curves(run.numbers), run.tables
        return {"eps": against_eps(points), "scatter": clean_against_robust(table, "autoattack")}


def test_curves_by_hand(tmp_path: Path) -> None:
    headline = answers(10, 8, {"pgd-20": 6, "autoattack": 1}, JUDGES)
    cells = [*swept("advcl", "SLF", {"1/10": 5, "1/20": 7, "3/20": 2}), (cell("advcl", "SLF"), headline)]
    (points,) = curves(RunFolder(write_run(tmp_path / "runs", cells)).numbers)
    found = points[["eps", "radius", "judge", "n", "right", "accuracy"]].to_numpy().tolist()
    # The table's own cell speaks for 1/10.
    assert found == [
        ["0", 0.0, "clean", 10, 8, 0.8],
        ["1/20", 0.05, "pgd-20", 10, 7, 0.7],
        ["1/10", 0.1, "pgd-20", 10, 6, 0.6],
        ["3/20", 0.15, "pgd-20", 10, 2, 0.2],
    ]


def test_an_attack_at_eps_0_is_judged_not_assumed(tmp_path: Path) -> None:
    cells = swept("advcl", "SLF", {"0": 7, "1/20": 6, "1/10": 5})
    (points,) = curves(RunFolder(write_run(tmp_path / "runs", cells)).numbers)
    # The clean answer would say 8; a drop at eps 0 is a fault that must show.
    assert points["judge"].tolist() == ["pgd-20"] * 3
    assert points["right"].tolist() == [7, 6, 5]


def test_one_radius_is_no_curve(tmp_path: Path) -> None:
    runs = write_run(
        tmp_path / "runs", [(cell("advcl", "SLF"), answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES))]
    )
    assert curves(RunFolder(runs).numbers) == []
    names = {path.name for path in drawing.save(RunFolder(runs), tmp_path / "out")}
    stems = ("accuracy-against-steps", "clean-against-robust", "per-class")  # one scheme: no gap
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg", "pdf", "csv")}


def test_nothing_finished_is_no_figure(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), None)])
    assert drawing.save(RunFolder(runs), tmp_path / "out") == []


def test_clean_alone_is_no_scatter(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF", judges={}), answers(10, 8, {}, {}))])
    assert drawing.save(RunFolder(runs), tmp_path / "out", ["clean-against-robust"]) == []


def test_lines_show_the_points(quickstart: Path, drawn: dict[str, Figure]) -> None:
    (points,) = curves(RunFolder(quickstart).numbers)
    assert [panel.get_title(loc="left") for panel in drawn["eps"].axes] == ["SLF", "AFF"]
    for panel in drawn["eps"].axes:
        part = points[points["scheme"] == panel.get_title(loc="left")]
        lines = [line for line in panel.lines if len(np.asarray(line.get_xdata())) > 2]
        assert len(lines) == len(CURVES)
        for line, encoder in zip(lines, CURVES, strict=True):
            one = part[part["encoder"] == encoder]
            assert np.allclose(line.get_xdata(), one["radius"])
            assert np.allclose(line.get_ydata(), 100 * one["accuracy"])
            assert one["radius"].tolist() == [step / 40 for step in range(9)]


def test_colour_is_never_the_only_difference(drawn: dict[str, Figure]) -> None:
    for panel in drawn["eps"].axes:
        lines = [line for line in panel.lines if len(np.asarray(line.get_xdata())) > 2]
        assert len({line.get_marker() for line in lines}) == len(lines)
        assert len({to_hex(line.get_color()) for line in lines}) == len(lines)
    looks = style.looks([str(place) for place in range(63)])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 63


def boxes(figure: Figure) -> list[tuple[Text, Bbox]]:
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    # Ticks outside the limits keep a label that is never drawn.
    ticks = {label for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text not in ticks]
    return [(text, Text.get_window_extent(text, renderer)) for text in texts]


@pytest.mark.parametrize("name", ["eps", "scatter"])
def test_no_text_is_clipped_and_no_label_covers_another(drawn: dict[str, Figure], name: str) -> None:
    figure = drawn[name]
    found = boxes(figure)
    for text, box in found:
        inside = (
            figure.bbox.x0 <= box.x0
            and box.x1 <= figure.bbox.x1
            and figure.bbox.y0 <= box.y0
            and box.y1 <= figure.bbox.y1
        )
        assert inside, text.get_text()
    labels = [(text, box) for text, box in found if isinstance(text, Annotation)]
    names = [text.get_text() for text, _ in labels]
    # In the scatter one of the two lines of chance is out of sight, left of every encoder.
    wanted = [*CURVES, *CURVES, "chance", "chance"] if name == "eps" else [*CURVES, "chance"]
    assert sorted(filter(None, names)) == sorted(wanted)
    for (first, one), (second, other) in itertools.combinations(labels, 2):
        assert not one.overlaps(other), f"{first.get_text()} and {second.get_text()}"


def test_the_scatter_shows_the_table(quickstart: Path, drawn: dict[str, Figure]) -> None:
    (table,) = tables(frame(quickstart))
    numbers = table.numbers[table.numbers["kind"] == "measured"]
    wide = numbers.pivot_table(index=["row", "scheme"], columns="judge", values="accuracy")
    axes = drawn["scatter"].axes[0]
    points = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    shown = sorted((float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])) for line in points)
    assert np.allclose(shown, sorted((100 * wide[["clean", "autoattack"]]).itertuples(index=False, name=None)))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SA (%)", "AA (%)")
    arrows = [text for text in axes.texts if isinstance(text, Annotation) and not text.get_text()]
    ends = sorted([*np.ravel(text.xyann), *np.ravel(text.xy)] for text in arrows)
    robust = 100 * wide[["clean", "autoattack"]]
    wanted = [np.ravel([robust.loc[(row, scheme)] for scheme in ("SLF", "AFF")]).tolist() for row in CURVES]
    assert np.allclose(ends, sorted(wanted))


def test_an_unfinished_encoder_leaves_the_figures_whole(tmp_path: Path) -> None:
    rows = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)
    cells = [(cell("simclr", "SLF"), None), (cell("advcl", "SLF"), rows), (cell("advcl", "AFF"), None)]
    paths = drawing.save(
        RunFolder(write_run(tmp_path / "runs", [*cells, *swept("advcl", "SLF", {"1/20": 7})])), tmp_path / "out"
    )
    stems = ["accuracy-against-eps", "accuracy-against-steps", "clean-against-robust", "per-class"]
    assert [path.stem for path in paths if path.suffix == ".png"] == stems


def test_a_scheme_that_nothing_is_finished_of_has_no_panel(tmp_path: Path) -> None:
    """Of so many encoders that each scheme has a panel of its own, as in the middle of a large run."""
    rows = answers(20, 15, {"pgd-20": 10, "autoattack": 8}, JUDGES)
    names = [f"encoder {number}" for number in range(7)]
    cells = [(cell(name, scheme), rows if scheme == "SLF" else None) for scheme in ("SLF", "AFF") for name in names]
    (table,) = RunFolder(write_run(tmp_path / "runs", cells)).tables
    with style.style():
        (panel,) = clean_against_robust(table, "autoattack").axes
    assert panel.get_title("left").startswith("SLF: ")


def test_files_hold_four_forms_and_the_numbers(quickstart: Path, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    stems = ("accuracy-against-eps", "clean-against-robust")
    paths = drawing.save(RunFolder(quickstart), tmp_path, stems)
    assert dict(mpl.rcParams) == before
    assert [path.name for path in paths] == [
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg", "pdf", "csv")
    ]
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for path in paths:
        assert path.read_bytes().startswith(starts.get(path.suffix, b"suite,data,norm"))
    png = paths[0].read_bytes()
    assert int.from_bytes(png[16:20], "big") == 680  # 3.4 inches at 200 dpi
    data = pd.read_csv(paths[3])
    assert len(data) == 2 * 5 * 9
    assert ((data["low"] <= data["accuracy"]) & (data["accuracy"] <= data["high"])).all()
    (points,) = curves(RunFolder(quickstart).numbers)
    assert np.array_equal(data["right"], points["right"])
    assert set(pd.read_csv(paths[7])["judge"]) == {"clean", "autoattack"}


def test_each_norm_has_its_own_files(tmp_path: Path) -> None:
    cells = swept("advcl", "SLF", {"8/255": 5, "4/255": 7})
    cells += swept("advcl", "SLF", {"1/2": 5, "1/4": 7}, norm="l2")
    runs = write_run(tmp_path / "runs", cells)
    paths = drawing.save(RunFolder(runs), tmp_path / "out", ["accuracy-against-eps"])
    stems = [path.stem for path in paths if path.suffix == ".pdf"]
    assert stems == ["accuracy-against-eps-digits-linf", "accuracy-against-eps-digits-l2"]
    with style.style():
        grey, other = (against_eps(points).axes[-1] for points in curves(RunFolder(runs).numbers))
    assert "in 1/255" in grey.get_xlabel()
    assert np.allclose(grey.lines[0].get_xdata(), [0, 4, 8])
    assert "1/255" not in other.get_xlabel()
    assert np.allclose(other.lines[0].get_xdata(), [0, 0.25, 0.5])


def test_an_unwritable_folder_is_one_line(quickstart: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file: cannot be written \(.*\), expected a writable folder$"):
        drawing.save(RunFolder(quickstart), tmp_path / "file", ["gap"])


def test_the_scatter_marks_chance_where_it_is_in_sight(tmp_path: Path) -> None:
    rows = answers(10, 2, {"pgd-20": 1, "autoattack": 0}, JUDGES)
    better = answers(10, 8, {"pgd-20": 6, "autoattack": 5}, JUDGES)
    (table,) = tables(
        frame(write_run(tmp_path / "runs", [(cell("random", "SLF"), rows), (cell("advcl", "SLF"), better)]))
    )
    with style.style():
        figure = clean_against_robust(table, "autoattack")
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert sorted(tuple(np.ptp(line.get_xydata(), axis=0) == 0) for line in dotted) == [(False, True), (True, False)]
    assert all(10 in np.asarray(line.get_xydata()) for line in dotted)


def test_as_many_schemes_as_there_can_be_have_a_marker_each_and_a_whole_legend(tmp_path: Path) -> None:
    names = ["SLF", "ALF", "SFF", "AFF", "LP-AFF", "semi-1", "semi-10"]
    schemes = ["as given", *(f"{name} ({of})" for name in names for of in ("last", "best val"))]
    held = answers(10, 8, {"pgd-20": 6}, PGD)
    cells = [(cell("advcl", name, judges=PGD, stage=f"s{place}"), held) for place, name in enumerate(schemes)]
    with style.style():
        (table,) = tables(frame(write_run(tmp_path / "runs", cells)))
        figure = clean_against_robust(table, "pgd-20")
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == schemes
    assert len({str(line.get_marker()) for line in legend.get_lines()}) == len(schemes)
    inside, found = figure.bbox, legend.get_window_extent()
    assert inside.x0 <= found.x0
    assert found.x1 <= inside.x1


def test_each_file_takes_one_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the time of a report."""
    drawn: list[Figure] = []
    draw = Figure.draw

    def counted(figure: Figure, renderer: Any) -> None:
        drawn.append(figure)
        draw(figure, renderer)

    monkeypatch.setattr(Figure, "draw", counted)
    with style.style():
        figure = Figure(layout="constrained")
        figure.subplots()
        style.save("name", figure, pd.DataFrame(), tmp_path)
    assert drawn == 3 * [figure]
