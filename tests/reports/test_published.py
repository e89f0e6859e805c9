"""The only owner of the tests of published numbers: the file holds what was published, and rows find their own."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustcl.bench.corruptions import STANDARD
from robustcl.bench.spec import read_suite
from robustcl.bench.suite import resolved
from robustcl.models.errors import UserError
from robustcl.pretraining.method import every
from robustcl.reports import paper, writers
from robustcl.reports.frame import frame
from robustcl.reports.published import DOUBTED, REFERENCE, TOLD, published, reference, sources, split
from robustcl.reports.recipes import Recipe, recipes
from robustcl.reports.table import Table, tables
from tests.reports.synthetic import answers, cell, records, write_run

RA = "RA (PGD-20)"
BOARD = [f"robustssl:{pair}-{scheme}" for pair in ("C10-C10", "C100-C100") for scheme in ("SLF", "ALF", "AFF")]
# Counted by hand in the sources: rows of a table times its columns, less what it leaves open.
COUNTS = {
    "advcl:T1": 60, "advcl:T2": 48, "advcl:T3": 16, "advcl:T4": 14, "advcl:T5": 22, "advcl:F3": 24,
    **dict(zip(BOARD, (64, 59, 29, 53, 48, 24), strict=True)),
    **{f"robustssl:C10-STL10-{scheme}": 28 for scheme in ("SLF", "ALF", "AFF")},
    **{f"robustssl:C100-STL10-{scheme}": 24 for scheme in ("SLF", "ALF", "AFF")},
    "air:cross": 96, "air:corr": 72, "rcs:in1k": 80, "autolora:T2": 18, "astra:slides": 40, "deacl:readme": 9,
}  # fmt: skip


@pytest.fixture(scope="module")
def known() -> pd.DataFrame:
    return reference()


def values(known: pd.DataFrame, source: str, name: str, **fields: str) -> dict[str, float]:
    part = known[(known["source"] == source) & (known["published"] == name)]
    for column, wanted in fields.items():
        part = part[part[column] == wanted]
    assert not part["metric"].duplicated().any()
    return {str(metric): float(value) for metric, value in zip(part["metric"], part["value"], strict=True)}


def test_every_number_is_there(known: pd.DataFrame) -> None:
    counts = known["source"].value_counts()
    assert {source: int(counts[source]) for source in COUNTS} == COUNTS
    assert len(known) == 1070
    assert set(counts.index) == set(sources()["source"])


@pytest.mark.parametrize(
    ("source", "name", "fields", "wanted"),
    [
        ("advcl:T1", "AdvCL", {"scheme": "SLF", "data": "cifar10"}, {"AA": 42.57, RA: 50.45, "SA": 80.85}),
        ("advcl:T1", "AP-DPE", {"scheme": "AFF", "data": "cifar100"}, {"AA": 22.53, RA: 26.89, "SA": 55.27}),
        ("advcl:T2", "ACL", {"scheme": "SLF", "pretrained_on": "cifar100"}, {"AA": 21.75, RA: 26.32, "SA": 45.91}),
        ("advcl:T3", "Supervised AT", {"scheme": "ALF"}, {RA: 46.75, "SA": 79.06}),
        ("advcl:T4", "AdvCL", {"method": "advcl/low"}, {RA: 49.51, "SA": 79.83}),
        ("advcl:T5", "AdvCL", {"labels": "own 10"}, {RA: 50.10, "SA": 80.34}),
        ("advcl:T5", "AdvCL", {"method": "advcl/no-pseudo"}, {RA: 48.89, "SA": 77.73}),
        ("advcl:F3", "AdvCL", {"eps": "12/255"}, {RA: 33.3}),
        ("advcl:F3", "RoCL", {"metric": "RA (PGD-100)"}, {"RA (PGD-100)": 38.0}),
        (BOARD[0], "DynACL++-AIR", {"profile": ""}, {"AA": 46.99, "CA": 72.11, "SA": 81.80}),
        (BOARD[0], "DynACL++-AIR", {"profile": "autolora"}, {"AA": 45.40, "CA": 74.55, "SA": 83.52}),
        (BOARD[2], "RoCL", {}, {"AA": 45.02, "SA": 78.51}),
        (BOARD[4], "A-InfoNCE", {"profile": ""}, {"AA": 19.53, "CA": 43.58, "SA": 44.78}),
        ("robustssl:C100-STL10-AFF", "ACL", {"profile": "autolora"}, {"AA": 28.94, "SA": 54.37}),
        ("air:cross", "DynACL-AIR", {"scheme": "ALF", "data": "cifar100"}, {"AA": 12.70, "SA": 28.70}),
        ("air:corr", "ACL", {"scheme": "AFF", "data": "cifar10"}, {"CS-1": 72.94, "CS-3": 66.05, "CS-5": 59.17}),
        ("rcs:in1k", "ACL, RCS 5 %", {"scheme": "AFF", "data": "cifar10"}, {"SA": 85.23, RA: 52.21}),
        (
            "autolora:T2",
            "AT on ImageNet, TWINS",
            {"data": "cifar100"},
            {"SA": 65.52, "RA (PGD-10)": 33.79, "AA": 28.37},
        ),
        ("astra:slides", "ASTrA++", {"data": "stl10"}, {"AA": 47.72}),
        ("astra:slides", "ACL", {"scheme": "semi-10"}, {"AA": 43.69}),
        ("deacl:readme", "DeACL", {"scheme": "AFF"}, {"AA": 50.75, RA: 54.23, "SA": 83.64}),
        ("gh:dynacl#1", "DynACL", {"data": "stl10"}, {"SA": 61.79, "AA": 44.79}),
    ],
)
def test_numbers_are_those_of_the_source(
    known: pd.DataFrame, source: str, name: str, fields: dict[str, str], wanted: dict[str, float]
) -> None:
    assert values(known, source, name, **fields) == wanted


def test_rows_hold_what_they_may(known: pd.DataFrame) -> None:
    accuracies = known[~known["flags"].str.contains("difference") & (known["metric"] != "hours")]
    assert accuracies["value"].between(0, 100).all()
    assert set(known["method"]) - {""} <= set(every())
    assert set(known["norm"]) == {"", "linf"}
    assert set(known["profile"]) == {"", "autolora"}
    one = [name for name in known if name not in ("value", "spread", "seeds")]
    assert not known.duplicated(one).any()


def test_what_is_compared_is_one_number_a_source(known: pd.DataFrame) -> None:
    sound = known[[not set(split(flags)) & set(DOUBTED) for flags in known["flags"]]]
    key = ["source", "published", "pretrained_on", "data", "scheme", "profile", "labels", "metric", "eps", "method"]
    assert not sound.duplicated(key).any()


def test_flags_say_what_is_doubted(known: pd.DataFrame) -> None:
    flagged = known.assign(flag=known["flags"].map(split)).explode("flag")
    assert set(flagged["flag"].dropna()) == {*TOLD, *DOUBTED}
    templates = flagged[flagged["flag"] == "placeholder"]
    assert set(templates["value"]) == {37.92, 72.65, 80.65}
    assert set(templates["profile"]) == {"autolora"}
    swapped = flagged[flagged["flag"] == "swapped?"]
    assert set(zip(swapped["published"], swapped["metric"], swapped["value"], strict=True)) == {
        ("ACL", "AA", 28.16), ("ACL", "SA", 60.86), ("A-InfoNCE", "AA", 27.24), ("A-InfoNCE", "SA", 51.81)
    }  # fmt: skip
    for source in ("advcl:F3", "astra:slides", "apdpe:fig"):
        assert known.loc[known["source"] == source, "flags"].str.contains("read from a figure").all()
    assert known.loc[known["source"].str.startswith("gh:"), "flags"].str.contains("user report").all()
    advcl = known[(known["published"] == "AdvCL") & known["source"].str.startswith(("advcl:T1", "robustssl:C"))]
    assert advcl["flags"].str.contains("ext").all()


def test_an_epoch_chosen_on_test_images_is_told_where_it_is_known(known: pd.DataFrame) -> None:
    chosen = known[known["flags"].str.contains("oracle_test")]
    assert "deacl:paper" in set(chosen["source"])
    assert "advcl:T2" not in set(chosen["source"])  # its code and recipe were never released
    leaked = known["source"].str.contains("STL10") & (known["profile"] == "autolora")
    assert known.loc[leaked & (known["value"] != 37.92), "flags"].str.contains("oracle_test|placeholder").all()


def test_sources_cite_what_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", REFERENCE.with_name("references.bib").read_text(encoding="utf-8"), re.M))
    told = sources()
    assert set(told["cite"]) - {""} <= keys
    assert (told["where"] != "").all()
    assert (told["protocol"] != "").all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"flags": "ext;placholder"}, "line 3: unknown flag 'placholder', .*did you mean 'placeholder'"),
        ({"source": "advcl:T9"}, "line 3: source 'advcl:T9' is not in sources.csv, expected a row there; did you mean"),
        ({"value": ""}, "line 3: no value, expected one"),
        ({"value": "about 40"}, "expected numbers in value, spread, seeds"),
    ],
)
def test_a_row_that_is_wrong_is_refused_with_its_line(tmp_path: Path, change: dict[str, str], says: str) -> None:
    rows = pd.read_csv(REFERENCE, dtype=str, keep_default_na=False, nrows=3)
    for name, text in change.items():
        rows.loc[1, name] = text
    rows.to_csv(tmp_path / "reference.csv", index=False)
    with pytest.raises(UserError, match=says) as caught:
        reference(tmp_path / "reference.csv")
    assert "\n" not in str(caught.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "reference.csv").write_text("source,value\nadvcl:T1,3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"reference.csv: columns source, value, expected source, method"):
        reference(tmp_path / "reference.csv")


def test_doubted_rows_come_only_when_asked_for() -> None:
    asked = ("acl", "cifar10 -> stl10-32", "ALF", "autoattack")
    assert published(*asked)["source"].tolist() == ["robustssl:readme", "air:cross"]
    assert published(*asked, doubted=True)["value"].tolist() == [28.16, 27.24, 27.17]


def test_what_differs_is_not_found() -> None:
    assert published("advcl", "cifar10", "SLF", "pgd-20")["value"].tolist() == [50.45]
    assert published("advcl", "cifar10", "SLF", "pgd-20", labels="own 10")["value"].tolist() == [50.45, 50.10]
    others: list[dict[str, Any]] = [{"eps": "4/255"}, {"norm": "l2"}, {"profile": "autolora"}]
    for changes in others:
        assert published("advcl", "cifar10", "SLF", "pgd-20", **changes).empty
    for asked in (("", "cifar10"), ("advcl", "digits"), ("nothing", "cifar10")):
        assert published(*asked, "SLF", "autoattack").empty
    assert published("simclr", "cifar10", "SLF", "clean", eps="1/7")["value"].tolist() == [90.74]


def of(name: str, *overrides: str) -> dict[tuple[str, str], Recipe]:
    return recipes({"resolved": {"points": [resolved(suite) for suite in read_suite(name, overrides)]}})


def test_rows_of_the_suites_are_the_methods_that_were_published() -> None:
    found = of("variants", "data.path=CIFAR10.npz")
    names = {row: recipe.method for (row, data), recipe in found.items() if data == "CIFAR10"}
    assert names == {
        "simclr": "simclr", "teacher": "simclr", "at": "supervised", "ap_dpe": "ap_dpe", "rocl": "rocl", "acl": "acl",
        "advcl": "advcl", "a_infonce": "a_infonce", "iphn": "a_infonce", "dynacl": "dynacl", "dynacl_pp": "lp_aff",
        "deacl": "deacl", "air": "air", "air_dynamic": "air/dynamic",
    }  # fmt: skip
    recipe = found["advcl", "CIFAR10"]
    assert (recipe.data, recipe.labels, recipe.architecture, recipe.profile) == (
        "cifar10", "own 10", "resnet18", "paper_advcl"
    )  # fmt: skip


def test_arms_and_labels_have_numbers_of_their_own() -> None:
    found = of("table4", "data.path=cifar10.npz")
    arms = {row: recipe.method for (row, _), recipe in found.items() if recipe.method.startswith("advcl/")}
    assert arms == {name: f"advcl/{name.replace('_', '-')}" for name in
                    ("tau_one", "tau_both", "tau_both_clean", "no_high", "low", "low_high")}  # fmt: skip
    labels = {row: recipe.labels for (row, _), recipe in of("table5", "data.path=cifar10.npz").items()}
    assert (labels["k10"], labels["k100"], labels["ensemble"], labels["imagenet_10"]) == ("own 10", "own 100", "", "")
    assert of("table5", "data.path=cifar10.npz")["none", "cifar10"].method == "advcl/no-pseudo"


def test_data_sets_are_known_by_what_they_are() -> None:
    sets = [f"sets.{name}.path=data" for name in ("cifar10", "cifar100", "stl10")]
    found = of("transfer", *sets)
    assert {data: recipe.data for (row, data), recipe in found.items() if row == "acl"}["cifar10 -> stl10"] == (
        "cifar10 -> stl10-32"
    )
    assert of("table1", "data.path=mnist.npz") == {}
    assert of("table1", "data.path=cifar10-jpeg.npz") == {}
    assert of("table1", "data.path=cifar10.npz", "data.holdout=100") == {}


def suite_of(*overrides: str) -> dict[str, Any]:
    points = [resolved(suite) for suite in read_suite("table1", ["data.path=cifar10.npz", *overrides])]
    return {"resolved": {"points": points}}


def measured(folder: Path, *overrides: str, **changes: Any) -> Table:
    """A table of AT and of AdvCL, changed, on 400 images of CIFAR-10: 80 % SA, 50 % RA, 40 % AA each."""
    base = {"data": "cifar10", "eps": "8/255"}
    cells = [cell("at", "SLF") | base | {"method": "supervised"}, cell("advcl", "SLF") | base | changes]
    judged = [one["judges"] for one in cells]
    rows = [answers(400, 320, {"pgd-20": 200, "autoattack": 160}, judges) for judges in judged]
    records = frame(write_run(folder / "runs", list(zip(cells, rows, strict=True))))
    return tables(records, suite_of(*overrides))[-1]


def test_published_numbers_stand_beside_measured_ones(tmp_path: Path) -> None:
    table = measured(tmp_path)
    rows = {(row[1], row[2]): row[3:] for row in table.beside()}
    here = ["80.0 [75.8, 83.6]", "50.0 [45.1, 54.9]", "40.0 [35.3, 44.9]"]
    assert rows == {
        ("at", "measured here"): here,
        ("at", "advcl:T1 (oracle_test)"): ["79.77", "44.40≠", "42.22"],
        ("advcl", "measured here"): here,
        ("advcl", "advcl:T1 (ext, oracle_test)"): ["80.85", "50.45", "42.57"],
        ("advcl", "advcl:T5 (oracle_test)"): ["80.34", "50.10", "-"],
        ("advcl", "robustssl:C10-C10-SLF (ext)"): ["82.36", "-", "43.18"],
    }
    tidy = writers.tidy([table])
    far = tidy[(tidy["kind"] == "published") & tidy["outside"].fillna(False)]
    assert far[["row", "judge", "source", "accuracy"]].to_numpy().tolist() == [["at", "pgd-20", "advcl:T1", 0.444]]
    assert "table 1 (self-task); SLF: 25 epochs" in " ".join(table.sources)
    assert not any("encoders" in text for text in table.sources)


def test_every_form_shows_them(tmp_path: Path) -> None:
    table = measured(tmp_path)
    terminal = writers.terminal(table)
    assert max(map(len, terminal.splitlines())) <= 100
    assert "| SLF    | at      | advcl:T1 (oracle_test)      | 79.77 |      44.40≠ | 42.22 |" in terminal
    for text in (terminal.replace("\n", " "), writers.markdown(table), paper.html([table]), paper.latex([table])):
        assert "outside the 95" in text
        assert re.search(r"ext: external data went into the encoder", text)
    assert r"advcl:T1 (oracle\_test) & 79.77 & 44.40\ensuremath{\neq} & 42.22 \\" in paper.latex([table])
    assert "<td>44.40≠</td>" in re.sub(r"<td [^>]*>", "<td>", paper.html([table])).replace(" </td>", "</td>")


def test_another_architecture_is_told(tmp_path: Path) -> None:
    table = measured(tmp_path, "encoder.depth=34")
    assert table.sources[0].startswith("The published encoders are resnet18, the measured ones resnet34.")


@pytest.mark.parametrize(
    "change",
    [
        {"eps": "4/255"},
        {"data": "digits"},
        {"encoder": "advcl (weight 0.5)"},
        {"scheme": "SFF"},
        {
            "fingerprints": {
                "pgd-20": "pgd-20@20it step eps/10; linf 8/255; seed 0; sha:1",
                "autoattack": "autoattack@apgd-ce 10it; linf 8/255; seed 0; sha:2",
            }
        },
    ],
    ids=["eps", "data", "grid", "scheme", "attack"],
)
def test_what_is_not_the_same_has_none(tmp_path: Path, change: dict[str, Any]) -> None:
    table = measured(tmp_path, **change)
    shown = table.published[(table.published["row"] != "at") & (table.published["judge"] != "clean")]
    assert shown.empty


@pytest.mark.parametrize(("names", "found"), [(STANDARD, [0.7314]), (STANDARD[:4], [])], ids=["all", "some"])
def test_corruptions_are_compared_where_they_are_all_of_them(
    tmp_path: Path, names: tuple[str, ...], found: list[float]
) -> None:
    judges = {"corruptions": [f"{name}-{level}" for name in names for level in range(1, 6)]}
    rows = [(image, "clean", "clean", True) for image in range(4)]
    rows += [(image, "corruptions", attack, image > 0) for image in range(4) for attack in judges["corruptions"]]
    one = cell("advcl", "SLF", data="cifar10", eps="8/255", judges=judges)
    (table,) = tables(frame(write_run(tmp_path / "runs", [(one, records(rows))])), suite_of())
    shown = table.published
    assert shown.loc[shown["judge"] == "corruptions", "accuracy"].tolist() == pytest.approx(found)


def test_a_selection_in_brackets_is_the_same_scheme(tmp_path: Path) -> None:
    table = measured(tmp_path, scheme="SLF (best val)")
    assert "SLF (best val)" in set(table.published["scheme"])
