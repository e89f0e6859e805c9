"""Finetuning through suites: which stages and cells a scheme comes to, and what they leave behind."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcl.bench.library import Library
from robustcl.bench.plan import Plan, plan
from robustcl.bench.runner import Job, make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.stages import execute
from robustcl.bench.store import Stage
from robustcl.bench.suite import resolved
from robustcl.models.checkpoint import fingerprint, load_classifier
from robustcl.models.errors import UserError
from tests.bench.tiny import Quiet, one_line, visible, write_suite

SCHEMES = """
[finetune.AFF]
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 3, batch = 256 }

[finetune.LP-AFF]
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 1, batch = 256 }

[finetune.semi-10]
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 1, batch = 512 }
labeller = { weak = "digits-weak", training = { epochs = 1 } }
"""
ACL = """
[pretrain.acl]
method = "acl"
strong = "digits"
training = { epochs = 0 }
[table]
rows = ["acl"]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """200 training images and 40 test images of 8 x 8."""
    import numpy as np

    g, path = np.random.default_rng(0), tmp_path / "digits.npz"
    arrays = {f"{s}_images": g.integers(0, 256, (n, 8, 8), dtype=np.uint8) for s, n in (("train", 200), ("test", 40))}
    labels = {f"{s}_labels": np.arange(n) // (n // 10) for s, n in (("train", 200), ("test", 40))}
    np.savez(path, **arrays, **labels)  # type: ignore[arg-type]
    return path


def suite(folder: Path, data: Path, more: str = "") -> Path:
    path = write_suite(folder, more=more)
    text = path.read_text().replace('[data]\nname = "digits"\n', f"[data]\nname = 'npz'\npath = '{data}'\n")
    path.write_text(text)
    return path


def planned(folder: Path, data: Path, *overrides: str, more: str = SCHEMES) -> Plan:
    return plan(read_suite(suite(folder, data, more), overrides), Library())


def stages(made: Plan) -> dict[str, Stage]:
    """The stages of finetuning by their labels, which a scheme with two runs has twice."""
    found: dict[str, Stage] = {}
    for stage in made.stages:
        if stage.kind == "finetune":
            label = stage.label.removeprefix("finetune ")
            found[label + "+" * (label in found)] = stage
    return found


def cell(made: Plan, encoder: str, scheme: str) -> dict[str, Any]:
    (found,) = [c for c in made.cells if (c["encoder"], c["scheme"]) == (encoder, scheme)]
    return found


def test_one_run_gives_two_classifiers_and_lp_aff_shares_the_probe(tmp_path: Path, data: Path) -> None:
    made = planned(tmp_path, data, "finetune.SLF.selection=['best_val']")
    found = stages(made)
    assert set(found) == {
        f"{row} {name}" for row in ("random", "at") for name in ("SLF", "AFF", "LP-AFF", "semi-10", "semi-10 labeller")
    }
    names = ["SLF", "AFF (last)", "AFF (best val)", "LP-AFF (last)", "LP-AFF (best val)", "semi-10"]
    assert [c["scheme"] for c in made.cells if c["encoder"] == "at"] == names
    assert found["at LP-AFF"].parents["head"].key == found["at SLF"].key
    assert found["at LP-AFF"].part["head"] == "best_val"
    assert found["at semi-10"].parents["labeller"].key == found["at semi-10 labeller"].key
    evaluations = {stage.key: stage for stage in made.stages if stage.kind == "evaluate"}
    last, best = (evaluations[cell(made, "at", f"AFF ({which})")["stage"]] for which in ("last", "best val"))
    assert last.parents["classifier"].key == best.parents["classifier"].key == found["at AFF"].key
    assert "selection" not in last.part
    assert best.part == {**last.part, "selection": "best_val"}


def test_the_probe_of_lp_aff_has_seen_no_image_that_it_is_chosen_on(tmp_path: Path, data: Path) -> None:
    found = stages(planned(tmp_path, data))  # SLF itself is trained on all images
    probe = found["at LP-AFF"].parents["head"]
    assert probe.key != found["at SLF"].key
    assert probe.part["scheme"]["selection"] == ["best_val"]
    alone = stages(planned(tmp_path, data, "finetune.LP-AFF.selection=['last']"))
    assert alone["at LP-AFF"].parents["head"].key == alone["at SLF"].key
    assert alone["at LP-AFF"].part["head"] == "last"


def test_robustssl_trains_the_last_epoch_on_all_images(tmp_path: Path, data: Path) -> None:
    made = planned(tmp_path, data, "finetune.profile=robustssl")
    found = stages(made)
    assert {"at AFF", "at AFF+", "at LP-AFF", "at LP-AFF+"} <= set(found)
    assert [found[name].part["scheme"]["selection"] for name in ("at AFF", "at AFF+")] == [["last"], ["best_val"]]
    assert [cell(made, "at", f"AFF ({which})")["terms"]["n_train"] for which in ("last", "best val")] == [200, 180]
    assert found["at LP-AFF"].parents["head"].key == found["at SLF"].key


def test_a_labeller_takes_the_clean_route_and_the_rest_the_deployed_one(tmp_path: Path, data: Path) -> None:
    found = stages(planned(tmp_path, data, more=SCHEMES + ACL))
    assert found["acl semi-10 labeller"].part["route"] == "normal"
    assert "route" not in found["acl semi-10"].part
    assert "route" not in found["random semi-10 labeller"].part
    assert found["acl semi-10 labeller"].part["subset"] == {"share": 0.1, "validation": 10}


def test_a_clean_scheme_knows_no_threat_and_an_attacked_one_does(tmp_path: Path, data: Path) -> None:
    clean = stages(planned(tmp_path, data, "finetune.SLF.selection=['best_val']"))["at SLF"].part
    attacked = stages(planned(tmp_path, data, "finetune.profile=autolora", more=""))["at SLF"].part
    assert clean["threat"] is None
    assert attacked["threat"]["eps"] == "1/10"


def test_terms_say_what_a_number_is(tmp_path: Path, data: Path) -> None:
    made = planned(tmp_path, data, "encoder.mean=[0.5]", "encoder.std=[0.2]")
    terms = cell(made, "at", "AFF (best val)")["terms"]
    assert terms == {
        "profile": "paper_advcl",
        "per_method": False,
        "changed": {"training.batch": 256, "weak": None, "ascent.steps": 1},
        "selection": "best_val",
        "epochs": 3,
        "n_train": 180,
        "labels": 180,
        "held_out": 20,
        "n": 40,
        "split": "test",
        "route": "normal",
        "layout": None,
        "snapshot": None,
        "normalisation": {"mean": (0.5,), "std": (0.2,)},
        "external_data": False,
    }
    assert json.loads(json.dumps(made.cells))[0]["terms"]["n"] == 40
    semi = cell(made, "at", "semi-10")
    assert (semi["terms"]["n_train"], semi["terms"]["labels"]) == (180, 20)
    assert semi["protocol"] == (
        "route normal, profile paper_advcl but for training.batch 512 and labeller.training.epochs 1 and labeller.weak "
        "and weak and ascent.steps 1, semi-10 1 epochs, best epoch on 20 held-out training images, "
        "180 training images, 20 of them with labels, input normalised (mean 0.5, std 0.2)"
    )
    held = planned(tmp_path, data, "data.holdout=5", more="")
    assert cell(held, "at", "SLF")["terms"]["split"] == "training, held out"


def test_too_few_images_to_hold_one_out_are_refused_before_anything_starts(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, data, "finetune.AFF.validation=201")
    says = "tiny.finetune.AFF.validation: 201, expected at most the number of training images, 200"
    assert one_line(caught.value) == says


def test_recipes_per_method_show_and_change_their_rows_alone(tmp_path: Path, data: Path) -> None:
    cifar = data.rename(tmp_path / "cifar10.npz")
    more = "\n[finetune.AFF]\n" + ACL.replace('rows = ["acl"]', 'rows = ["acl", "at"]')
    made = planned(tmp_path, cifar, "finetune.per_method=true", "finetune.profile=robustssl", more=more)
    found = stages(made)
    training = {label: stage.part["scheme"]["training"] for label, stage in found.items()}
    assert (training["acl AFF"]["epochs"], training["at AFF"]["epochs"]) == (100, 25)
    assert training["acl SLF"]["optimiser"]["lr"] == 0.01
    assert training["at SLF"]["optimiser"]["lr"] == 0.1
    assert training["acl SLF"]["epochs"] == 1, "the suite's own field goes before the row"
    assert "profile robustssl with recipes per method" in cell(made, "acl", "SLF")["protocol"]
    assert cell(made, "acl", "AFF (last)")["terms"]["epochs"] == 100
    with pytest.raises(UserError) as caught:
        planned(tmp_path, cifar.rename(tmp_path / "svhn.npz"), "finetune.per_method=true", more=more)
    assert "no row of acl SLF for svhn" in one_line(caught.value)


def test_seeds_are_one_cell_each_and_share_what_they_can(tmp_path: Path, data: Path) -> None:
    made = planned(tmp_path, data, "seeds.finetune=[0, 1, 2]", "seeds.judge=[5, 6]", more="")
    found = [c["seeds"] for c in made.cells if c["encoder"] == "at"]
    wanted = [{"pretrain": 0, "finetune": f, "judge": j} for f in (0, 1, 2) for j in (5, 6)]
    assert found == wanted
    assert len({c["stage"] for c in made.cells}) == len(made.cells) == 12
    kinds = [stage.kind for stage in made.stages]
    assert {kind: kinds.count(kind) for kind in kinds} == {"pretrain": 2, "finetune": 6, "evaluate": 12, "probe": 1}
    assert {c["encoder"] for c in made.cells} == {"random", "at"}


def test_seeds_of_a_grid_keep_its_rows(tmp_path: Path, data: Path) -> None:
    grid = "\n[grid]\n'finetune.SLF.training.epochs' = [1, 2]\n[seeds]\nfinetune = [0, 1]\n"
    made = planned(tmp_path, data, more=grid)
    names = [(c["encoder"], c["seeds"]["finetune"]) for c in made.cells]
    assert sorted(names) == sorted(
        (f"{row} (epochs={n})", seed) for row in ("random", "at") for n in (1, 2) for seed in (0, 1)
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seeds.finetune=[]", "tiny.seeds.finetune: [] is wrong, expected at least one seed, each once"),
        ("seeds.finetune=[1, 1]", "each once"),
        ("seeds.finetune=[-1]", "tiny.seeds.finetune: -1"),
        ("seeds.finetun=[1]", "unknown key 'finetun'"),
    ],
)
def test_wrong_seeds_are_one_line(tmp_path: Path, data: Path, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, data, override, more="")
    assert says in one_line(caught.value)


