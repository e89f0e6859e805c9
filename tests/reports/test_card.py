"""The only owner of the tests of model cards: YAML that parses, the table's numbers, and no page overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustcl.models.errors import UserError
from robustcl.reports.card import cards, write
from robustcl.reports.filenames import distinct
from robustcl.reports.folder import RunFolder
from tests.reports.site import HOSTILE, varied
from tests.reports.synthetic import JUDGES, answers, cell, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(varied(tmp_path_factory.mktemp("card") / "runs"))


@pytest.fixture(scope="module")
def texts(run: RunFolder) -> dict[str, str]:
    return cards(run)


def front(text: str) -> dict[str, Any]:
    """The front matter of a card, as a YAML parser reads it."""
    empty, held, _ = text.split("---\n", 2)
    assert empty == ""
    return dict(yaml.safe_load(held))


def test_every_encoder_that_was_made_has_a_card(texts: dict[str, str]) -> None:
    assert list(texts) == ["advcl", HOSTILE, "simclr"], "and none for the random one"
    for encoder, text in texts.items():
        held = front(text)
        (model,) = held["model-index"]
        assert model["name"] == encoder
        assert held["tags"][-1] == "simclr"
        assert "license" not in held, "which only the owner knows"


def test_the_results_block_holds_the_numbers_of_the_table(run: RunFolder, texts: dict[str, str]) -> None:
    (model,) = front(texts["advcl"])["model-index"]
    got = {
        (one["dataset"]["type"], metric["name"]): metric["value"]
        for one in model["results"]
        for metric in one["metrics"]
    }
    assert {key for key in got if key[0] == "mnist"} == {
        ("mnist", f"{name}, SLF, linf 1/5") for name in ("SA", "RA (PGD-20)", "AA")
    }
    numbers = run.tables[0].numbers
    cell = numbers[(numbers["row"] == "advcl") & (numbers["scheme"] == "SLF") & (numbers["judge"] == "autoattack")]
    assert got["digits", "AA, SLF, linf 1/10"] == pytest.approx(100 * cell["accuracy"].iloc[0])
    assert all(one["task"]["type"] == "image-classification" for one in model["results"])
    assert all(one["dataset"]["split"] == "test" for one in model["results"])
    low, high = (100 * cell[end].iloc[0] for end in ("low", "high"))
    assert f"42.0 [{low:.1f}, {high:.1f}], tied 1\N{EN DASH}2" in texts["advcl"]


def test_a_card_says_how_it_came_about(texts: dict[str, str]) -> None:
    text = texts["advcl"]
    assert 'robustcl.load_encoder("encoder.safetensors")' in text
    assert "`pretrain/aa/encoder.safetensors`" in text
    assert "- commit: 0123456789, with changes\n" in text
    assert "1/10: suspect; zero\\_gradients: half of" in text
    assert "It was trained on data that is not the suite's." in text
    assert "@inproceedings{chen2020simclr," in text
    assert "{fan2021advcl," not in texts["simclr"], "only what stands behind it"
    assert "`robustcl run quickstart` makes them again." in texts["simclr"]


def test_a_name_is_never_markup(texts: dict[str, str]) -> None:
    title = next(line for line in texts[HOSTILE].splitlines() if line.startswith("# "))
    assert title == "# \\<b\\>\"x\" \\& 'y' \\| a/b"
    rows = [line for line in texts[HOSTILE].splitlines() if line.startswith("| SLF")]
    assert len(rows) == 2
    assert all(row.count("|") == 9 for row in rows)


def test_a_given_classifier_is_not_ours_to_load(tmp_path: Path) -> None:
    given = cell("Net", "as given", method="WideResNet")
    run = RunFolder(write_run(tmp_path, [(given, answers(100, 90, {"pgd-20": 40, "autoattack": 30}, JUDGES))]))
    (text,) = cards(run).values()
    assert "load it the way its authors say" in text
    assert "load_encoder" not in text


def test_cards_lie_beside_the_jsons_and_take_no_other_page(run: RunFolder, tmp_path: Path) -> None:
    names = distinct(["advcl", HOSTILE, "simclr"])
    ours = tmp_path / "advcl" / "README.md"
    ours.parent.mkdir()
    ours.write_text("---\nlibrary_name: robustcl\nearlier\n")
    paths = write(run.root, tmp_path)
    assert "earlier" not in ours.read_text(), "a card of ours is written again"
    assert [path for path in paths if path.suffix == ".md"] == [tmp_path / of / "README.md" for of in names.values()]
    export = tmp_path / "advcl" / "model_info" / "digits" / "Linf" / "advcl_SLF.json"
    assert json.loads(export.read_text())["autoattack_acc"] == "42.00"
    (tmp_path / "simclr" / "README.md").write_text("# mine\n")
    with pytest.raises(UserError, match=r"simclr/README\.md: not a model card of robustcl"):
        write(run.root, tmp_path)
    assert (tmp_path / "simclr" / "README.md").read_text() == "# mine\n"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)


def test_nothing_finished_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder has a finished cell"):
        write(write_run(tmp_path / "runs", [(cell("advcl", "SLF"), None)]), tmp_path / "cards")
    assert not (tmp_path / "cards").exists()
