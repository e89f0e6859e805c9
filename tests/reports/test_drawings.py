"""The only owner of the tests of the figures beyond the two of every table: steps, gap, heat maps, curves, cost."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import norm

from robustcl.reports import drawing, style
from robustcl.reports.figures import (
    clean_against_robust,
    cost_against_accuracy,
    gap,
    per_class,
    per_corruption,
    training_curves,
    transfer_matrix,
)
from robustcl.reports.folder import RunFolder
from robustcl.reports.matrix import transfers
from robustcl.reports.statistics import wilson, wilson_of_means
from robustcl.reports.steps import curves as step_curves
from tests.reports.synthetic import JUDGES, answers, cell, records, save, write_run
from tests.reports.test_figures import boxes

PGD = {"pgd-20": ["pgd-20"]}
ODD = "a$b_{x}/50% & co"  # nothing that matplotlib, a file name or LaTeX may read


def stepped(rows: pd.DataFrame, steps: Mapping[int, int]) -> pd.DataFrame:
    """The records with the step at which these images broke."""
    broken = rows["image"].map(steps).where((rows["judge"] != "clean") & ~rows["right"], -1)
    return rows.assign(step=broken.fillna(0).astype("int32"))


def note(runs: Path, kind: str, key: str, label: str, parents: Mapping[str, str], **made: Any) -> None:
    """A finished stage: its `stage.json`, and its `curve.csv` where there is one."""
    folder = runs / kind / key
    folder.mkdir(parents=True, exist_ok=True)
    what = {"kind": kind, "key": key, "label": label, "part": {}, "parents": parents}
    (folder / "stage.json").write_text(json.dumps(what | {"made": {"seconds": made.get("seconds", 0.0)}}))
    if "curve" in made:
        pd.DataFrame(made["curve"]).to_csv(folder / "curve.csv", index=False)


def clear_of_each_other(figure: Figure) -> None:
    """All texts lie on the figure, and none covers another."""
    found = [(text, box) for text, box in boxes(figure) if box.width > 1]  # the others are never drawn
    for text, box in found:
        assert figure.bbox.x0 <= box.x0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()
    for (first, one), (second, other) in itertools.combinations(found, 2):
        assert not one.overlaps(other), f"{first.get_text()} and {second.get_text()}"


def test_curves_by_steps_by_hand(tmp_path: Path) -> None:
    # Four images, three right clean. pgd-3 breaks image 0 at its start and image 1 at step 2; pgd-1 knows less.
    judges = {"pgd-1": ["pgd-1"], "pgd-3": ["pgd-3"], "autoattack": JUDGES["autoattack"]}
    clean = [(image, "clean", "clean", image < 3) for image in range(4)]
    broken = [(image, "pgd-3", "pgd-3", image == 2) for image in range(3)]
    short = [(image, "pgd-1", "pgd-1", image > 0) for image in range(3)]
    square = [
        (0, "autoattack", "apgd-ce", False),
        (1, "autoattack", "apgd-ce", False),
        (2, "autoattack", "apgd-ce", False),
    ]
    rows = stepped(records([*clean, *broken, *short, *square]), {0: 0, 1: 2})
    blind = records([(image, "clean", "clean", False) for image in range(4)])
    cells = [(cell("advcl", "SLF", judges=judges), rows), (cell("blind", "SLF", judges=judges), blind)]
    points = step_curves(RunFolder(write_run(tmp_path, cells)).finished)
    one = points[points["encoder"] == "advcl"]
    assert one[["judge", "steps", "n", "accuracy"]].to_numpy().tolist() == [
        ["pgd-3", 0, 4, 0.5], ["pgd-3", 1, 4, 0.5], ["pgd-3", 2, 4, 0.25], ["pgd-3", 3, 4, 0.25],
    ]  # fmt: skip
    assert np.allclose(one[["low", "high"]], np.transpose(wilson([2, 2, 1, 1], 4)))
    # Nothing was right, so nothing was attempted: a line at 0, and no error.
    assert points.loc[points["encoder"] == "blind", "accuracy"].tolist() == [0.0] * 4


def test_curves_by_steps_pool_seeds(tmp_path: Path) -> None:
    cells = []
    for seed, robust in ((0, 2), (1, 4)):
        of = cell("at", "SLF", judges={"pgd-2": ["pgd-2"]}, stage=f"s{seed}", seeds={"finetune": seed})
        cells.append((of, stepped(answers(4, 4, {"pgd-2": robust}, {"pgd-2": ["pgd-2"]}), {2: 1, 3: 1})))
    points = step_curves(RunFolder(write_run(tmp_path, cells)).finished)
    assert points["accuracy"].tolist() == [1.0, 0.75, 0.75]
    assert points["seeds"].tolist() == [2, 2, 2]
    assert (points["low"][1], points["high"][1]) == pytest.approx(wilson_of_means([1, 1, 0.5, 0.5], 2))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two encoders of ten images under SLF and AFF; the second has SLF alone and a name of odd characters."""
    cells = [
        (cell("advcl", "SLF"), answers(10, 8, {"pgd-20": 6, "autoattack": 4}, JUDGES)),
        (cell("advcl", "AFF"), answers(10, 8, {"pgd-20": 7, "autoattack": 7}, JUDGES)),
        (cell(ODD, "SLF", stage="odd"), answers(10, 5, {"pgd-20": 1, "autoattack": 0}, JUDGES)),
        (cell(ODD, "AFF", stage="odd-AFF"), None),
    ]
    return RunFolder(write_run(tmp_path_factory.mktemp("pair"), cells))


