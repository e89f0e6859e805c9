"""The plan: what is in a key and what is not, and each stage once."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcl.bench.datasets.digits import Digits
from robustcl.bench.datasets.npz import Npz
from robustcl.bench.library import Library
from robustcl.bench.plan import Plan, plan
from robustcl.bench.runner import claim, prepare
from robustcl.bench.schemes.labelled import Labelled
from robustcl.bench.spec import read_suite
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.checkpoint import save_encoder
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining.methods.supervised import Supervised
from robustcl.pretraining.pseudo_labels import save_labels
from tests.bench.tiny import one_line, write_suite

MORE = """
[pretrain.clean]
method = "simclr"
strong = "digits"
training = { epochs = 1 }

[finetune.AFF]
weak = "digits-weak"
selection = ["last"]
"""
SPLITS = Digits().load()


def planned(folder: Path, *overrides: str, more: str = MORE) -> Plan:
    return plan(read_suite(write_suite(folder, more=more), overrides), Library())


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
THUMBNAILS = {"probe thumbnails"}
SLF = {f"{verb} {e} SLF" for verb in ("finetune", "evaluate") for e in ENCODERS}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("judge.images=20", EVALUATE | THUMBNAILS),
        ("judge.judges=['pgd-3']", EVALUATE),
        ("judge.engine=reference", EVALUATE),
        ("judge.batch=9", set()),  # our engine draws per image
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


@pytest.mark.parametrize(("kind", "expected"), [(Supervised, {"random", "at"}), (Labelled, set(ENCODERS))])
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
        found.append(keys(plan(points, Library())))
    one, two, three = found
    assert one == two, "the path is in no key"
    assert {label for label, key in one.items() if three[label] != key} == THUMBNAILS | {
        "evaluate random SLF",
        "evaluate at SLF",
    }


def test_stages_appear_once_and_after_their_parents(tmp_path: Path) -> None:
    made = planned(tmp_path, "judge.sweep.eps=['1/20', '1/10', '1/5']")
    order = [stage.key for stage in made.stages]
    assert len(set(order)) == len(order) == 3 + 6 + 6 * 3 + len(THUMBNAILS)
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
    names = [cell["encoder"] for cell in plan(points, Library()).cells if cell["scheme"] == "SLF"]
    assert len(names) == len(set(names))
    assert {name for name in names if name.startswith("random")} == {"random (epochs=1)", "random (epochs=2)"}


@pytest.mark.parametrize(
    ("override", "says"), [("encoder.mean=[0.5, 0.5]", "1 numbers"), ("labels.c.k=[5000]", "2 to")]
)
def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path, override: str, says: str) -> None:
    more = '\n[pretrain.clean]\nmethod = "simclr"\n[labels.c]\nencoder = "clean"\n'
    with pytest.raises(UserError, match=says):
        planned(tmp_path, override, more=more)


TEACHER = """
[pretrain.clean]
method = "simclr"
strong = "digits"
training = { epochs = 1 }

[pretrain.other]
method = "simclr"
strong = "digits"

[pretrain.student]
method = "deacl"
teacher = "clean"
training = { epochs = 2, snapshots = [1] }

[labels.groups]
encoder = "other"
k = [3]

[table]
rows = ["student", "at"]
"""


def test_what_is_no_row_is_planned_where_it_is_used(tmp_path: Path) -> None:
    made = planned(tmp_path, more=TEACHER)
    assert [cell["encoder"] for cell in made.cells] == ["random", "student", "at"]
    labels = {stage.label: stage for stage in made.stages}
    assert {label for label in labels if label.startswith(("pretrain", "labels"))} == {
        f"pretrain {name}" for name in ("random", "clean", "student", "at")
    }
    assert dict(labels["pretrain student"].parents) == {"teacher": labels["pretrain clean"]}
    order = list(labels)
    assert order.index("pretrain clean") < order.index("pretrain student")
    assert set(made.cost) == {stage.key for stage in made.stages}


SEQUENCE = """
[labels.groups]
encoder = "first"
k = [3]

[pretrain.first]
method = "dynacl"

[pretrain.second]
method = "lp_aff"
start = "first"
labels = "groups"

