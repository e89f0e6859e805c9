"""What the kinds of stages do with other data, other encoders and files of the user's: real runs of seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from robustcl.bench.runner import Job, make, prepare
from robustcl.bench.stages import told
from robustcl.models.checkpoint import fingerprint, load_classifier, load_encoder, save_encoder
from robustcl.models.errors import UserError
from robustcl.models.vision import torchvision
from robustcl.pretraining.pseudo_labels import load_labels, save_labels
from tests.bench.tiny import Quiet, one_line, visible, write_suite

N = 1437  # training images of the digits

ADVCL = """
[pretrain.advcl]
method = "advcl"
labels = "groups"
strong = "digits"
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 1, batch = 512 }

[table]
rows = ["advcl"]
"""

STUDENT = """
[pretrain.student]
method = "deacl"
teacher = "at"
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 2, batch = 512, snapshots = [1] }

[table]
rows = ["student", "student@1"]
"""


def job(folder: Path, *overrides: str, more: str = "", runs: str = "runs") -> Job:
    fast = ("judge.judges=['pgd-1']", *overrides)
    return prepare(write_suite(folder, more=more), runs=folder / runs, overrides=fast)


def made(folder: Path, *overrides: str, more: str = "", runs: str = "runs", workers: int = 1) -> dict[str, Path]:
    """The folders of the finished stages by label."""
    done = job(folder, *overrides, more=more, runs=runs)
    make(done, Quiet(), workers=workers)
    return {stage.label: done.place.store.folder(stage) for stage in done.plan.stages}


def save_target(path: Path) -> Path:
    g = np.random.default_rng(0)
    arrays = {f"{s}_images": g.integers(0, 256, (48, 8, 8), dtype=np.uint8) for s in ("train", "test")}
    labels = {f"{s}_labels": np.arange(48) % 4 for s in ("train", "test")}
    np.savez(path, **arrays, **labels)  # type: ignore[arg-type]
    return path


def save_groups(path: Path, few: bool = False) -> Path:
    found = torch.arange(N) % 4
    save_labels(path, {4: found.clamp(max=1) if few else found})
    return path


def test_workers_are_told_of_the_target_the_files_and_the_teacher(tmp_path: Path) -> None:
    groups, four = save_groups(tmp_path / "groups.npz"), save_target(tmp_path / "four.npz")
    more = f"\n[target]\nname = 'npz'\npath = '{four}'\n[labels.groups]\nfile = '{groups}'\n"
    more += ADVCL.partition("[table]")[0] + STUDENT.replace('rows = ["student", ', "rows = ['advcl', ")
    here = made(tmp_path, more=more, runs="here")
    there = made(tmp_path, more=more, runs="there", workers=2)
    assert visible(tmp_path / "here") == visible(tmp_path / "there")
    assert set(here) == set(there)
    assert {"labels groups", "pretrain advcl", "pretrain at", "finetune student@1 SLF"} <= set(here)


def test_a_target_is_finetuned_and_judged_on(tmp_path: Path) -> None:
    target = ["target.name=npz", f"target.path='{save_target(tmp_path / 'four.npz')}'"]
    here = made(tmp_path, *target)
    assert load_classifier(here["finetune at SLF"] / "classifier.safetensors").head.out_features == 4
    rows = pyarrow.parquet.read_table(here["evaluate at SLF at 1/10"] / "records.parquet").to_pandas()
    assert set(rows["label"]) == {0, 1, 2, 3}
    assert rows["image"].nunique() == 40
    cells = json.loads((tmp_path / "runs" / "suite.json").read_text())["cells"]
    assert {cell["data"] for cell in cells} == {"digits -> four"}
    assert job(tmp_path).plan.stages[1].label == "finetune random SLF"
    kinds = {stage.kind for stage in job(tmp_path).plan.stages if stage.key in job(tmp_path).missing}
    assert kinds == {"finetune", "evaluate", "probe"}, "pretraining is shared with the suite without a target"


def test_labels_from_a_file_reach_pretraining(tmp_path: Path) -> None:
    path = save_groups(tmp_path / "groups.npz", few=True)
    more = f"\n[labels.groups]\nfile = '{path}'\n" + ADVCL
    planned, here = job(tmp_path, more=more), made(tmp_path, more=more)
    assert "pretrain at" not in here, "what is neither a row nor used is not made"
    labels = load_labels(here["labels groups"] / "labels.npz", N)
    assert torch.equal(labels[4], load_labels(path, N)[4])
    balance = json.loads((here["labels groups"] / "balance.json").read_text())
    warning = "2 of 4 clusters are empty; one cluster holds 1077 of 1437 images"
    assert balance["4"]["warning"] == warning
    (stage,), store = [stage for stage in planned.plan.stages if stage.kind == "labels"], planned.place.store
    assert [line for line in told(stage, store) if line.endswith(f" bits; warning: {warning}")], "as the console says"


def test_a_file_that_changes_after_the_plan_is_one_line(tmp_path: Path) -> None:
    path = save_groups(tmp_path / "groups.npz")
    planned = job(tmp_path, more=f"\n[labels.groups]\nfile = '{path}'\n" + ADVCL)
    save_groups(path, few=True)
    with pytest.raises(UserError, match="has changed since the plan was made; run again") as caught:
        make(planned, Quiet(), workers=1)
    assert one_line(caught.value).startswith("labels groups: ")


def test_a_saved_encoder_clusters_as_one_of_the_suite(tmp_path: Path) -> None:
    own = made(tmp_path, more="\n[labels.groups]\nencoder = 'at'\nk = [3]\n" + ADVCL, runs="own")
    path = own["pretrain at"] / "encoder.safetensors"
    saved = made(tmp_path, more=f"\n[labels.groups]\ncheckpoint = '{path}'\nk = [3]\n" + ADVCL, runs="saved")
    left, right = (load_labels(found["labels groups"] / "labels.npz", N) for found in (own, saved))
    assert torch.equal(left[3], right[3])


def test_a_network_of_torchvision_clusters(tmp_path: Path) -> None:
    network: Any = torchvision().models.mobilenet_v3_small(weights=None)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    where = f"torchvision = 'mobilenet_v3_small'\nweights = '{tmp_path / 'network.pth'}'\nsize = 16\nk = [3]\n"
    found = made(tmp_path, more=f"\n[labels.groups]\n{where}" + ADVCL)
    assert set(load_labels(found["labels groups"] / "labels.npz", N)) == {3}
    assert json.loads((found["labels groups"] / "stage.json").read_text())["part"]["torchvision"]["size"] == 16


def test_a_student_is_given_its_teacher_and_its_snapshots_are_rows(tmp_path: Path) -> None:
    here = made(tmp_path, more=STUDENT)
    assert "finetune at SLF" not in here
    student = here["pretrain student"]
    note = json.loads((student / "stage.json").read_text())
    assert note["parents"] == {"teacher": here["pretrain at"].name}
    early, last = (load_encoder(student / f"encoder{end}.safetensors") for end in ("-00001", ""))
    # a frozen encoder is in the classifier as it was: the head alone is trained
    for row, encoder in (("student@1", early), ("student", last)):
        classifier = load_classifier(here[f"finetune {row} SLF"] / "classifier.safetensors")
        assert fingerprint(classifier.encoder) == fingerprint(encoder)
    assert fingerprint(early) != fingerprint(last)


def test_another_route_is_finetuned_and_judged(tmp_path: Path) -> None:
    more = "\n[pretrain.dual]\nmethod = 'acl'\nstrong = 'digits'\nascent = { steps = 1 }\n"
    more += "training = { epochs = 1, batch = 512 }\n[table]\nrows = ['dual', 'dual@normal']\n"
    here = made(tmp_path, more=more)
    assert len([label for label in here if label.startswith("pretrain dual")]) == 1
    kept = here["pretrain dual"] / "encoder.safetensors"
    for row, route in (("dual", "pgd"), ("dual@normal", "normal")):
        judged = load_classifier(here[f"finetune {row} SLF"] / "classifier.safetensors").encoder
        assert judged.routes == (route,)
        assert fingerprint(judged) == fingerprint(load_encoder(kept, route))


def test_another_teacher_makes_another_student(tmp_path: Path) -> None:
    found = []
    for epochs in (0, 1):
        folders = made(
            tmp_path, f"pretrain.at.training.epochs={epochs}", "pretrain.student.training.epochs=1", more=STUDENT
        )
        found.append(fingerprint(load_encoder(folders["pretrain student"] / "encoder.safetensors")))
    assert found[0] != found[1]


def test_what_the_method_deploys_is_what_is_saved(tmp_path: Path) -> None:
    table = "method = 'dynacl'\nascent = { steps = 1 }\ntraining = { epochs = 1, batch = 512 }\nstrong = 'digits'\n"
    more = "".join(f"\n[pretrain.{which}]\ndeployed = '{which}'\n{table}" for which in ("momentum", "trained"))
    folders = made(tmp_path, more=more)
    slow, fast = (
        load_encoder(folders[f"pretrain {which}"] / "encoder.safetensors", "all") for which in ("momentum", "trained")
    )
    assert slow.routes == fast.routes
    assert fingerprint(slow) != fingerprint(fast)


def test_a_user_file_of_weights_is_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"network": save_encoder}, path)
    more = f"\n[labels.groups]\ntorchvision = 'resnet18'\nweights = '{path}'\n" + ADVCL
    with pytest.raises(UserError, match="needs code to be read") as caught:
        job(tmp_path, more=more)
    assert one_line(caught.value)
