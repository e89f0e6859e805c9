"""Imported encoders as entries of a suite: read for the plan, probed in their stage, finetuned and judged like ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustcl.bench.library import Library
from robustcl.bench.plan import Plan, plan
from robustcl.bench.runner import Job, make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.stages import told
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.checkpoint import load_classifier, load_encoder, save_encoder
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.pretraining import probe
from robustcl.reports.about import read_about
from robustcl.reports.frame import frame
from tests.bench.tiny import Quiet, one_line
from tests.models.official import Net, acl, advcl, torchvision

SUITE = """
[data]
name = "npz"
path = "{data}"

[encoder]
name = "tiny"
width = 4
blocks = [1]

[threat]
norm = "linf"
eps = "8/255"

[pretrain.theirs]
checkpoint = "{checkpoint}"

[finetune.SLF]
weak = "none"
training = {{ epochs = 1, batch = 64 }}

[judge]
judges = ["pgd-1"]
images = 20
"""


def save_images(path: Path, noise: float = 0.02) -> Path:
    """Four classes, a colour pattern each under a little noise."""
    g = np.random.default_rng(0)
    patterns = g.random((4, 16, 16, 3))
    arrays: dict[str, Any] = {}
    for split, n in (("train", 200), ("test", 40)):
        labels = np.arange(n) % 4
        pixels = patterns[labels] + noise * g.standard_normal((n, 16, 16, 3))
        arrays |= {f"{split}_images": (pixels.clip(0, 1) * 255).astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp("data") / "patterns.npz")


def write(folder: Path, data: Path, made: tuple[Net, Any] | None = None, more: str = "") -> Path:
    if made is not None:
        torch.save(made[1], folder / "theirs.pth")
    path = folder / "judged.toml"
    path.write_text(SUITE.format(data=data, checkpoint=folder / "theirs.pth") + more)
    return path


def planned(path: Path, *overrides: str) -> Plan:
    return plan(read_suite(path, overrides), Library())


def test_an_official_file_is_judged_on_every_route_that_is_asked_for(tmp_path: Path, data: Path) -> None:
    net, _ = made = advcl()
    path = write(tmp_path, data, made, '[table]\nrows = ["theirs", "theirs@normal", "theirs@pgd_ce"]\n')
    job, watch = prepare(path, runs=tmp_path / "runs"), Quiet()
    make(job, watch, workers=1)
    stages = {stage.label: stage for stage in job.plan.stages}
    assert [label for label in stages if label.startswith("import")] == ["import theirs"]
    store = job.place.store
    held = load_encoder(store.file(stages["import theirs"], "encoder.safetensors"), "all").eval()
    x = torch.rand(2, 3, 16, 16)
    for branch, route in enumerate(("normal", "pgd", "pgd_ce")):
        torch.testing.assert_close(held(x, route), net.features(x, branch), atol=1e-5, rtol=1e-5)
        row = "theirs" if route == "pgd" else f"theirs@{route}"
        judged = load_classifier(store.file(stages[f"finetune {row} SLF"], "classifier-best_val.safetensors")).encoder
        assert torch.equal(judged(x), held(x, route))
    protocols = {cell["encoder"]: cell["protocol"] for cell in job.plan.cells}
    assert protocols["theirs@normal"] == (
        "route normal, profile paper_advcl but for training.batch 64 and weak, "
        "SLF 1 epochs, best epoch on 20 held-out training images, "
        "180 training images, imported from layout advcl, input raw, external data"
    )
    assert {cell["encoder"]: cell["method"] for cell in job.plan.cells}["theirs"] == "import"
    lines = told(stages["import theirs"], store)
    assert lines[0] == "matched 320/320 tensors of a resnet (depth 18, width 4, stem 3x3)"
    assert any(line.startswith("kNN ") for line in lines)
    kept = json.loads(store.file(stages["import theirs"], "import.json").read_text())
    assert (kept["report"]["route"], kept["report"]["layout"], kept["probe"]["asked"]) == ("pgd", "advcl", 40)
    assert set(frame(tmp_path / "runs")["encoder"]) == {"random", "theirs", "theirs@normal", "theirs@pgd_ce"}


def test_the_key_knows_the_content_and_never_the_path(tmp_path: Path, data: Path) -> None:
    made = acl()
    (tmp_path / "other").mkdir()
    one, two = planned(write(tmp_path, data, made)), planned(write(tmp_path / "other", data, made))
    assert [stage.key for stage in one.stages] == [stage.key for stage in two.stages]
    assert str(tmp_path) not in json.dumps([dict(stage.part) for stage in one.stages])
    key = next(stage.key for stage in one.stages if stage.kind == "import")
    for override in (
        "pretrain.theirs.route=normal",
        "pretrain.theirs.stem=3x3-pad2",
        "pretrain.theirs.probe=false",
        "pretrain.theirs.layout=dynacl",
    ):
        other = planned(tmp_path / "judged.toml", override)
        assert key not in [stage.key for stage in other.stages], override
    with torch.no_grad():
        made[1]["state_dict"]["conv1.weight"] += 1
    changed = planned(write(tmp_path, data, made))
    assert key not in [stage.key for stage in changed.stages]


def test_normalisation_and_what_is_external_are_in_the_protocol(tmp_path: Path, data: Path) -> None:
    path = write(tmp_path, data, torchvision())
    theirs = next(cell for cell in planned(path).cells if cell["encoder"] == "theirs")
    assert theirs["protocol"].endswith(
        "imported from layout torchvision, input normalised (mean 0.485 0.456 0.406, std 0.229 0.224 0.225), "
        "external data"
    )
    cells = planned(path, "pretrain.theirs.external=false", "pretrain.theirs.mean=[]", "pretrain.theirs.std=[]").cells
    theirs = next(cell for cell in cells if cell["encoder"] == "theirs")
    assert theirs["protocol"].endswith("imported from layout torchvision, input raw")


def test_our_own_files_are_imported_too(tmp_path: Path, data: Path) -> None:
    from robustcl.models.architectures.tiny import Tiny
    from robustcl.models.encoder import Encoder

    made = Encoder(Tiny(width=4, blocks=(1,)), (3, 16, 16), routes=("normal", "pgd"))
    save_encoder(tmp_path / "theirs.pth", made, "pgd")
    theirs = next(cell for cell in planned(write(tmp_path, data)).cells if cell["encoder"] == "theirs")
    assert theirs["protocol"].startswith("route pgd, ")
    save_encoder(tmp_path / "theirs.pth", Encoder(Tiny(width=4), (3, 8, 8)), "normal")
    with pytest.raises(UserError, match=r"takes images of shape \(3, 8, 8\), expected those of the data"):
        planned(write(tmp_path, data))


@pytest.mark.parametrize(
    ("more", "overrides", "message"),
    [
        ("", ["pretrain.theirs.layout=acll"], "unknown layout 'acll'.*did you mean 'acl'"),
        ("", ["pretrain.theirs.route=pdg"], "unknown route 'pdg'.*did you mean 'pgd'"),
        ("", ["pretrain.theirs.steam=3x3"], "pretrain.theirs: unknown key 'steam'.*did you mean 'stem'"),
        ("", ["pretrain.theirs.method=advcl"], "pretrain.theirs: unknown key 'method'"),
        ("", ["pretrain.theirs.checkpoint=nowhere.pth"], "pretrain.theirs.checkpoint: .*nowhere.pth: no such file"),
        ('[table]\nrows = ["theirs@pdg"]\n', [], "pretrain.theirs: unknown route 'pdg'.*did you mean 'pgd'"),
        ('[table]\nrows = ["theirs@1@pgd"]\n', [], "expected one route of its checkpoint after @"),
        ('[table]\nrows = ["thiers@pgd"]\n', [], "unknown encoder 'thiers'.*did you mean 'theirs'"),
        ('[pretrain.random]\ncheckpoint = "x"\n', [], "this name is taken"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_starts(
    more: str, overrides: list[str], message: str, tmp_path: Path, data: Path
) -> None:
    path = write(tmp_path, data, acl(), more)
    with pytest.raises(UserError, match=message) as caught:
        planned(path, *overrides)
    one_line(caught.value)


def test_half_a_file_fails_before_anything_starts(tmp_path: Path, data: Path) -> None:
    made = acl()
    del made[1]["state_dict"]["layer4.1.bn2.bn_list.1.bias"]
    with pytest.raises(UserError, match="matched 219/220 tensors"):
        planned(write(tmp_path, data, made))


def test_an_encoder_that_knows_nothing_is_refused_unless_asked_otherwise(tmp_path: Path, data: Path) -> None:
    net, file = acl()
    file["state_dict"] = {  # a network that answers the same for every image
        name: torch.zeros_like(tensor) if name.endswith("conv1.weight") else tensor
        for name, tensor in file["state_dict"].items()
    }
    path = write(tmp_path, data, (net, file))
    with torch.no_grad():
        for name, tensor in file["state_dict"].items():
            if "layer4.1" in name or "layer4.0" in name:
                tensor.zero_()
    torch.save(file, tmp_path / "theirs.pth")
    job = prepare(path, runs=tmp_path / "runs")
    with pytest.raises(UserError, match=r"^import theirs: kNN .* expected p below 1e-06; set probe = false") as caught:
        make(job, Quiet(), workers=1)
    one_line(caught.value)
    assert not list((tmp_path / "runs").glob("import/[!.]*"))
    job = prepare(path, runs=tmp_path / "runs", overrides=["pretrain.theirs.probe=false"])
    make(job, Quiet(), workers=1)
    stage = next(stage for stage in job.plan.stages if stage.kind == "import")
    assert told(stage, job.place.store)[-1] == "not probed"


def notes(job: Job) -> dict[str, str]:
    """What the probe says against the clean accuracy of each row, by encoder."""
    found = {}
    for stage in job.plan.stages:
        if stage.kind == "evaluate":
            checked = read_about(job.place.store.file(stage, "records.parquet")).reliability
            assert checked
            found[stage.label.split()[1]] = [one.found for one in checked.against("clean") if one.check == "probe"]
    return {name: text[0] for name, text in found.items() if text}


def test_a_random_encoder_is_suspect_in_its_records(tmp_path: Path, data: Path) -> None:
    path = write(tmp_path, data)
    net = Encoder(ResNet(width=4, stem="7x7"), (3, 16, 16), seed=0)  # the very one that the probe compares with
    save_encoder(tmp_path / "theirs.pth", net, "normal")
    job = prepare(path, runs=tmp_path / "runs")
    make(job, Quiet(), workers=1)
    assert list(notes(job)) == ["theirs"]
    assert notes(job)["theirs"].startswith("the imported encoder is not clearly better than an untrained one: kNN ")
    verdicts = frame(tmp_path / "runs").groupby("encoder")["reliability"].first()
    assert verdicts["theirs"] == "suspect"


def test_what_was_not_probed_is_said(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ABOVE_RANDOM", 2.0)  # every encoder is better than an untrained one
    path = write(tmp_path, data, advcl(), '[table]\nrows = ["theirs@normal"]\n')
    job = prepare(path, runs=tmp_path / "runs")
    make(job, Quiet(), workers=1)
    assert notes(job) == {"theirs@normal": "the probe asked route pgd of the imported encoder, not normal"}
    own = ["pretrain.theirs.route=normal", "table.rows=['theirs']"]
    job = prepare(path, runs=tmp_path / "runs", overrides=own)
    make(job, Quiet(), workers=1)
    assert not notes(job)
    job = prepare(path, runs=tmp_path / "runs", overrides=[*own, "pretrain.theirs.probe=false"])
    make(job, Quiet(), workers=1)
    assert set(notes(job).values()) == {"the imported encoder was not asked whether it knows the images"}


GROUPS = """
[labels.groups]
encoder = "theirs"
route = "{route}"
k = [4]