def test_the_gap_by_hand(pair: RunFolder) -> None:
    (table,) = pair.tables
    found = gap.scheme_gaps(pair.answers, table)
    assert found[["row", "judge", "of", "to", "n", "seeds"]].to_numpy().tolist() == [
        ["advcl", "clean", "SLF", "AFF", 10, 1],
        ["advcl", "autoattack", "SLF", "AFF", 10, 1],
    ]
    assert found["gap"].tolist() == pytest.approx([0, 0.3])
    # Three of ten images gained: their differences are 1, the others 0.
    half = norm.ppf(0.975) * np.std([1] * 3 + [0] * 7, ddof=1) / np.sqrt(10)
    assert (found["low"][1], found["high"][1]) == pytest.approx((0.3 - half, 0.3 + half))
    with style.style():
        figure = gap.gap(table, found)
        clear_of_each_other(figure)
    shown = {text.get_text(): text.get_color() for text in figure.findobj(Text) if isinstance(text, Text)}
    assert shown[f"+0.0 ±{100 * float(wilson(0, 10)[1]):.1f}"] == style.QUIET  # no answer differs among ten
    assert shown[f"+30.0 ±{100 * half:.1f}"] == style.INK


def labelled(rows: pd.DataFrame, classes: int) -> pd.DataFrame:
    return rows.assign(label=rows["image"] % classes)


def test_classes_by_hand(tmp_path: Path) -> None:
    cells = [
        (
            cell("at", "SLF", judges=PGD, stage=f"s{seed}", seeds={"finetune": seed}),
            labelled(answers(5, 4, {"pgd-20": 2}, PGD), 2),
        )
        for seed in (0, 1)
    ]  # images 0, 2, 4 are of class 0, of which 4 is wrong; 1 and 3 of class 1
    numbers = per_class.by_class(RunFolder(write_run(tmp_path, cells)))
    assert numbers[["judge", "label", "seeds", "n", "accuracy"]].to_numpy().tolist() == [
        ["clean", 0, 2, 3, 2 / 3], ["clean", 1, 2, 2, 1.0], ["pgd-20", 0, 2, 3, 1 / 3], ["pgd-20", 1, 2, 2, 0.5],
    ]  # fmt: skip
    assert (numbers["low"][0], numbers["high"][0]) == pytest.approx(wilson_of_means([1, 1, 0], 2))


def test_the_heat_map_of_classes_says_their_percent_and_images(pair: RunFolder) -> None:
    numbers = per_class.by_class(pair)
    part = numbers[numbers["scheme"] == "SLF"]
    with style.style():
        figure = per_class.per_class(part)
        clear_of_each_other(figure)
    top, bottom = figure.axes
    assert [text.get_text() for text in top.texts] == ["80", "50"]  # one class, SA of both encoders
    assert [text.get_text() for text in bottom.texts] == ["40", "0"]
    assert [label.get_text() for label in top.get_yticklabels()] == ["advcl", ODD]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["1\n10"]


