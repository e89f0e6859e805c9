"""The probes: what their arrays hold, against formulas of their own; how suites ask for them, and their stages."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench import probing
from robustcl.bench.attacks import judges
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.library import Library
from robustcl.bench.plan import Plan, plan
from robustcl.bench.probe import PACKAGE, Subject, from_identity, identity, read_probes, write_arrays
from robustcl.bench.probes.examples import Examples
from robustcl.bench.probes.features import Features
from robustcl.bench.probes.frequency import Frequency
from robustcl.bench.probes.inversion import Inversion
from robustcl.bench.probes.landscape import Landscape, directions
from robustcl.bench.probes.thumbnails import Thumbnails
from robustcl.bench.runner import make, prepare
from robustcl.bench.spec import read_suite
from robustcl.bench.store import Store
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.checkpoint import fingerprint
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.plugin import names
from robustcl.models.threat import Threat
from robustcl.models.whole import write_sealed
from robustcl.outline import listing
from robustcl.pretraining.images import Images
from tests.bench.tiny import Quiet, images_for, network, one_line, write_suite

SPLITS = Digits().load()
THREAT = Threat("1/10")
OUTSIDE = """import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
ALL = """
[probes.thumbnails]
images = 30

[probes.examples]
images = 4
attack = "pgd-3"

[probes.frequency]

[probes.features]
images = 40

[probes.inversion]
unit = 3
steps = 5

[probes.landscape]
images = 8
points = 3
steps = 1
"""


