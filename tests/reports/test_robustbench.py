"""The export for RobustBench: its fields and its forms, read back by its own code."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from robustcl.models.errors import UserError
from robustcl.reports.frame import frame
from robustcl.reports.robustbench import model_info, write
from tests.reports.synthetic import JUDGES, answers, cell, plausible, write_run

# What all JSONs of the project have, and what those of AutoAttack and some footnotes add.
FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
    "clean_acc", "reported", "autoattack_acc", "unreliable", "footnote",
}  # fmt: skip


def given(**changes: Any) -> dict[str, Any]:
    settings = {"scheme": "as given", "method": "WideResNet", "data": "cifar10", "eps": "8/255", "protocol": "as given"}
    return cell(**({"encoder": "Nobody2026Tiny"} | settings | changes))


def one(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    held = given(**changes)
    write_run(tmp_path, [(held, answers(300, 250, {"pgd-20": 130, "autoattack": 121}, held["judges"]))])
    (found,) = model_info(frame(tmp_path), {held["stage"]: "resnet (depth 18)"}).values()
    return found


def test_fields_and_forms(tmp_path: Path) -> None:
    found = one(tmp_path)
    assert set(found) == FIELDS
    assert found["clean_acc"] == "83.33"
    assert found["autoattack_acc"] == found["reported"] == "40.33"
    assert found["eps"] == "8/255"
    assert found["name"] == "Nobody2026Tiny"
    assert found["architecture"] == "WideResNet"
    assert found["additional_data"] is None
    assert found["footnote"].startswith(
        "n = 300 test images; 95 % Wilson intervals SA 78.70 to 87.12, AA 34.94 to 45.97;"
    )
    assert "AA: apgd-ce, apgd-t, fab-t, square" in found["footnote"]


def test_our_own_encoders_name_scheme_suite_and_external_data(tmp_path: Path) -> None:
    found = one(tmp_path, scheme="SLF", method="advcl", protocol="route pgd, SLF 25 epochs, external data")
    assert found["name"] == "Nobody2026Tiny, SLF"
    assert found["architecture"] == "resnet (depth 18)"
    assert found["additional_data"] is True
    assert one(tmp_path, scheme="SLF", protocol="route pgd")["additional_data"] is False


def test_only_standard_autoattack_is_exported(tmp_path: Path) -> None:
    short = {"autoattack": ["apgd-ce", "square"]}
    cells = [
        (given(judges={"pgd-20": ["pgd-20"]}), answers(20, 15, {"pgd-20": 9}, {"pgd-20": ["pgd-20"]})),
        (given(encoder="b", stage="b", judges=short), answers(20, 15, {"autoattack": 9}, short)),
        (given(encoder="c", stage="c", judges={"autoattack-plus": ["apgd-ce"]}), None),
    ]
    write_run(tmp_path, cells)
    assert model_info(frame(tmp_path), {}) == {}
    with pytest.raises(UserError, match="no finished cell has the judge autoattack"):
        write(tmp_path)


def test_a_whole_suite_is_a_file_per_encoder_and_scheme(tmp_path: Path) -> None:
    paths = write(plausible(tmp_path, encoders=("random", "simclr", "advcl"), n=40, radii=2))
    folder = tmp_path / "report" / "model_info" / "digits" / "Linf"
    assert {path.name for path in paths} == {
        f"{row}_{scheme}.json" for row in ("simclr", "advcl") for scheme in ("SLF", "AFF")
    }
    assert all(path.parent == folder for path in paths), "and none for the random encoder"
    assert all(json.loads(path.read_text())["dataset"] == "digits" for path in paths)


def test_names_are_file_names_and_other_radii_are_files_of_their_own(tmp_path: Path) -> None:
    rows = answers(20, 15, {"pgd-20": 9, "autoattack": 8}, JUDGES)
    write_run(tmp_path, [
        (given(encoder="net/a b", stage="1"), rows),
        (given(encoder="net/a b", stage="2", eps="4/255", headline=False), rows),
        (given(encoder="net/a b", stage="3", norm="l2", eps="1/2"), rows),
    ])  # fmt: skip
    assert set(model_info(frame(tmp_path), {})) == {
        "cifar10/Linf/net-a-b.json", "cifar10/Linf/net-a-b_eps-4-255.json", "cifar10/L2/net-a-b.json",
    }  # fmt: skip


def test_every_row_has_its_own_architecture(tmp_path: Path) -> None:
    # A grid over [encoder], or an imported encoder beside our own: one suite, several networks.
    networks = [{"name": "tiny", "width": 4}, {"name": "resnet", "depth": 18, "stem": "3x3"}]
    rows = answers(20, 15, {"pgd-20": 9, "autoattack": 8}, JUDGES)
    made = [given(encoder=f"e{n}", stage=f"{n}", scheme="SLF", architecture=of) for n, of in enumerate(networks)]
    write_run(tmp_path, [(one, rows) for one in made])
    found = {path.stem: json.loads(path.read_text())["architecture"] for path in write(tmp_path)}
    assert found == {"e0_SLF": "tiny (width 4)", "e1_SLF": "resnet (depth 18, stem 3x3)"}


def test_robustbench_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("needs the extra robustbench")
    from robustcl.bench.zoo import robustbench

    held = given()
    write_run(tmp_path, [(held, answers(300, 250, {"pgd-20": 130, "autoattack": 121}, held["judges"]))])
    write(tmp_path, tmp_path / "model_info")
    package = robustbench()
    known = {field.name for field in dataclasses.fields(package.utils.ModelInfo)}
    assert known >= FIELDS - {"unreliable"}, "which their files have and their class does not"
    data, threat = package.model_zoo.enums.BenchmarkDataset.cifar_10, package.model_zoo.enums.ThreatModel.Linf
    monkeypatch.setitem(package.model_zoo.model_dicts[data][threat], "Nobody2026Tiny", {})
    monkeypatch.chdir(tmp_path)
    package.utils.list_available_models("cifar10", "Linf")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Nobody2026Tiny" in line]
    assert "83.33%" in line
    assert "40.33%" in line
    assert "WideResNet" in line


def test_names_that_differ_in_punctuation_are_files_that_differ(tmp_path: Path) -> None:
    rows = answers(20, 15, {"pgd-20": 9, "autoattack": 8}, JUDGES)
    names = ["net a", "net/a", "NET-A"]
    write_run(tmp_path, [(given(encoder=name, stage=f"{place}"), rows) for place, name in enumerate(names)])
    paths = write(tmp_path)
    assert len({str(path).lower() for path in paths}) == 3
    assert [json.loads(path.read_text())["name"] for path in paths] == names
