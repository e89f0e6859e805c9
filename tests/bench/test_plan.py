"""The plan: what is in a key and what is not, and each stage once."""

from pathlib import Path

import numpy as np
import pytest

from robustcl.bench.data import Digits, Npz
from robustcl.bench.plan import Plan, plan
from robustcl.bench.schemes import Scheme
from robustcl.bench.spec import read_suite
from robustcl.models.errors import UserError
from robustcl.pretraining.methods.supervised import Supervised
from tests.bench.tiny import write_suite

MORE = """
[pretrain.clean]
method = "simclr"
strong = "digits"
training = { epochs = 1 }

[finetune.AFF]
weak = "digits-weak"
"""
SPLITS = Digits().load()


def planned(folder: Path, *overrides: str, more: str = MORE) -> Plan:
    return plan(read_suite(write_suite(folder, more=more), overrides), SPLITS)


def keys(made: Plan) -> dict[str, str]:
    """Label -> key; the radius at the end of an evaluation's label is left out."""
    return {s.label.rpartition(" at ")[0] if s.kind == "evaluate" else s.label: s.key for s in made.stages}


def moved(folder: Path, *overrides: str) -> set[str]:
    """The labels of the stages whose keys another suite changes."""
    before, after = keys(planned(folder)), keys(planned(folder, *overrides))
    assert before.keys() == after.keys()
    return {label for label, key in before.items() if after[label] != key}


ENCODERS, SCHEMES = ("random", "at", "clean"), ("SLF", "AFF")
PRETRAIN = {f"pretrain {e}" for e in ENCODERS}
FINETUNE = {f"finetune {e} {s}" for e in ENCODERS for s in SCHEMES}
EVALUATE = {f"evaluate {e} {s}" for e in ENCODERS for s in SCHEMES}
AT = {"pretrain at", *(f"{verb} at {s}" for verb in ("finetune", "evaluate") for s in SCHEMES)}
SLF = {f"{verb} {e} SLF" for verb in ("finetune", "evaluate") for e in ENCODERS}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("judge.images=20", EVALUATE),
        ("judge.judges=['pgd-3']", EVALUATE),
        ("judge.batch=9", EVALUATE),
        ("seeds.judge=1", EVALUATE),
        ("seeds.finetune=1", FINETUNE | EVALUATE),
        ("seeds.pretrain=1", PRETRAIN | FINETUNE | EVALUATE),
        ("encoder.width=5", PRETRAIN | FINETUNE | EVALUATE),
        ("encoder.mean=[0.4]", PRETRAIN | FINETUNE | EVALUATE),
        ("pretrain.at.training.epochs=2", AT),
        ("finetune.SLF.training.epochs=2", SLF),
        ("threat.eps='1/5'", AT | {f"finetune {e} AFF" for e in ENCODERS} | EVALUATE),
        ("pretrain.at.training.batch=256", set()),
    ],
)
def test_a_change_moves_exactly_what_depends_on_it(tmp_path: Path, override: str, expected: set[str]) -> None:
    assert moved(tmp_path, override) == expected


@pytest.mark.parametrize(("kind", "expected"), [(Supervised, {"random", "at"}), (Scheme, set(ENCODERS))])
def test_a_version_moves_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, expected: set[str]
) -> None:
    before = keys(planned(tmp_path))
    monkeypatch.setattr(kind, "version", 99)
    after = keys(planned(tmp_path))
    changed = {label for label, key in before.items() if after[label] != key}
    pretrain = {f"pretrain {e}" for e in expected} if kind is Supervised else set()
    assert changed == pretrain | {label for label in FINETUNE | EVALUATE if label.split()[1] in expected}


def test_a_path_is_in_no_key(tmp_path: Path) -> None:
    arrays = {
        f"{s}_images": np.arange(40 * 64, dtype=np.int64).astype(np.uint8).reshape(40, 8, 8) for s in ("train", "test")
    }
    labels = {f"{s}_labels": np.arange(40) % 4 for s in ("train", "test")}
    found = []
    for name, shift in (("one", 0), ("two", 0), ("three", 1)):
        path = tmp_path / f"{name}.npz"
        arrays["test_images"] = arrays["test_images"] + np.uint8(shift)
        np.savez(path, **arrays, **labels)  # type: ignore[arg-type]
        points = read_suite(write_suite(tmp_path), ["data.name='npz'", f"data.path='{path}'"])
        assert isinstance(points[0].data, Npz)
        found.append(keys(plan(points, points[0].data.load())))
    one, two, three = found
    assert one == two, "the path is in no key"
    assert {label for label, key in one.items() if three[label] != key} == {"evaluate random SLF", "evaluate at SLF"}


def test_stages_appear_once_and_after_their_parents(tmp_path: Path) -> None:
    made = planned(tmp_path, "judge.sweep.eps=['1/20', '1/10', '1/5']")
    order = [stage.key for stage in made.stages]
    assert len(set(order)) == len(order) == 3 + 6 + 6 * 3
    for stage in made.stages:
        assert all(order.index(parent.key) < order.index(stage.key) for parent in stage.parents.values())
    assert set(made.cost) == set(order)
    assert all(cost > 0 for key, cost in made.cost.items() if key in {cell["stage"] for cell in made.cells})


def test_every_table_has_the_random_encoder(tmp_path: Path) -> None:
    made = planned(tmp_path)
    assert {(cell["encoder"], cell["scheme"]) for cell in made.cells} == {(e, s) for e in ENCODERS for s in SCHEMES}
    (random,) = [stage for stage in made.stages if stage.label == "pretrain random"]
    assert random.part["method"]["training"]["epochs"] == 0
    assert made.cost[random.key] == 0
    assert all(cell["headline"] for cell in made.cells)


def test_a_grid_over_finetuning_gives_the_random_encoder_a_row_per_point(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    path.write_text(path.read_text() + '\n[grid]\n"finetune.SLF.training.epochs" = [1, 2]\n')
    points = read_suite(path)
    names = [cell["encoder"] for cell in plan(points, points[0].data.load()).cells if cell["scheme"] == "SLF"]
    assert len(names) == len(set(names))
    assert {name for name in names if name.startswith("random")} == {"random (epochs=1)", "random (epochs=2)"}


@pytest.mark.parametrize(
    ("override", "says"), [("encoder.mean=[0.5, 0.5]", "1 numbers"), ("labels.c.k=[5000]", "2 to")]
)
def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path, override: str, says: str) -> None:
    more = '\n[pretrain.clean]\nmethod = "simclr"\n[labels.c]\nencoder = "clean"\n'
    with pytest.raises(UserError, match=says):
        planned(tmp_path, override, more=more)