def classifier(seed: int = 0) -> Classifier:
    """A tiny encoder as it is drawn, with a head of large weights, so that answers differ."""
    encoder = Encoder(Tiny(width=4, blocks=(1,)), (1, 8, 8), seed=seed)
    head = nn.Linear(encoder.width, 10)
    with torch.no_grad():
        head.weight.copy_(20 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
        head.bias.zero_()
    return Classifier(encoder, head).eval()


def subject(**more: Any) -> Subject:
    model = classifier()
    given: dict[str, Any] = {"images": SPLITS.test.sample(40), "where": "probe", "threat": THREAT, "seed": 3}
    return Subject(**(given | {"classifier": model, "encoder": model.encoder} | more))


def planned(folder: Path, *overrides: str, more: str = ALL) -> Plan:
    return plan(read_suite(write_suite(folder, more=more), overrides), Library())


def test_every_probe_of_a_suite_writes_the_same_arrays_again(tmp_path: Path) -> None:
    factory = tmp_path / "outside.py"
    factory.write_text(OUTSIDE)
    suite = write_suite(tmp_path, more=f"{ALL}\n[reference.line]\nfactory = '{factory}:make'\n")
    fast = ["judge.judges=['pgd-1']", "table.rows=['at']"]
    job = prepare(suite, runs=tmp_path / "runs", overrides=fast)
    make(job, Quiet(), workers=1)
    stages = {stage.label: stage for stage in job.plan.stages if stage.kind == "probe"}
    assert set(stages) == {
        "probe thumbnails",
        "probe examples at SLF",
        "probe examples line",
        "probe frequency",
        "probe features at",
        "probe inversion at",
        "probe landscape at SLF",
        "probe landscape line",
    }
    files = {label: job.place.store.folder(stage) / "arrays.npz" for label, stage in stages.items()}
    first = {label: path.read_bytes() for label, path in files.items()}
    found = {label: dict(np.load(path, allow_pickle=False)) for label, path in files.items()}
    shutil.rmtree(tmp_path / "runs" / "probe")
    again = prepare(suite, runs=tmp_path / "runs", overrides=fast)
    make(again, watch := Quiet(), workers=1)
    assert set(watch.done) == set(stages), "nothing but the probes is made again"
    assert {label: path.read_bytes() for label, path in files.items()} == first
    assert found["probe features at"]["features"].shape == (40, 4)
    examples = [found[f"probe examples {name}"]["image"].tolist() for name in ("at SLF", "line")]
    assert examples[0] == examples[1], "the same images for every classifier"
    held = Store(tmp_path / "runs").suite("tiny")["probes"]
    assert {entry["probe"] for entry in held} == set(names(PACKAGE))
    told = {entry["stage"]: entry for entry in held}[stages["probe examples at SLF"].key]
    assert {key: told[key] for key in ("encoder", "method", "scheme", "data")} == {
        "encoder": "at",
        "method": "supervised",
        "scheme": "SLF",
        "data": "digits",
    }


def test_thumbnails_are_the_images(tmp_path: Path) -> None:
    judged = SPLITS.test.sample(40)
    found = Thumbnails(images=30).run(Subject(images=judged, where="probe"))
    rows = [judged.index.tolist().index(image) for image in found["image"]]
    assert len(set(rows)) == 30
    assert np.array_equal(found["pixels"], judged.pixels[rows].numpy())
    assert found["label"].tolist() == judged.labels[rows].tolist()
    assert found["pixels"].dtype == np.uint8
    every = Thumbnails().run(Subject(images=judged, where="probe"))
    assert every["image"].tolist() == judged.index.tolist(), "all where there are fewer"


def test_large_images_are_made_smaller_and_floats_are_rounded() -> None:
    pixels = torch.full((2, 3, 80, 80), 0.5)
    large = Images(pixels, torch.zeros(2, dtype=torch.int64), classes=2, name="large")
    found = Thumbnails(side=16).run(Subject(images=large, where="probe"))
    assert found["pixels"].shape == (2, 3, 16, 16)
    assert set(found["pixels"].flatten().tolist()) == {128}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_are_in_ball_and_box_and_answered_as_the_model_does(norm: Any) -> None:
    model, threat = network(), Threat("1/4", norm=norm)
    images = images_for(model, n=12)
    attacks = judges(["pgd-5"], 10)["pgd-5"]
    given = Subject(images=images, where="probe", seed=1, threat=threat, classifier=model, attacks=attacks)
    found = Examples(images=12).run(given)
    clean, adversarial = (torch.from_numpy(found[name]) for name in ("clean", "adversarial"))
    assert torch.equal(clean, images.pixels)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    change = (adversarial - clean).flatten(1)
    size = change.abs().max(1).values if norm == "linf" else change.norm(dim=1)
    assert (size <= 0.25 + 1e-6).all()
    for pixels, when in ((clean, "before"), (adversarial, "after")):
        with torch.no_grad():
            sure = model(pixels).softmax(1)
        assert found[when].tolist() == sure.argmax(1).tolist()
        assert np.allclose(found[f"sure_{when}"], sure.max(1).values, atol=1e-6)
    wrong = found["before"] != found["label"]
    assert wrong.tolist() == [True, True] + [False] * 10
    assert np.array_equal(found["adversarial"][wrong], found["clean"][wrong]), "what is wrong is not attacked"
    assert found["broken"].tolist() == (found["after"] != found["label"]).tolist()
    assert found["broken"][2:].any(), "an attack that breaks nothing shows nothing"


def test_frequency_parts_by_a_slow_transform() -> None:
    judged = SPLITS.test.sample(2)
    found = Frequency(images=2, radii=(2,)).run(Subject(images=judged, where="probe"))
    n, image = 8, judged.floats(slice(None))[0, 0].double().numpy()
    wave = np.exp(-2j * math.pi * np.outer(np.arange(n), np.arange(n)) / n)
    spectrum = wave @ image @ wave
    away = np.minimum(np.arange(n), n - np.arange(n))
    spectrum[away[:, None] ** 2 + away**2 < 4] = 0
    high = (wave.conj() @ spectrum @ wave.conj()).real / n**2
    assert np.allclose(found["high"][0, 0, 0], high, atol=1e-6)
    assert np.allclose(found["low"] + found["high"], found["clean"][None], atol=1e-6)
    default = Frequency().run(Subject(images=judged, where="probe"))
    assert default["radius"].tolist() == [1, 2, 3]


def test_features_are_the_encoders_and_classes_that_lie_apart_stay_apart() -> None:
    one = subject()
    found = Features(images=20).run(one)
    images = SPLITS.test.sample(40).sample(20)
    assert one.encoder is not None
    with torch.no_grad():
        assert np.allclose(found["features"], one.encoder(images.floats(slice(None))), atol=1e-6)
    assert found["label"].tolist() == images.labels.tolist()

    class Means(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return 100 * pixels.mean((2, 3)).round() + pixels[:, 0, 0, :4]

    pixels = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 3
    pixels[20:] += 0.6
    two = Images(pixels, torch.arange(40) // 20, classes=2, name="two")
    plane = Features(perplexity=5).run(subject(images=two, encoder=Means()))["plane"]
    gap = np.linalg.norm(plane[:20].mean(0) - plane[20:].mean(0))
    assert gap > 2 * max(plane[:20].std(), plane[20:].std())


def test_features_of_adversarial_images_fool_the_classifier() -> None:
    with torch.no_grad():
        answered = classifier()(SPLITS.test.floats(slice(0, 40))).argmax(1)
    images = Images(SPLITS.test.pixels[:40], answered, classes=10, name="as answered")
    one = subject(images=images, threat=Threat("1/2"), attacks=judges(["pgd-3"], 10)["pgd-3"])
    found = Features(images=20, scheme="SLF", attack="pgd-3").run(one)
    assert isinstance(one.classifier, Classifier)
    answers = [
        one.classifier.head(torch.from_numpy(found[name])).argmax(1).numpy()
        for name in ("features", "adversarial_features")
    ]
    right = [(answer == found["label"]).sum() for answer in answers]
    assert right[0] > right[1]
    assert found["plane"].shape == found["adversarial_plane"].shape == (20, 2)
    with pytest.raises(UserError, match=r"attack needs a classifier to fool, expected scheme"):
        Features(attack="pgd-3")


def test_features_that_are_all_the_same_are_one_point() -> None:
    class Constant(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.ones(len(pixels), 3)

    found = Features(images=10).run(subject(encoder=Constant()))
    assert not found["plane"].any()


@pytest.mark.parametrize("start", ["test", "noise"])
def test_inversion_drives_the_neuron_to_its_extremum(start: Any) -> None:
    one = subject()
    assert one.encoder is not None
    most = Inversion(unit=3, start=start, steps=30, step="1/10").run(one)
    least = Inversion(unit=3, start=start, steps=30, step="1/10", sign="min").run(one)
    assert np.array_equal(most["start"], least["start"])
    assert (most["after"] > most["before"] + 0.01).all()
    assert (least["after"] < most["after"]).all()
    assert (least["after"] <= least["before"]).all()
    with torch.no_grad():
        assert np.allclose(most["after"], one.encoder(torch.from_numpy(most["found"]))[:, 3], atol=1e-6)
    assert most["found"].min() >= 0
    assert most["found"].max() <= 1
    assert (most["image"] == -1).all() == (start == "noise")


def test_inversion_of_a_linear_encoder_ends_in_the_corner_of_the_box() -> None:
    class Linear(nn.Module):
        weight = torch.tensor([1.0, -2.0, 3.0, -1.0])

        def forward(self, pixels: Tensor) -> Tensor:
            return (pixels.flatten(1) @ self.weight)[:, None]

    grey = Images(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64), classes=2, name="grey")
    found = Inversion(unit=0, images=1).run(subject(images=grey, encoder=Linear()))
    assert found["found"].flatten().tolist() == [1, 0, 1, 0]
    assert found["after"].tolist() == [4]


def test_the_centre_of_a_landscape_is_the_adversarial_loss_itself() -> None:
    one = subject()
    assert isinstance(one.classifier, Classifier)
    before, part = fingerprint(one.classifier), one.images.sample(8)
    clean = Landscape(images=8, points=3, steps=0).run(one)
    single = Landscape(images=8, points=3, steps=1).run(one)
    assert clean["at"].tolist() == [-1, 0, 1]
    # A step of eps/4 from a random start in the ball: between the clean loss and that of the best corner of the ball.
    model, x, y = one.classifier, part.floats(slice(None)), part.labels
    with torch.no_grad():
        moved = [nn.functional.cross_entropy(model((x + d).clamp(0, 1)), y).item() for d in (-0.1, 0, 0.1)]
    assert abs(clean["loss"][1, 1] - moved[1]) < 5 * (max(moved) - min(moved)) + 0.5
    fixed = Landscape(images=8, points=3, steps=1, attack="fixed").run(one)
    assert fingerprint(one.classifier) == before, "the classifier stays as it was"
    assert single["loss"][1, 1] == pytest.approx(fixed["loss"][1, 1])
    assert (single["loss"] >= clean["loss"] - 1e-3).mean() > 0.8, "the attack raises the loss"
    assert not np.allclose(single["loss"], fixed["loss"])


def test_a_landscape_without_a_ball_is_the_loss_of_moved_weights() -> None:
    one, exact = subject(threat=Threat("0")), classifier()
    part = one.images.sample(8)
    found = Landscape(images=8, points=3, span=0.5).run(one)
    weights = {name: weight.detach() for name, weight in exact.named_parameters()}
    moves = [directions(weights, one.seed, axis) for axis in (0, 1)]
    with torch.no_grad():
        for name, weight in exact.named_parameters():
            weight.add_(0.5 * moves[0][name] - 0.5 * moves[1][name])
        for loss, model in ((found["loss"][1, 1], one.classifier), (found["loss"][2, 0], exact)):
            assert model is not None
            expected = nn.functional.cross_entropy(model(part.floats(slice(None))), part.labels)
            assert loss == pytest.approx(float(expected), rel=1e-5)
    (clean,) = {Landscape(images=8, points=3, span=0.5, steps=n).run(one)["loss"].tobytes() for n in (0, 3)}
    assert clean == found["loss"].tobytes()


def test_directions_have_filters_as_long_as_the_classifiers() -> None:
    weights = {name: weight.detach() for name, weight in classifier().named_parameters()}
    first, second = (directions(weights, 0, axis) for axis in (0, 1))
    for name, weight in weights.items():
        if weight.dim() < 2:
            assert not first[name].any(), "biases and batch norms stay"
            continue
        assert torch.allclose(first[name].flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1), rtol=1e-5)
        assert not torch.allclose(first[name], second[name])
    other = directions({name: 2 * weight for name, weight in weights.items()}, 0, 0)
    assert all(torch.allclose(other[name], 2 * first[name]) for name in weights), "the same before normalisation"


def test_a_landscape_goes_on_from_the_rows_that_are_there(tmp_path: Path) -> None:
    probe, whole = Landscape(images=8, points=3, steps=1), subject()
    expected = probe.run(whole)["loss"]

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        probe.run(dataclasses.replace(whole, keep=tmp_path, report=stop))
    assert len(list(tmp_path.glob("row-*"))) == 2
    seen: list[int] = []
    left = dataclasses.replace(whole, keep=tmp_path, report=lambda done, total: seen.append(done))
    assert np.array_equal(probe.run(left)["loss"], expected)
    write_sealed(tmp_path / "row-0000", np.array([7.0, 7.0, 7.0]).tobytes())
    assert probe.run(left)["loss"][0].tolist() == [7, 7, 7], "what is there is taken and not made again"


def test_a_classifier_without_weights_has_no_landscape() -> None:
    with pytest.raises(UserError, match=r"^probe: a classifier without weights, expected a torch module$"):
        Landscape().run(subject(classifier=lambda x: x))


def test_the_same_arrays_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_arrays(tmp_path / name, {"a": np.arange(5), "b": np.zeros((2, 2))})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("name", names(PACKAGE))
def test_a_probe_comes_back_from_its_identity(name: str) -> None:
    probe = read_probes({name: {}}, "probes")[name]
    assert from_identity(identity(probe), "probe") == probe


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("probes.example.images=2", "unknown probe 'example', expected one of examples, features, frequency, "),
        ("probes.examples.image=2", "unknown key 'image', expected one of attack, images, rows, scheme; did you mean"),
        ("probes.examples.attack=pdg-20", "unknown attack 'pdg-20'"),
        ("probes.examples.scheme=AFF", "tiny.probes.examples.scheme: unknown scheme 'AFF', expected one of SLF"),
        (
            "probes.examples.rows=['advcl']",
            "tiny.probes.examples.rows: unknown row 'advcl', expected one of at, random",
        ),
        ("probes.inversion.unit=502", "unit: 502, the encoder has 4 features, expected 0 to 3"),
        ("probes.inversion.step='eps/4'", "step: 'eps/4', expected an l2 length such as '1/4': there is no eps here"),
        ("probes.frequency.radii=[-1]", "[-1.0] is wrong, expected numbers of at least 0"),
        ("probes.landscape.attack=once", "attack: 'once' is wrong, expected 'recomputed' or 'fixed'"),
        ("probes.examples=3", "tiny.probes.examples: 3 is wrong, expected a table [probes.examples]"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, override)
    assert said in one_line(caught.value)


def test_a_change_moves_the_probe_alone_and_rows_are_in_no_key(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        return {stage.label: stage.key for stage in planned(tmp_path, *overrides).stages}

    before = keys()

    def moved(override: str) -> set[str]:
        after = keys(override)
        return {label for label, key in before.items() if after.get(label) != key}

    assert moved("probes.examples.images=5") == {"probe examples at SLF"}
    assert moved("probes.examples.rows=['random', 'at']") == set()
    assert moved("probes.landscape.attack=fixed") == {"probe landscape at SLF"}
    heads = {f"{verb} {name} SLF" for verb in ("finetune", "evaluate") for name in ("random", "at")}
    named = {label.partition(" at 1/10")[0] for label in moved("finetune.SLF.training.batch=128")}
    assert named == heads | {"probe examples at SLF", "probe landscape at SLF"}, "features are of the encoder itself"


def test_a_newer_attack_makes_new_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustcl.bench.pgd import PGD

    def key() -> str:
        return next(stage.key for stage in planned(tmp_path).stages if stage.label.startswith("probe examples"))

    before = key()
    monkeypatch.setattr(PGD, "version", 99)
    assert key() != before


def test_a_grid_shares_the_probes_that_it_does_not_touch(tmp_path: Path) -> None:
    more = ALL + '[grid]\n"finetune.SLF.training.batch" = [128, 256]\n'
    entries = [entry for entry in planned(tmp_path, more=more).probes if entry["encoder"]]
    shown = sorted((entry["probe"], entry["encoder"]) for entry in entries)
    assert shown == [
        ("examples", "at (batch=128)"),
        ("examples", "at (batch=256)"),
        ("features", "at"),
        ("inversion", "at"),
        ("landscape", "at (batch=128)"),
        ("landscape", "at (batch=256)"),
    ]


def test_costs_count_what_an_attack_takes(tmp_path: Path) -> None:
    made = planned(tmp_path)
    cost = {stage.label: made.cost[stage.key] for stage in made.stages}
    assert cost["probe thumbnails"] == cost["probe frequency"] == 0
    assert cost["probe features at"] == 40
    assert cost["probe landscape at SLF"] == 8 * 9 * (2 * 1 + 1)
    assert cost["probe inversion at"] == 4 * 2 * (5 + 1)
    # A clean pass of the judge, three gradients and the answers of PGD-3 (as the judge counts), the two of the probe.
    assert 4 * (1 + 6 + 2) <= cost["probe examples at SLF"] <= 4 * (1 + 10 + 3)


def test_an_entry_of_a_probe_without_a_network_is_empty() -> None:
    entry, stage = probing.image_stage(Thumbnails(), SPLITS.test, "digits")
    assert (entry["encoder"], entry["scheme"], entry["stage"]) == ("", "", stage.key)


def test_probes_are_listed_with_what_they_do() -> None:
    lines = listing("probes").splitlines()
    assert [line.split()[0] for line in lines[1:]] == names(PACKAGE)
    assert all(len(line.split()) > 3 for line in lines[1:])
