"""Tests of strict import: official files give the features of their own networks, and nothing is loaded by halves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustcl.models import checkpoint
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.convert import import_encoder
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.value import plain
from robustcl.models.vision import torchvision as library
from tests.models.official import CASES, IMAGENET, Net, acl, advcl, alive, deacl, rocl, solo_learn, torchvision, under


def saved(path: Path, file: Any) -> Path:
    torch.save(file, path)
    return path


def images(side: int = 32) -> Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_official_network_on_every_route(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    net, file = case.make()
    encoder, report = import_encoder(saved(tmp_path / "x.pth", file), route="all", **case.asked)
    x = images()
    given = x
    if case.constants:  # a project that normalises in its data loader
        mean, std = (torch.tensor(part)[None, :, None, None] for part in case.constants)
        given = (x - mean) / std
    for branch, route in enumerate(case.routes):
        with torch.no_grad():
            torch.testing.assert_close(encoder(x, route), net.features(given, branch), atol=1e-5, rtol=1e-5)
    assert (report.layout, report.routes, report.route) == (case.layout, case.routes, case.route)
    assert (report.network["stem"], report.network["depth"], report.network["width"]) == (case.stem, case.depth, 4)
    assert (report.prefix, report.classes) == (case.prefix, case.classes)
    assert report.matched == report.total == len(encoder.state_dict())
    assert f"matched {report.total}/{report.total} tensors" in str(report)
    assert plain(report)["route"] == case.route
    one, _ = import_encoder(tmp_path / "x.pth", **case.asked)
    assert (one.routes, one.training) == ((case.route,), False)
    assert torch.equal(one(x), encoder(x, case.route))


def test_swapped_branches_would_be_noticed(tmp_path: Path) -> None:
    net, file = acl()
    encoder, _ = import_encoder(saved(tmp_path / "x.pth", file), route="all")
    x = images()
    assert (encoder(x, "normal") - net.features(x, 1)).abs().max() > 0.01


def test_a_report_says_what_was_read_and_what_was_assumed(tmp_path: Path) -> None:
    _, report = import_encoder(saved(tmp_path / "x.pth", advcl()[1]))
    assert str(report).splitlines() == [
        "matched 320/320 tensors of a resnet (depth 18, width 4, stem 3x3)",
        "layout advcl (files of a_infonce look the same), read under 'model', prefix 'module.' stripped",
        "route pgd, of normal, pgd, pgd_ce",
        "stem as the layout has it; input raw as the layout has it",
        "dropped 37 tensors beside the encoder (first: fc_002.bias)",
    ]
    _, report = import_encoder(saved(tmp_path / "x.pth", deacl()[1]))
    assert (report.stem_from, report.normalised_from) == ("layout", "file")
    assert report.mean == (0.4914, 0.4822, 0.4465)


def test_what_is_asked_for_overrides_what_is_recognised(tmp_path: Path) -> None:
    net, file = torchvision()
    del net.fc
    small = alive(Net(padding=2))
    path = saved(tmp_path / "x.pth", under("", small))
    encoder, report = import_encoder(path, layout="timm", stem="3x3-pad2", mean=(), std=())
    torch.testing.assert_close(encoder(images()), small.features(images()), atol=1e-5, rtol=1e-5)
    assert (report.stem_from, report.normalised_from, report.mean) == ("caller", "caller", ())
    encoder, report = import_encoder(saved(tmp_path / "y.pth", file), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    torch.testing.assert_close(encoder(images()), net.features((images() - 0.5) / 0.2), atol=1e-5, rtol=1e-5)


def test_padding_and_normalisation_that_no_shape_tells_matter(tmp_path: Path) -> None:
    net, file = deacl()
    path = saved(tmp_path / "x.pth", file)
    wrong, _ = import_encoder(path, stem="3x3")
    assert (wrong(images()) - net.features(images())).abs().max() > 0.001


def test_a_plain_network_with_a_small_stem_needs_its_layout(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", under("", alive(Net())))
    with pytest.raises(UserError, match=r"fits advcl, a_infonce, torchvision, timm, solo_learn, which differ"):
        import_encoder(path)
    assert import_encoder(path, layout="advcl")[1].route == "pgd"


def test_stored_constants_tell_a_stripped_deacl_from_a_converted_acl(tmp_path: Path) -> None:
    net = deacl()[0]
    encoder, report = import_encoder(saved(tmp_path / "x.pth", under("", net)))
    assert (report.layout, report.network["stem"]) == ("deacl", "3x3-pad2")
    torch.testing.assert_close(encoder(images()), net.features(images()), atol=1e-5, rtol=1e-5)


def test_constants_of_one_channel_are_not_those_of_three(tmp_path: Path) -> None:
    held = under("", deacl()[0])
    grey = held | {name: held[name][:1] for name in ("normalize.mean", "normalize.std")}
    with pytest.raises(UserError, match=r"fits .*deacl.*expected layout = one of them"):
        import_encoder(saved(tmp_path / "x.pth", grey))


def test_safetensors_and_files_without_counters(tmp_path: Path) -> None:
    net, file = rocl()
    old = {name: tensor for name, tensor in file["model"].items() if "num_batches" not in name}
    save_file(old, tmp_path / "x.safetensors")
    encoder, report = import_encoder(tmp_path / "x.safetensors")
    torch.testing.assert_close(encoder(images()), net.features(images()), atol=1e-5, rtol=1e-5)
    assert "counters" in report.notes[0]


def test_our_own_files_are_read_as_ever(tmp_path: Path) -> None:
    made = Encoder(Tiny(width=4), (1, 8, 8), routes=("normal", "pgd"), mean=(0.2,), std=(0.5,)).eval()
    checkpoint.save_encoder(tmp_path / "x.safetensors", made, "pgd")
    encoder, report = import_encoder(tmp_path / "x.safetensors")
    assert checkpoint.fingerprint(encoder) == checkpoint.fingerprint(made.keep("pgd"))
    assert (report.layout, report.route, report.routes, report.mean) == ("robustcl", "pgd", made.routes, (0.2,))
    with pytest.raises(UserError, match="says them itself"):
        import_encoder(tmp_path / "x.safetensors", stem="3x3")


def changed(**change: Any) -> dict[str, Any]:
    tensors: dict[str, Any] = dict(acl()[1]["state_dict"])
    for name, tensor in change.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    return tensors


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one missing": (
        {"layer2__0__bn2__bn_list__1__running_var": None},
        r"matched 219/220 .* 1 missing \(first: body.stages.1.0.bn2.branches.pgd.running_var\)",
    ),
    "one unknown": (
        {"layer5__weight": torch.zeros(2)},
        r"1 are of no known name or there twice \(first: layer5.weight\)",
    ),
    "one twice": (
        {"layer2__0__shortcut__conv__weight": torch.zeros(8, 4, 1, 1)},
        r"1 are of no known name or there twice \(first: layer2.0.shortcut.conv.weight\)",
    ),
    "half of the constants": ({"normalize__std": None}, "normalize.mean alone, expected mean and std"),
    "one that the network has not": ({"conv1__bias": torch.zeros(4)}, r"1 left over \(first: body.stem.0.bias\)"),
    "another shape": ({"layer1__0__conv1__weight": torch.zeros(5, 4, 3, 3)}, "1 of another shape"),
    "a block too many": ({"layer1__2__conv1__weight": torch.zeros(4, 4, 3, 3)}, r"stages of \(3, 2, 2, 2\) basic"),
    "a branch too many": (
        {"bn1__bn_list__2__weight": torch.zeros(4)},
        r"branches \[0, 1, 2\], expected .* normal, pgd",
    ),
    "half of the branches": ({"bn1__weight": torch.zeros(4)}, "some batch norms have branches and others have none"),
    "some counters": ({"bn1__bn_list__1__num_batches_tracked": None}, "1 missing"),
    "NaN": ({"conv1__weight": torch.full((4, 3, 3, 3), torch.nan)}, "stem.0.weight: NaN"),
    "other channels": ({"conv1__weight": torch.zeros(4, 1, 3, 3)}, r"shape \(4, 1, 3, 3\), expected .* 3 channels"),
    "a large kernel": ({"conv1__weight": torch.zeros(4, 3, 5, 5)}, "expected 3x3 or 7x7"),
    "no stem": ({"conv1__weight": None}, "no first convolution"),
    "a negative variance": ({"bn1__bn_list__1__running_var": -torch.ones(4)}, "branches.1.running_var: a variance"),
    "constants of 0 to 255": ({"normalize__mean": torch.full((3,), 125.0)}, r"expected those of images in \[0, 1\]"),
    "constants of NaN": ({"normalize__std": torch.full((3,), torch.nan)}, r"expected those of images in \[0, 1\]"),
    "constants of 0": ({"normalize__std": torch.zeros(3)}, r"std \(0.0, 0.0, 0.0\) as the file says, expected those"),
    "too many constants": ({"normalize__mean": torch.zeros(5)}, "as the file says, expected 3 numbers each"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_short_of_every_tensor_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    path = saved(tmp_path / "x.pth", {"state_dict": changed(**change)})
    with pytest.raises(UserError, match=message) as caught:
        import_encoder(path, layout="acl")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layout": "adcvl"}, "unknown layout 'adcvl'.*did you mean 'advcl'"),
        ({"layout": "acl", "stem": "7x7"}, "3x3, which is not that of stem 7x7"),
        ({"mean": (0.5, 0.5, 0.5)}, "expected both or neither"),
        ({"route": "pdg"}, "unknown route 'pdg'.*did you mean 'pgd'"),
        ({"shape": (1, 28, 28)}, "on 1 channels"),
        ({"mean": (125.0, 123.0, 114.0), "std": (63.0, 62.0, 66.0)}, r"as asked for, .* images in \[0, 1\].* / 255"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", acl()[1])
    with pytest.raises(UserError, match=message):
        import_encoder(path, **asked)


def test_a_random_network_under_other_names_is_refused(tmp_path: Path) -> None:
    tensors = {f"trunk.{name.replace('layer', 'block')}": tensor for name, tensor in under("", Net()).items()}
    with pytest.raises(UserError, match="of no known layout"):
        import_encoder(saved(tmp_path / "x.pth", tensors))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_network_of_torchvision_itself_answers_the_same(name: str, tmp_path: Path) -> None:
    net = alive(library().models.get_model(name, weights=None))
    encoder, report = import_encoder(saved(tmp_path / "x.pth", net.state_dict()))
    net.fc = torch.nn.Identity()
    mean, std = (torch.tensor(part)[None, :, None, None] for part in IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()), net((images() - mean) / std), atol=1e-4, rtol=1e-5)
    assert (report.layout, report.alike, report.classes) == ("torchvision", ("timm", "solo_learn"), 1000)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    net, file = rocl()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in file["model"].items()}
    encoder, report = import_encoder(saved(tmp_path / "x.pth", half))
    assert report.notes == ("weights of torch.float16, judged as float32",)
    assert {tensor.dtype for tensor in encoder.parameters()} == {torch.float32}
    torch.testing.assert_close(encoder(images()), net.features(images()), atol=0.05, rtol=0.05)


def test_two_branches_without_constants_are_no_guess(tmp_path: Path) -> None:
    # ACL's and DynACL's with their constants lost would be AdvCL's on raw images: other features of the same tensors.
    tensors = {name: tensor for name, tensor in acl()[1]["state_dict"].items() if not name.startswith("normalize")}
    path = saved(tmp_path / "x.pth", tensors)
    with pytest.raises(UserError, match=r"of no known layout .* set layout"):
        import_encoder(path)
    assert import_encoder(path, layout="acl")[1].mean == IMAGENET[0]


def test_a_layout_that_the_names_are_not_of_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", solo_learn()[1])
    assert not import_encoder(path, layout="solo_learn")[1].notes
    (note,) = import_encoder(path, layout="lightly")[1].notes  # which has another padding
    assert note == "warning: the names in the file are not those of layout lightly, which was asked for"


def test_what_lies_beside_the_weights_is_said_or_refused(tmp_path: Path) -> None:
    held, other = torchvision()[1], under("", alive(Net(large=True), seed=1))
    _, report = import_encoder(saved(tmp_path / "x.pth", {"state_dict": held, "state_dict_ema": other}))
    assert report.notes == ("not read: what the file holds beside 'state_dict', under state_dict_ema",)
    path = saved(tmp_path / "x.pth", {"state_dict": held, "model": other, "epoch": 1})
    with pytest.raises(UserError, match="tensors by name under state_dict and model, expected one of them"):
        import_encoder(path)