def test_many_classes_are_shades_alone(tmp_path: Path) -> None:
    rows = labelled(answers(60, 40, {"pgd-20": 20}, PGD), 30)
    run = RunFolder(write_run(tmp_path, [(cell("at", "SLF", judges=PGD, classes=30), rows)]))
    with style.style():
        figure = per_class.per_class(per_class.by_class(run))
        clear_of_each_other(figure)
    assert not figure.axes[0].texts
    assert len(figure.axes) == 3  # two heat maps and the bar that says what the shades are


def corrupted(folder: Path, encoders: list[str]) -> RunFolder:
    """Four images; under fog-1 all are right, under fog-2 half, under snow_storm one at severity 1 and none at 2."""
    right = {"fog-1": 4, "fog-2": 2, "snow_storm-1": 1, "snow_storm-2": 0}
    cells = [cell(name, "SLF", judges=PGD | {"corruptions": [*right]}, corrupt=f"c-{name}") for name in encoders]
    runs = write_run(folder, [(one, answers(4, 4, {"pgd-20": 2}, PGD)) for one in cells])
    rows = [(image, "corruptions", attack, image < count) for image in range(4) for attack, count in right.items()]
    for name in encoders:
        save(runs / "corrupt" / f"c-{name}" / "records.parquet", records(rows).assign(step=-1, passes=1))
    return RunFolder(runs)


@pytest.mark.parametrize("encoders", [["at"], ["at", "advcl"]])
def test_the_heat_map_of_corruptions(tmp_path: Path, encoders: list[str]) -> None:
    run = corrupted(tmp_path, encoders)
    (drawn,) = per_corruption.PerCorruption().draw(run)
    texts = [[text.get_text() for text in panel.texts] for panel in drawn.figure.axes]
    if len(encoders) == 1:
        assert texts == [["100", "50", "25", "0"]]
        assert [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()] == ["fog", "snow storm"]
    else:
        assert texts == [["75", "12"] * 2, ["62", "25"] * 2]  # by corruption; by severity
    assert len(drawn.data) == 4 * len(encoders)


def transferred(folder: Path, encoders: int) -> RunFolder:
    cells = []
    for number, data in itertools.product(range(encoders), ["one", "two", "one -> two"]):
        count = {"one": 8, "two": 6, "one -> two": 5}[data]
        of = cell(f"e{number}", "SLF", data=data, judges=PGD, stage=f"e{number}{data[:3]}{data[-3:]}")
        cells.append((of, answers(10, count, {"pgd-20": 2}, PGD)))
    return RunFolder(write_run(folder, cells))


def test_the_heat_map_of_transfer(tmp_path: Path) -> None:
    numbers = transfers(transferred(tmp_path, 1).records)
    with style.style():
        figure = transfer_matrix.transfer_matrix(numbers[numbers["judge"] == "clean"], ["e0"])
        clear_of_each_other(figure)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["one", "two"]
    assert [text.get_text() for text in panel.texts] == ["80", "50", "-", "60"]  # two -> one was not judged