def job(folder: Path, data: Path, runs: str) -> Job:
    path = suite(folder, data, SCHEMES)
    fast = ("judge.judges=['pgd-1']", "finetune.SLF.selection=['best_val']", "table.rows=['at']")
    return prepare(path, runs=folder / runs, overrides=fast)


def test_a_suite_makes_them_all_and_again_after_a_stop_to_the_same_bytes(tmp_path: Path, data: Path) -> None:
    whole = job(tmp_path, data, "whole")
    make(whole, Quiet(), workers=1)
    stopped = job(tmp_path, data, "stopped")
    for stage in stopped.plan.stages:

        def stop(done: int, total: int, stage: Stage = stage) -> None:
            if stage.label == "finetune at AFF" and done == 2:
                raise KeyboardInterrupt

        if stage.label == "finetune at AFF":
            with pytest.raises(KeyboardInterrupt):
                execute(stage, stopped.place, stop)
            assert not stopped.place.store.has(stage)
        execute(stage, stopped.place, lambda done, total: None)
    assert visible(tmp_path / "whole") == visible(tmp_path / "stopped")
    (aff,) = [stage for stage in whole.plan.stages if stage.label == "finetune at AFF"]
    folder = whole.place.store.folder(aff)
    rows = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    values = [float(row["robust_val"]) for row in rows]
    noted = json.loads((folder / "stage.json").read_text())
    epoch = values.index(max(values)) + 1
    assert noted["made"]["chosen"] == {"epoch": epoch, "of": 3, "robust_val": max(values)}
    last, best = (load_classifier(folder / f"classifier{name}.safetensors") for name in ("", "-best_val"))
    assert (fingerprint(last) == fingerprint(best)) == (epoch == 3)
    (lp,) = [stage for stage in whole.plan.stages if stage.label == "finetune at LP-AFF"]
    assert {path.name for path in whole.place.store.folder(lp).glob("*.safetensors")} == {
        "classifier.safetensors",
        "classifier-best_val.safetensors",
    }


