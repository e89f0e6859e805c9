"""Transfers: one suite over several data sets, its cells, its stages, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustcl.bench.executors import run_stages
from robustcl.bench.library import Library
from robustcl.bench.place import Place
from robustcl.bench.plan import plan
from robustcl.bench.runner import make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.store import Store
from robustcl.models.errors import UserError
from robustcl.reports import drawing
from robustcl.reports.report import report
from robustcl.reports.verdicts import summary
from tests.bench.tiny import TINY, Quiet, one_line, write_suite

SUITE = TINY.replace('[data]\nname = "digits"\n', "").replace("images = 40", "images = 12")


def save(path: Path, classes: int, seed: int, side: int = 8) -> Path:
    draw = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, n in (("train", 48), ("test", 16)):
        labels = np.arange(n) % classes
        noise = draw.integers(0, 60, (n, side, side))
        arrays[f"{split}_images"] = (noise + 180 * labels[:, None, None] // classes).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)
    return path


def written(folder: Path, more: str = "", sides: tuple[int, int] = (8, 8)) -> Path:
    """A suite over the sets `a` (4 classes) and `b` (5 classes)."""
    sets = [
        f'[sets.{name}]\nname = "npz"\npath = "{save(folder / f"{name}.npz", classes, classes, side)}"\n'
        for name, classes, side in zip("ab", (4, 5), sides, strict=True)
    ]
    path = folder / "both.toml"
    path.write_text(SUITE + "\n".join(sets) + more)
    return path


def test_every_source_is_finetuned_and_judged_on_every_target(tmp_path: Path) -> None:
    made = plan(read_suite(written(tmp_path)), Library())
    cells = {(cell["data"], cell["encoder"]): cell["classes"] for cell in made.cells}
    pairs = {"a": 4, "a -> b": 5, "b -> a": 4, "b": 5}
    assert cells == {(pair, name): classes for pair, classes in pairs.items() for name in ("random", "at")}
    # One encoder a source, whatever it is judged on; random and at, finetuned and judged on each pair.
    kinds = [stage.kind for stage in made.stages]
    assert (kinds.count("pretrain"), kinds.count("finetune"), kinds.count("evaluate")) == (4, 8, 8)


def test_a_transfer_chooses_its_sources_and_targets(tmp_path: Path) -> None:
    more = '\n[transfer]\nsource = ["a"]\ntarget = ["b", "a"]\n'
    made = plan(read_suite(written(tmp_path, more)), Library())
    assert list(dict.fromkeys(cell["data"] for cell in made.cells)) == ["a -> b", "a"]


def test_a_grid_over_a_transfer_keeps_each_data_set_apart(tmp_path: Path) -> None:
    more = '\n[transfer]\nsource = ["a"]\n\n[grid]\n"pretrain.at.ascent.steps" = [1, 2]\n'
    made = plan(read_suite(written(tmp_path, more)), Library())
    names = ["random", "at (steps=1)", "at (steps=2)"]
    assert [(cell["data"], cell["encoder"]) for cell in made.cells] == [
        (data, name) for data in ("a", "a -> b") for name in names
    ]


def test_a_transfer_runs_to_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        drawing, "drawings", lambda: ["clean-against-robust", "transfer-matrix"]
    )  # the others take long
    job = prepare(written(tmp_path), runs=tmp_path / "runs")
    make(job, Quiet(), workers=1)
    made = report(tmp_path / "runs")
    matrix = (made.folder / "transfer.md").read_text()
    assert {path.name for path in made.paths} >= {"transfer.md", "transfer.csv"}
    figures = {path.name for path in made.paths if path.suffix == ".png"}
    scatter = {f"clean-against-robust-{pair}-linf-1_10.png" for pair in ("a", "b", "a-to-b", "b-to-a")}
    assert figures == scatter | {f"transfer-matrix-{judge}.png" for judge in ("clean", "pgd-3", "apgd-ce")}
    lines = [line for line in matrix.splitlines() if line.startswith("| at")]
    assert [line.split("|")[2].strip() for line in lines][:2] == ["a", "b"]
    assert "SLF -> a" in matrix
    assert "SLF -> b" in matrix
    from robustcl.reports.frame import frame

    held = summary(frame(tmp_path / "runs"))
    one = held[(held["encoder"] == "at") & (held["data"] == "a -> b") & (held["judge"] == "clean")].iloc[0]
    assert f"{100 * one['accuracy']:.1f} [" in lines[0].split("|")[4]


def test_a_worker_finds_the_images_of_every_set(tmp_path: Path) -> None:
    points = read_suite(written(tmp_path))
    library = Library()
    made = plan(points, library)
    place = Place(store=Store(tmp_path / "runs"), library=library, files=made.files)
    run_stages(made.stages, place, 2, made.cost, Quiet())
    assert all(place.store.has(stage) for stage in made.stages)


def test_sets_stand_for_the_data_of_the_suite_that_is_extended(tmp_path: Path) -> None:
    write_suite(tmp_path, "base")
    path = written(tmp_path)
    sets = path.read_text().partition("[sets.a]")
    path.write_text('extends = "./base.toml"\n\n' + "".join(sets[1:]))
    assert len(read_suite(path)) == 4


@pytest.mark.parametrize(
    ("more", "sides", "says"),
    [
        ('[transfer]\nsource = ["c"]\n', (8, 8), "both.transfer.source: unknown set 'c', expected one of a, b"),
        (
            "[transfer]\ntarget = []\n",
            (8, 8),
            "both.transfer.target: [] is wrong, expected at least one name, each once",
        ),
        ("[transfer]\ntargets = []\n", (8, 8), "both.transfer: unknown key 'targets'"),
        ('[data]\nname = "digits"\n', (8, 8), "both: [sets] and [transfer] stand for [data] and [target]"),
        ("", (8, 9), "both.sets.b: images of shape (1, 9, 9), expected (1, 8, 8) as in [sets.a]; set size = 8"),
        (
            '[grid]\n"sets.a.path" = ["x"]\n',
            (8, 8),
            "both.grid.sets.a.path: data is not an axis, expected several data",
        ),
    ],
)
def test_what_a_transfer_refuses(tmp_path: Path, more: str, sides: tuple[int, int], says: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(read_suite(written(tmp_path, more, sides)), Library())
    assert one_line(caught.value).startswith(says)