def test_many_encoders_of_a_transfer_are_several_figures(tmp_path: Path) -> None:
    names = [drawn.name for drawn in transfer_matrix.TransferMatrix().draw(transferred(tmp_path, 7))]
    assert names == [f"transfer-matrix-{judge}-{part}" for judge in ("clean", "pgd-20") for part in (1, 2)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A random encoder, SimCLR and AdvCL, whose labels need SimCLR, with curves and seconds."""
    names = ["random", "simclr", "advcl"]
    robust = {"random": 1, "simclr": 2, "advcl": 6}
    held = [(cell(name, "SLF"), answers(10, 8, {"pgd-20": 6, "autoattack": robust[name]}, JUDGES)) for name in names]
    runs = write_run(tmp_path_factory.mktemp("trained"), held)
    terms = {"epoch": [1, 2], "lr": [0.1, 0.1], "loss": [3.0, 2.0], "contrast": [2.0, 1.5], "pseudo": [1.0, 0.5]}
    note(runs, "pretrain", "p-random", "pretrain random", {}, seconds=0.01, curve={"epoch": []})
    note(runs, "pretrain", "p-simclr", "pretrain simclr", {}, seconds=10.0, curve={"epoch": [1], "contrast": [4.0]})
    note(runs, "labels", "labels", "labels clusters", {"encoder": "p-simclr"}, seconds=2.0)
    note(runs, "pretrain", "p-advcl", "pretrain advcl", {"labels": "labels"}, seconds=30.0, curve=terms)
    for name in names:
        tuned = {"epoch": [1, 2], "loss": [2.0, 1.0], "clean": [2.0, 1.0], "val": [0.5, 0.6]}
        note(runs, "finetune", f"f-{name}", f"finetune {name} SLF", {"encoder": f"p-{name}"}, curve=tuned)
        note(runs, "evaluate", f"{name}-SLF-1_10", f"evaluate {name} SLF", {"classifier": f"f-{name}"})
    return RunFolder(runs)


def test_training_curves_by_hand(trained: RunFolder) -> None:
    points = training_curves.curves(trained)
    shown = points[["kind", "row", "scheme", "epoch", "term", "value"]].astype({"row": str})
    assert shown[shown["kind"] == "pretrain"].to_numpy().tolist() == [
        ["pretrain", "simclr", "", 1, "contrast", 4.0],
        ["pretrain", "advcl", "", 1, "contrast", 2.0],
        ["pretrain", "advcl", "", 2, "contrast", 1.5],
        ["pretrain", "advcl", "", 1, "pseudo", 1.0],
        ["pretrain", "advcl", "", 2, "pseudo", 0.5],
    ]
    tuned = shown[shown["kind"] == "finetune"]
    assert set(tuned["term"]) == {"clean"}
    assert tuned["row"].tolist() == ["random", "random", "simclr", "simclr", "advcl", "advcl"]
    first, second = training_curves.TrainingCurves().draw(trained)
    assert [panel.get_title(loc="left") for panel in first.figure.axes] == [
        "simclr\ncontrast", "advcl\ncontrast", "advcl\npseudo",
    ]  # fmt: skip
    assert (first.name, second.name) == ("training-curves-pretrain", "training-curves-finetune")
    clear_of_each_other(second.figure)


def test_a_gap_of_equal_answers_is_not_known_exactly(tmp_path: Path) -> None:
    held = answers(40, 30, {"pgd-20": 6}, PGD)
    run = RunFolder(write_run(tmp_path, [(cell("advcl", scheme, judges=PGD), held) for scheme in ("SLF", "AFF")]))
    of = gap.scheme_gaps(run.answers, run.tables[0])
    assert of["gap"].tolist() == [0, 0]
    assert of["high"].tolist() == pytest.approx(2 * [float(wilson(0, 40)[1])])


def test_a_gap_shows_every_scheme_when_there_are_more_than_markers(tmp_path: Path) -> None:
    names = [f"semi-{share}" for share in range(1, len(style.MARKERS) + 3)]
    held = answers(10, 8, {"pgd-20": 6}, PGD)
    run = RunFolder(write_run(tmp_path, [(cell("advcl", name, judges=PGD), held) for name in names]))
    (table,) = run.tables
    with style.style():
        figure = gap.gap(table, gap.scheme_gaps(run.answers, table))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_a_curve_is_that_of_the_whole_name_and_not_of_one_that_it_begins_with(tmp_path: Path) -> None:
    names = ["at", "at long"]
    held = [(cell(name, "SLF", stage=f"e{len(name)}"), answers(10, 8, {"pgd-20": 6}, PGD)) for name in names]
    runs = write_run(tmp_path, held)
    for name in names:
        key, curve = len(name), {"epoch": [1, 2], "adversarial": [2.0, 1.0]}
        note(runs, "pretrain", f"p{key}", f"pretrain {name}", {}, curve=curve)
        note(runs, "finetune", f"f{key}", f"finetune {name} SLF", {"encoder": f"p{key}"})
        note(runs, "evaluate", f"e{key}", f"evaluate {name} SLF", {"classifier": f"f{key}"})
    points = training_curves.curves(RunFolder(runs))
    assert dict(zip(points["stage"], points["row"], strict=True)) == {"p2": "at", "p7": "at long"}


def test_the_strongest_judge_is_that_of_each_table(tmp_path: Path) -> None:
    strong = answers(10, 8, {"pgd-20": 6, "autoattack": 4}, JUDGES)
    weak, other = answers(10, 8, {"pgd-20": 5}, PGD), {"data": "mnist", "judges": PGD}
    cells = [(cell("advcl", scheme), strong) for scheme in ("SLF", "AFF")]
    cells += [(cell("advcl", scheme, stage=f"m{scheme}") | other, weak) for scheme in ("SLF", "AFF")]
    run = RunFolder(write_run(tmp_path, cells))
    of = per_class.by_class(run)
    assert set(of.loc[of["data"].astype(str) == "mnist", "judge"]) == {"clean", "pgd-20"}
    assert set(of.loc[of["data"].astype(str) == "digits", "judge"]) == {"clean", "autoattack"}
    found = {table.numbers["data"].iloc[0]: set(gap.scheme_gaps(run.answers, table)["judge"]) for table in run.tables}
    assert found == {"digits": {"clean", "autoattack"}, "mnist": {"clean", "pgd-20"}}


def test_without_curves_and_stages_there_is_nothing_to_draw(pair: RunFolder, tmp_path: Path) -> None:
    names = ["training-curves", "cost-against-accuracy", "transfer-matrix", "per-corruption", "accuracy-against-eps"]
    assert drawing.save(pair, tmp_path, names) == []


@pytest.mark.parametrize("planned", [True, False])
def test_the_cost_counts_all_that_an_encoder_needs(trained: RunFolder, planned: bool) -> None:
    passes = {"p-random": 0, "p-simclr": 600, "labels": 10, "p-advcl": 900} if planned else {}
    run = RunFolder(trained.root)
    run.suite["resolved"]["cost"] = passes
    (table,) = run.tables
    points = cost_against_accuracy.priced(run, table)
    assert points["row"].tolist() == ["simclr", "advcl"]  # the random encoder cost nothing
    assert points["unit"].tolist() == ["passes" if planned else "seconds"] * 2
    assert points["cost"].tolist() == ([600, 1510] if planned else [10, 42])
    assert points["accuracy"].tolist() == [0.2, 0.6]
    assert points["best"].tolist() == [True, True]
    with style.style():
        figure = cost_against_accuracy.cost_against_accuracy(points, table)
        clear_of_each_other(figure)
    assert ("forward-equivalents" if planned else "seconds") in figure.axes[-1].get_xlabel()


def test_what_is_dearer_and_no_better_is_not_among_the_best() -> None:
    points = pd.DataFrame({"cost": [1.0, 2.0, 3.0, 3.0], "accuracy": [0.3, 0.3, 0.5, 0.4]})
    best = [cost_against_accuracy._best(points, *point) for point in points.itertuples(index=False, name=None)]
    assert best == [True, False, True, False]


def test_thirteen_encoders_have_a_panel_per_scheme_and_every_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = []
    for number, scheme in itertools.product(range(13), ("SLF", "AFF")):
        clean = int(rng.integers(100, 140))
        robust = {"pgd-20": clean // 2, "autoattack": int(rng.integers(30, 50))}
        cells.append((cell(f"encoder{number}", scheme), answers(200, clean, robust, JUDGES)))
    (table,) = RunFolder(write_run(tmp_path, cells)).tables
    with style.style():
        figure = clean_against_robust.clean_against_robust(table, "autoattack")
        names = {f"encoder{number}" for number in range(13)}
        for panel, scheme in zip(figure.axes, ("SLF", "AFF"), strict=True):
            assert panel.get_title(loc="left").startswith(scheme)
            assert {text.get_text() for text in panel.texts} >= names
        clear_of_each_other(figure)


def test_the_diagram_is_drawn_where_it_is_asked_for_alone(pair: RunFolder, tmp_path: Path) -> None:
    assert "pipeline" in drawing.drawings()
    (png, *_) = drawing.save(pair, tmp_path, ["pipeline"])
    assert png.name == "pipeline.png"
    with style.style():
        (drawn,) = drawing.find("pipeline").draw(pair)
        clear_of_each_other(drawn.figure)


@pytest.mark.parametrize(
    ("text", "stem"),
    [("8/255", "x-8_255"), ("a -> b", "x-a-to-b"), ("SLF (best val)", "x-SLF-best-val"), (ODD, "x-a-b_-x-_50-co")],
)
def test_names_of_files_are_plain(text: str, stem: str) -> None:
    assert drawing.named("x", pd.DataFrame({"of": [text]}), ["of"], several=True) == stem


@pytest.mark.parametrize(
    ("value", "told"), [(0.5, "0.5"), (1, "1"), (2000, "2000"), (1e4, "10⁴"), (2e8, "2·10⁸"), (5e-4, "5·10⁻⁴")]
)
def test_powers_are_plain(value: float, told: str) -> None:
    assert style._power(value) == told