def test_what_a_suite_comes_to_says_profile_and_seeds(tmp_path: Path, data: Path) -> None:
    (found, _) = read_suite(suite(tmp_path, data), ["finetune.profile=robustssl", "seeds.pretrain=[3, 4]"])
    told = resolved(found)
    assert (told["profile"], told["per_method"], told["seeds"]["pretrain"]) == ("robustssl", False, 3)
    again = read_suite(suite(tmp_path, data), ["finetune.profile=robustssl"])[0]
    assert again.finetune == found.finetune


def test_lp_aff_begins_with_the_head_of_the_probe(tmp_path: Path, data: Path) -> None:
    path = suite(tmp_path, data, "\n[finetune.LP-AFF]\nselection = ['last']\ntraining = { epochs = 0 }\n")
    done = prepare(path, runs=tmp_path / "runs", overrides=["judge.judges=['pgd-1']", "table.rows=['at']"])
    for stage in done.plan.stages:
        if stage.kind != "evaluate":
            execute(stage, done.place, lambda done, total: None)
    heads = {
        stage.label: load_classifier(done.place.store.file(stage, "classifier.safetensors")).head.weight
        for stage in done.plan.stages
        if stage.kind == "finetune"
    }
    assert torch.equal(heads["finetune at LP-AFF"], heads["finetune at SLF"])
    assert bool(heads["finetune at LP-AFF"].any())
