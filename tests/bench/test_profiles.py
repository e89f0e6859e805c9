"""The profiles against the published tables: rates, batches, decays, epochs, attacks, and what is selected."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from robustcl.bench.data import DataSet
from robustcl.bench.datasets.cifar10 import Cifar10
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.datasets.npz import Npz
from robustcl.bench.per_method import DATA, OTHER, ROWS, kind, recipe_row
from robustcl.bench.profiles import PROFILES, changed, read_scheme, schemes
from robustcl.bench.scheme import Scheme
from robustcl.bench.schemes.autolora import AutoLoRa
from robustcl.bench.schemes.labelled import Labelled
from robustcl.bench.schemes.semi import Semi
from robustcl.bench.spec import read_suite
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.optim import Automatic, Schedule
from tests.bench.tiny import one_line, write_suite

# epochs, batch, rate, decays, weight decay, what is trained, objective, selection
PUBLISHED = {
    ("paper_advcl", "SLF"): (25, 512, 0.01, (15, 20), 2e-4, "head", "clean", ("best_val",)),
    ("paper_advcl", "ALF"): (25, 512, 0.01, (15, 20), 2e-4, "head", "adversarial", ("best_val",)),
    ("paper_advcl", "SFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "clean", ("best_val",)),
    ("paper_advcl", "AFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "trades", ("last", "best_val")),
    ("paper_advcl", "LP-AFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "trades", ("last", "best_val")),
    ("robustssl", "SLF"): (25, 512, 0.01, (10, 20), 2e-4, "head", "clean", ("last",)),
    ("robustssl", "ALF"): (25, 512, 0.01, (10, 20), 2e-4, "head", "adversarial", ("last",)),
    ("robustssl", "SFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "clean", ("last",)),
    ("robustssl", "AFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "trades", ("last", "best_val")),
    ("robustssl", "LP-AFF"): (25, 128, 0.1, (15, 20), 2e-4, "all", "trades", ("last", "best_val")),
}


def decays(schedule: Schedule, epochs: int) -> tuple[int, ...]:
    """The epochs, from 0, whose rate is lower than the one before."""
    rates = [schedule.lr(1.0, epoch, 0, 1, epochs) for epoch in range(epochs)]
    return tuple(epoch for epoch in range(1, epochs) if rates[epoch] < rates[epoch - 1] * 0.11)


@pytest.mark.parametrize(("profile", "name"), PUBLISHED)
def test_recipes_are_those_of_the_table(profile: str, name: str) -> None:
    found = schemes(profile)[name]
    assert isinstance(found, Labelled)
    t = found.training
    shown = (t.epochs, t.batch, t.optimiser.lr, decays(t.schedule, t.epochs), t.optimiser.weight_decay)
    assert (*shown, found.trains, found.objective, found.selection) == PUBLISHED[profile, name]
    assert (t.optimiser.name, t.optimiser.momentum, t.optimiser.nesterov) == ("sgd", 0.9, False)
    start = "gaussian" if found.objective == "trades" else "random"
    assert (found.ascent.steps, found.ascent.init, found.ascent.batch_norm) == (10, start, "eval")
    assert found.ascent.size(Threat("8/255")) == pytest.approx(2 / 255)
    assert found.beta == 6
    assert found.begins == ("SLF" if name == "LP-AFF" else "zero")
    assert [run.selection for run in found.runs] == (
        [("last",), ("best_val",)] if profile == "robustssl" and len(found.selection) == 2 else [found.selection]
    )


@pytest.mark.parametrize(("name", "batch", "share", "labelled"), [("semi-1", 200, 0.01, 2), ("semi-10", 250, 0.1, 25)])
def test_semi_supervised_recipes_are_those_of_acl(name: str, batch: int, share: float, labelled: int) -> None:
    for profile in ("paper_advcl", "robustssl"):
        found = schemes(profile)[name]
        assert isinstance(found, Semi)
        t, labeller = found.training, found.labeller.training
        assert (t.epochs, t.batch, t.optimiser.lr, t.optimiser.weight_decay) == (15, batch, 0.1, 5e-4)
        assert decays(t.schedule, 15) == (5, 10)
        assert (labeller.epochs, labeller.optimiser.lr, decays(labeller.schedule, 100)) == (100, 0.1, (40, 60))
        assert (found.labeller.trains, found.labeller.objective) == ("all", "clean")
        assert (found.share, round(found.share * t.batch)) == (share, labelled)
        assert (found.soft, found.temperature, found.beta, found.selection) == (0.5, 1, 6, ("best_val",))
        assert (found.ascent.steps, found.ascent.init, found.ascent.batch_norm) == (10, "random", "eval")


def test_autolora_has_fifty_epochs_at_a_rate_that_begins_at_a_tenth() -> None:
    found = schemes("autolora")
    assert list(found) == ["SLF", "ALF", "AFF"]
    for name, batch in (("SLF", 512), ("ALF", 512), ("AFF", 128)):
        scheme, t = found[name], found[name].training
        assert (t.epochs, t.batch, t.optimiser.lr, t.optimiser.weight_decay) == (50, batch, 0.1, 2e-4)
        assert isinstance(t.schedule, Automatic)
        assert (t.schedule.rising, t.schedule.factor) == (0.75, 0.5)
        assert scheme.selection == ("best_val",)
        assert scheme.held == 10
        assert scheme.attacked
        points = [round(50 * point) for point in t.schedule.checkpoints]
        # Of the published 50 the released code makes no use.
        assert points == ([16, 24, 28, 36, 40, 42, 44, 46, 48] if name == "AFF" else list(range(4, 50, 4)))
    assert isinstance(found["AFF"], AutoLoRa)
    assert (found["AFF"].rank, found["AFF"].beta, found["AFF"].ascent.init) == (8, 6, "gaussian")


def test_a_table_goes_before_the_profile() -> None:
    found = read_scheme({"scheme": "AFF", "training": {"epochs": 3}, "selection": ["last"]}, "x", "robustssl")
    assert (found.training.epochs, found.training.batch, found.selection) == (3, 128, ("last",))


@pytest.mark.parametrize(
    ("table", "profile", "says"),
    [
        ({"scheme": "AFG"}, "paper_advcl", "unknown scheme 'AFG'"),
        ({"scheme": "SFF"}, "autolora", "unknown scheme 'SFF', expected one of AFF, ALF, SLF"),
        ({"scheme": "AFF"}, "robustsll", "x.profile: unknown profile 'robustsll'"),
        ({"scheme": "AFF", "selection": []}, "paper_advcl", "expected 'last', 'best_val' or both"),
        ({"scheme": "AFF", "selection": ["last", "last"]}, "paper_advcl", "each once"),
        ({"scheme": "AFF", "selection": ["best_test"]}, "paper_advcl", "'best_test' is wrong"),
        ({"scheme": "AFF", "validation": 1}, "paper_advcl", "validation"),
    ],
)
def test_what_is_wrong_is_one_line(table: dict[str, object], profile: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_scheme(table, "x", profile)
    assert says in one_line(caught.value)


def images(side: int = 32) -> Images:
    return Images(torch.zeros(2, 3, side, side), torch.tensor([0, 1]), classes=2, name="blank")


CIFAR10, CIFAR100, STL10 = (Npz(path=Path(f"{name}.npz")) for name in ("cifar10", "CIFAR-100-mini", "stl10"))
# method, scheme, data, side -> batch, rate, decays, epochs: spot checks of every line of the benchmark's table
ROW = [
    ("acl", "SLF", CIFAR10, 32, (512, 0.01, (10, 20), 25)),
    ("acl", "ALF", CIFAR100, 32, (512, 0.05, (10, 20), 25)),
    ("acl", "SLF", STL10, 96, (512, 0.1, (10, 20), 25)),
    ("acl", "SLF", STL10, 32, (128, 0.01, (10, 20), 25)),
    ("acl", "AFF", STL10, 32, (128, 0.1, (40, 60), 100)),
    ("acl", "SLF", Cifar10(path=Path("stl10")), 32, (512, 0.01, (10, 20), 25)),  # official files in some folder
    ("dynacl", "AFF", CIFAR10, 32, (128, 0.1, (15, 20), 25)),
    ("dynacl", "AFF", STL10, 96, (128, 0.1, (10, 20), 25)),
    ("dynacl++", "ALF", CIFAR100, 32, (512, 0.05, (10, 20), 25)),
    ("advcl", "SLF", CIFAR100, 32, (512, 0.01, (15, 20), 25)),
    ("a_infonce", "ALF", STL10, 32, (512, 0.01, (15, 20), 25)),
    ("deacl", "AFF", CIFAR10, 32, (128, 0.1, (15, 20), 25)),
    ("air", "SLF", CIFAR10, 32, (512, 0.005, (10, 20), 25)),
    ("air", "ALF", CIFAR10, 32, (512, 0.01, (10, 20), 25)),
    ("air", "SLF", STL10, 96, (512, 0.01, (10, 20), 25)),
    ("air", "AFF", CIFAR100, 32, (128, 0.1, (40, 60), 100)),
    ("dynacl-air", "SLF", CIFAR10, 32, (512, 0.01, (10, 20), 5)),
    ("dynacl-air", "ALF", CIFAR10, 32, (512, 0.01, (10, 20), 25)),  # the 5 epochs of SLF do not leak
    ("dynacl-air", "AFF", CIFAR10, 32, (128, 0.1, (15, 20), 25)),
    ("dynacl-air", "ALF", STL10, 96, (128, 0.1, (10, 20), 25)),
    ("dynacl-air++", "SLF", CIFAR100, 32, (512, 0.09, (10, 20), 25)),
    ("dynacl-air++", "ALF", CIFAR10, 32, (512, 0.01, (10, 20), 4)),
    ("dynacl-air++", "AFF", CIFAR10, 32, (128, 0.1, (15, 20), 25)),
    ("simclr", "SLF", CIFAR10, 32, (128, 0.1, (15, 20), 25)),
    ("random", "AFF", Digits(), 8, (128, 0.1, (15, 20), 25)),
]


@pytest.mark.parametrize(("method", "scheme", "data", "side", "wanted"), ROW)
def test_rows_per_method_are_those_of_the_benchmark(
    method: str, scheme: str, data: DataSet, side: int, wanted: tuple[object, ...]
) -> None:
    row = recipe_row(method, scheme, data, images(side), "x")
    t = read_scheme({"scheme": scheme}, "x", "robustssl", row).training
    assert (t.batch, t.optimiser.lr, decays(t.schedule, t.epochs), t.epochs) == (
        *wanted[:2],
        tuple(m for m in wanted[2] if m < wanted[3]),  # type: ignore[attr-defined]
        wanted[3],
    )
    assert t.optimiser.weight_decay == 2e-4


def test_rows_cannot_change() -> None:
    for rows in (*ROWS.values(), OTHER):
        assert list(rows) == ["SLF", "ALF", "AFF"]
        for found in rows.values():
            assert len(found) in (1, len(DATA))
            with pytest.raises(FrozenInstanceError):
                found[0].epochs = 5  # type: ignore[misc]
        with pytest.raises(TypeError):
            rows["SLF"] = ()  # type: ignore[index]
    row = recipe_row("air", "AFF", CIFAR10, images(), "x")
    assert row is not None
    row["training"]["epochs"] = 5
    assert recipe_row("air", "AFF", CIFAR10, images(), "x") != row


def test_data_without_a_row_is_refused_and_schemes_without_one_keep_the_profile() -> None:
    with pytest.raises(UserError) as caught:
        recipe_row("acl", "SLF", Digits(), images(8), "s.finetune")
    assert one_line(caught.value).startswith("s.finetune.per_method: no row of acl SLF for digits, expected cifar10")
    assert recipe_row("acl", "SFF", Digits(), images(8), "x") is None


METHODS = """
[pretrain.dyn]
method = "air"
arm = "dynamic"
[pretrain.post]
method = "lp_aff"
start = "dyn"
labels = "own"
[labels.own]
encoder = "dyn"
k = [4]
"""


def test_methods_are_found_by_what_they_are(tmp_path: Path) -> None:
    (suite,) = read_suite(write_suite(tmp_path, more=METHODS))
    assert [kind(suite, name) for name in ("at", "dyn", "post", "random")] == [
        "supervised",
        "dynacl-air",
        "dynacl-air++",
        "random",
    ]


def test_what_dynacl_pp_begins_as_may_be_imported(tmp_path: Path) -> None:
    imported = METHODS.replace('method = "air"\narm = "dynamic"', "checkpoint = 'theirs.pth'\nlayout = 'dynacl'")
    (suite,) = read_suite(write_suite(tmp_path, more=imported))
    assert [kind(suite, name) for name in ("dyn", "post")] == ["dynacl", "dynacl++"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_a_plain_key_of_a_suite(tmp_path: Path, profile: str) -> None:
    (suite,) = read_suite(write_suite(tmp_path), [f"finetune.profile={profile}"])
    slf: Scheme = suite.finetune["SLF"]
    assert (suite.profile, suite.per_method, list(suite.finetune)) == (profile, False, ["SLF"])
    assert slf.training.schedule == schemes(profile)["SLF"].training.schedule
    assert (slf.training.epochs, slf.training.batch) == (1, 256)  # the suite's own fields


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["finetune.profile=robustsll"], "tiny.finetune.profile: unknown profile 'robustsll'"),
        (["finetune.profile=['robustssl']"], "tiny.finetune.profile: unknown profile"),
        (["finetune.AFG={}"], "tiny.finetune.AFG: unknown scheme 'AFG'"),
        (["finetune.per_method=1"], "tiny.finetune.per_method: 1 is wrong, expected true or false"),
        (["finetune.per_method=true", "finetune.profile=autolora"], "that profile autolora finds by itself"),
        (["finetune.prof=robustssl"], "unknown key 'prof', expected one of AFF"),
        (["finetune.per_methd=true"], "did you mean 'per_method'?"),
        (["finetune.SLF.begins=SLF"], "tiny.finetune.SLF.begins: 'SLF' is wrong, expected 'zero'"),
        (["finetune.semi-1={labeller={begins='SLF'}}"], "labeller: chooses an epoch or begins as SLF"),
        (["finetune.semi-1={labeller={selection=['best_val']}}"], "labeller: chooses an epoch or begins as SLF"),
    ],
)
def test_wrong_keys_of_finetune_are_one_line(tmp_path: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_suite(write_suite(tmp_path), overrides)
    assert says in one_line(caught.value)


def test_what_a_suite_changes_of_a_recipe_is_told_by_its_path() -> None:
    base = schemes("robustssl")["SLF"]
    assert changed(base, base) == {}
    fields = {"training": {"batch": 64, "epochs": 3, "schedule": {"milestones": [1]}}, "selection": ["best_val"]}
    other = read_scheme({"scheme": "SLF", **fields}, "x", "robustssl")
    assert changed(other, base) == {"training.batch": 64, "training.schedule.milestones": None}


def test_a_scheme_says_what_it_trains_on_and_what_it_costs() -> None:
    aff = schemes()["AFF"]
    assert (aff.asked(50_000), aff.trained(50_000)) == (5_000, 45_000)
    assert aff.passes(50_000) == 25 * (45_000 * 27 + 5_000 * 42)
    last = read_scheme({"scheme": "AFF", "selection": ["last"]}, "x")
    assert (last.asked(50_000), last.trained(50_000), last.passes(50_000)) == (0, 50_000, 25 * 50_000 * 27)
    watched = read_scheme({"scheme": "SLF", "training": {"monitor": {"every": 5, "hold_out": 9}}}, "x")
    assert (watched.asked(90), watched.trained(90)) == (9, 72)
    assert schemes()["SLF"].passes(50_000) == 25 * (45_000 + 5_000)