[pretrain.advcl]
method = "advcl"
labels = "groups"
training = {{ epochs = 1 }}

[table]
rows = ["advcl"]
"""


def test_labels_are_clustered_from_an_imported_encoder_on_its_route(tmp_path: Path, data: Path) -> None:
    stages = planned(write(tmp_path, data, acl(), GROUPS.format(route="normal"))).stages
    labels = next(stage for stage in stages if stage.kind == "labels")
    assert (labels.parents["encoder"].kind, labels.part["route"]) == ("import", "normal")
    with pytest.raises(UserError, match=r"pretrain\.theirs: unknown route 'pgd_ce', expected one of normal, pgd"):
        planned(write(tmp_path, data, acl(), GROUPS.format(route="pgd_ce")))


def test_a_grid_over_the_route_has_a_row_for_each(tmp_path: Path, data: Path) -> None:
    path = write(tmp_path, data, acl(), '[grid]\n"pretrain.theirs.route" = ["normal", "pgd"]\n')
    protocols = {cell["encoder"]: cell["protocol"].partition(",")[0] for cell in planned(path).cells}
    assert protocols["theirs (route=normal)"] == "route normal"
    assert protocols["theirs (route=pgd)"] == "route pgd"


def test_a_method_can_be_given_an_imported_encoder(tmp_path: Path, data: Path) -> None:
    more = """
[pretrain.student]
method = "deacl"
teacher = "theirs"
weak = "none"
ascent = { steps = 1 }
training = { epochs = 1, batch = 64 }

[table]
rows = ["student"]
"""
    path = write(tmp_path, data, acl(), more)
    with pytest.raises(UserError, match=r"begins as the teacher 'theirs', .*expected that of \[encoder\]"):
        planned(path)
    like = ("encoder={ name = 'resnet', width = 4 }", "encoder.mean=[0.485, 0.456, 0.406]")
    cells = planned(path, *like, "encoder.std=[0.229, 0.224, 0.225]").cells
    student = next(cell for cell in cells if cell["encoder"] == "student")
    assert student["protocol"].endswith("std 0.229 0.224 0.225), external data")