[table]
rows = ["second"]
"""


def test_an_encoder_may_be_start_and_source_of_labels(tmp_path: Path) -> None:
    made = planned(tmp_path, more=SEQUENCE)
    labels = {stage.label: stage for stage in made.stages}
    assert [label for label in labels if label.startswith(("pretrain", "labels"))] == [
        "pretrain random", "pretrain first", "labels groups", "pretrain second"
    ]  # fmt: skip
    second = labels["pretrain second"]
    assert second.parents["start"].key == second.parents["labels"].parents["encoder"].key
    assert len({stage.key for stage in made.stages}) == len(made.stages)


def test_rows_are_in_no_key(tmp_path: Path) -> None:
    every, few = (
        planned(tmp_path, more=MORE),
        planned(tmp_path, "table.rows=['at']", "table.schemes=['AFF']", more=MORE),
    )
    assert keys(few).items() < keys(every).items()
    assert {(cell["encoder"], cell["scheme"]) for cell in few.cells} == {("random", "AFF"), ("at", "AFF")}


def test_a_teacher_moves_its_student(tmp_path: Path) -> None:
    before = keys(planned(tmp_path, more=TEACHER))
    after = keys(planned(tmp_path, "pretrain.clean.training.epochs=2", more=TEACHER))
    assert {label for label, key in before.items() if after[label] != key} == {
        "pretrain clean", "pretrain student", "finetune student SLF", "evaluate student SLF"
    }  # fmt: skip


NORMAL = "\n[pretrain.normal]\nlike = 'at'\nmean = [0.5]\n"


def test_what_normalises_the_input_is_in_the_key_and_in_the_protocol(tmp_path: Path) -> None:
    made = planned(tmp_path, more=NORMAL)
    means = {stage.label: stage.part["encoder"]["mean"] for stage in made.stages if stage.kind == "pretrain"}
    assert means == {"pretrain random": None, "pretrain at": None, "pretrain normal": (0.5,)}
    assert {cell["encoder"] for cell in made.cells if "input normalised" in cell["protocol"]} == {"normal"}
    with pytest.raises(UserError, match=r"^tiny\.pretrain\.normal: mean \(0\.5, 0\.5\) .*expected 1 numbers each"):
        planned(tmp_path, "pretrain.normal.mean=[0.5, 0.5]", more=NORMAL)
    planned(tmp_path, "pretrain.normal.mean=[0.5, 0.5]", "table.rows=['at']", more=NORMAL)  # it takes no part


def test_a_row_that_an_axis_touches_in_part_is_whole_at_every_point(tmp_path: Path) -> None:
    grid = "\n[finetune.AFF]\nselection = ['last']\n[grid]\n'finetune.AFF.training.epochs' = [1, 2]\n"
    cells = planned(tmp_path, more=grid).cells
    found = sorted((cell["encoder"], cell["scheme"]) for cell in cells if cell["encoder"].startswith("at"))
    assert found == [(f"at (epochs={n})", scheme) for n in (1, 2) for scheme in ("AFF", "SLF")]
    assert len({cell["stage"] for cell in cells if cell["encoder"].startswith("at") and cell["scheme"] == "SLF"}) == 1


def test_what_one_point_has_in_its_sweep_is_the_table_of_another(tmp_path: Path) -> None:
    grid = "\n[judge.sweep]\neps = ['1/5']\njudges = ['pgd-3', 'apgd-ce']\n[grid]\n'threat.eps' = ['1/10', '1/5']\n"
    cells = [cell for cell in planned(tmp_path, more=grid).cells if cell["encoder"] == "random"]
    assert {cell["eps"] for cell in cells if cell["headline"]} == {"1/10", "1/5"}


def test_two_names_of_one_encoder_are_two_rows(tmp_path: Path) -> None:
    cells = planned(tmp_path, more="\n[pretrain.again]\nlike = 'at'\n").cells
    assert sorted(cell["encoder"] for cell in cells) == ["again", "at", "random"]
    assert len({cell["stage"] for cell in cells}) == 2


def test_the_deployed_route_by_its_name_is_the_same_stage(tmp_path: Path) -> None:
    more = "\n[pretrain.dual]\nmethod = 'acl'\nstrong = 'digits'\n[table]\nrows = ['dual', 'dual@pgd', 'dual@normal']\n"
    stage = {cell["encoder"]: cell["stage"] for cell in planned(tmp_path, more=more).cells}
    assert stage["dual"] == stage["dual@pgd"] != stage["dual@normal"]


def test_a_student_sees_the_inputs_of_its_teacher(tmp_path: Path) -> None:
    says = r"tiny\.pretrain\.student: mean \(0\.5,\) .* expected those of the teacher 'clean' that it begins as, None"
    with pytest.raises(UserError, match=says):
        planned(tmp_path, "pretrain.student.mean=[0.5]", more=TEACHER)
    planned(tmp_path, "pretrain.student.mean=[0.5]", "pretrain.student.from_teacher=false", more=TEACHER)


def test_labels_that_a_weight_leaves_out_are_not_made(tmp_path: Path) -> None:
    more = "\n[labels.groups]\nencoder = 'at'\nk = [3]\n[pretrain.x]\nmethod = 'advcl'\nlabels = 'groups'\n"
    with_labels, without = (planned(tmp_path, f"pretrain.x.weight={weight}", more=more).stages for weight in (0.2, 0))
    kinds = [{stage.kind for stage in stages} for stages in (with_labels, without)]
    assert kinds[0] - kinds[1] == {"labels"}
    with pytest.raises(UserError, match="unknown labels 'typo'"):
        planned(tmp_path, "pretrain.x.weight=0", "pretrain.x.labels=typo", more=more)


def test_a_row_that_no_axis_touches_has_its_plain_name(tmp_path: Path) -> None:
    grid = "\n[pretrain.x]\nlike = 'at'\n[grid]\n'pretrain.x.ascent.steps' = [2, 3]\n"
    names = [cell["encoder"] for cell in planned(tmp_path, more=grid).cells]
    assert sorted(names) == ["at", "random", "x (steps=2)", "x (steps=3)"]


def test_a_snapshot_is_told_apart_and_moves_no_other_row(tmp_path: Path) -> None:
    both = planned(tmp_path, "table.rows=['student', 'student@1']", more=TEACHER)
    alone = planned(tmp_path, "table.rows=['student']", more=TEACHER)
    assert keys(alone).items() < keys(both).items()
    stages = {stage.label: stage for stage in both.stages}
    last, early = stages["finetune student SLF"], stages["finetune student@1 SLF"]
    assert "snapshot" not in last.part
    assert early.part == {**last.part, "snapshot": 1}
    assert early.parents["encoder"].key == last.parents["encoder"].key
    protocols = {cell["encoder"]: cell["protocol"] for cell in both.cells}
    told = "SLF 1 epochs, last epoch, 1437 training images, input raw"
    said = f"profile paper_advcl but for training.batch 256 and weak, {told}"
    assert protocols["student"] == f"route normal, {said}"
    assert protocols["student@1"] == f"route normal, pretraining's epoch 1, {said}"


def save_data(path: Path, side: int = 8, channels: int = 0, n: int = 40) -> Path:
    shape = (n, side, side, *([channels] if channels else []))
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(n) % 4
    np.savez(path, train_images=images, test_images=images, train_labels=labels, test_labels=labels)
    return path


def test_a_target_is_what_is_finetuned_and_judged_on(tmp_path: Path) -> None:
    path = save_data(tmp_path / "four.npz")
    points = read_suite(write_suite(tmp_path), ["target.name=npz", f"target.path='{path}'"])
    assert points[0].target is not None
    target = points[0].target.load()
    made, own = plan(points, Library()), planned(tmp_path, more="")
    here, there = keys(made), keys(own)
    assert {label for label in here if here[label] != there[label]} == THUMBNAILS | {
        f"{verb} {name} SLF" for verb in ("finetune", "evaluate") for name in ("random", "at")
    }
    data = {stage.kind: stage.part["data"] for stage in made.stages}
    test = target.test.sample(40).fingerprint
    assert data == {
        "pretrain": SPLITS.train.fingerprint, "finetune": target.train.fingerprint, "evaluate": test, "probe": test
    }  # fmt: skip
    assert {(cell["data"], cell["classes"]) for cell in made.cells} == {("digits -> four", 4)}
    assert {(cell["data"], cell["classes"]) for cell in own.cells} == {("digits", 10)}


def test_a_table_says_where_it_judges_on_held_out_training_images(tmp_path: Path) -> None:
    data = f"data={{name='npz', path='{save_data(tmp_path / 'four.npz')}', holdout=5}}"
    points = read_suite(write_suite(tmp_path), [data, "judge.images=8"])
    assert {cell["data"] for cell in plan(points, Library()).cells} == {"four (held-out training images)"}


@pytest.mark.parametrize(
    ("side", "channels", "says"),
    [
        (9, 0, "tiny.target: images of shape (1, 9, 9), expected (1, 8, 8) as in [data]; set size = 8"),
        (8, 3, "tiny.target: images of shape (3, 8, 8), expected (1, 8, 8) as in [data]"),
    ],
)
def test_a_target_of_another_shape_is_one_line(tmp_path: Path, side: int, channels: int, says: str) -> None:
    path = save_data(tmp_path / "other.npz", side, channels)
    points = read_suite(write_suite(tmp_path), ["target.name=npz", f"target.path='{path}'"])
    assert points[0].target is not None
    with pytest.raises(UserError) as caught:
        plan(points, Library())
    assert one_line(caught.value) == says


LABELLED = """
[labels.own]
encoder = "at"
k = [3]

[labels.theirs]
file = "theirs.npz"

[pretrain.plain]
method = "advcl"
labels = "own"

[pretrain.better]
method = "advcl"
labels = "theirs"

[pretrain.student]
method = "deacl"
teacher = "better"
"""


def save_theirs(path: Path, seed: int = 0) -> Path:
    n = len(SPLITS.train)
    found = torch.randint(5, (n,), generator=torch.Generator().manual_seed(seed))
    save_labels(path, {5: found})
    return path


def test_labels_from_a_file_are_known_by_their_content(tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        path = save_theirs(tmp_path / f"{name}.npz", seed)
        made = planned(tmp_path, f"labels.theirs.file='{path}'", more=LABELLED)
        assert list(made.files.values()) == [path.resolve()]
        found.append(keys(made))
    one, two, three = found
    assert one == two, "the path is in no key"
    moved = {label for label, key in one.items() if three[label] != key}
    assert {label.split()[1] for label in moved} == {"theirs", "better", "student"}


def test_external_data_is_said_of_all_that_it_went_into(tmp_path: Path) -> None:
    path = save_theirs(tmp_path / "theirs.npz")
    made = planned(tmp_path, f"labels.theirs.file='{path}'", more=LABELLED)
    said = {cell["encoder"] for cell in made.cells if cell["protocol"].endswith(", external data")}
    assert said == {"better", "student"}
    own = planned(tmp_path, f"labels.theirs.file='{path}'", "labels.theirs.external=false", more=LABELLED)
    assert not any("external" in cell["protocol"] for cell in own.cells)
    assert keys(own) == keys(made)


def test_files_nobody_uses_are_not_looked_for(tmp_path: Path) -> None:
    assert planned(tmp_path, "table.rows=['at', 'plain']", more=LABELLED).files == {}
    with pytest.raises(UserError, match=r"tiny\.labels\.theirs\.file: .*theirs\.npz: no such file"):
        planned(tmp_path, more=LABELLED)


def test_labels_of_other_images_are_refused_before_anything_starts(tmp_path: Path) -> None:
    save_labels(tmp_path / "few.npz", {5: torch.arange(360) % 5})
    with pytest.raises(UserError, match="expected k_<K> with 1437 labels below K") as caught:
        planned(tmp_path, f"labels.theirs.file='{tmp_path / 'few.npz'}'", more=LABELLED)
    assert one_line(caught.value)


def test_an_encoder_for_other_images_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    more = f"\n[labels.saved]\ncheckpoint = '{path}'\nk = [3]\n[pretrain.x]\nmethod = 'advcl'\nlabels = 'saved'\n"
    save_encoder(path, Encoder(Tiny(width=4), (1, 9, 9)), "normal")
    with pytest.raises(UserError, match=r"takes images of shape \(1, 9, 9\), expected \(1, 8, 8\)"):
        planned(tmp_path, more=more)
    save_encoder(path, Encoder(Tiny(width=4), (1, 8, 8)), "normal")
    (stage,) = [stage for stage in planned(tmp_path, more=more).stages if stage.kind == "labels"]
    assert stage.part["checkpoint"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stage.part["fit"] == {"k": [3], "restarts": 10, "normalise": True}


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet5", "x.pth", "tiny.labels.vision: unknown network 'resnet5'"),
        ("resnet18", "IMAGENET1K_V2", "unknown weights (or path.pth) 'IMAGENET1K_V2'"),
        ("resnet18", "IMAGENET1K_V1", "not there and never downloaded by robustcl, expected it; get it from https://"),
        ("resnet18", "nowhere.pth", "nowhere.pth: no such file"),
    ],
)
def test_weights_that_are_not_there_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str, says: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    more = f"\n[labels.vision]\ntorchvision = '{name}'\nweights = '{weights}'\n"
    with pytest.raises(UserError) as caught:
        planned(tmp_path, more=more + "[pretrain.x]\nmethod = 'advcl'\nlabels = 'vision'\n")
    assert says in one_line(caught.value)


def test_stages_of_several_seeds_say_which(tmp_path: Path) -> None:
    made = planned(tmp_path, "seeds.finetune=[0, 3]", "seeds.judge=[5]", more="")
    labels = [stage.label for stage in made.stages if " at" in stage.label]
    assert [label for label in labels if label.startswith("finetune at")] == [
        "finetune at SLF, finetune seed 0",
        "finetune at SLF, finetune seed 3",
    ]
    assert "pretrain at" in labels
    assert any(label.endswith("at 1/10, finetune seed 3") for label in labels)


def test_the_run_folder_knows_what_every_stage_was_planned_to_cost(tmp_path: Path) -> None:
    job = prepare(write_suite(tmp_path, more=MORE), runs=tmp_path / "runs")
    claim(job)
    cost = json.loads((tmp_path / "runs" / "suite.json").read_text())["resolved"]["cost"]
    assert cost == job.plan.cost
    trained = {stage.label: cost[stage.key] for stage in job.plan.stages if stage.kind == "pretrain"}
    assert trained["pretrain random"] == 0
    images = len(job.place.library.part(job.points[0].data, "train"))
    assert trained["pretrain clean"] == 6 * images  # SimCLR's units, one epoch
