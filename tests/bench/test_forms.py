"""Names of attacks and their tables: what is read, and what is refused in one line."""

import tomllib
from typing import Any

import pytest

from robustcl.bench.attacks import from_identity, identity, judges
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.forms import FORMS, known, parsed, read_attack, read_judges
from robustcl.bench.judge import Attack
from robustcl.bench.pgd import PGD, fgsm
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.errors import UserError
from tests.bench.tiny import network, one_line


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("pgd-20", PGD()),
        ("pgd-20x5", PGD(restarts=5)),
        ("pgd-7-last", PGD(steps=7, verdict="last")),
        ("pgd-20-eot8", PGD(samples=8)),
        ("pgd-margin-20", PGD(loss="margin")),
        ("pgd-targeted-20", PGD(target="each")),
        ("pgd-margin-targeted-10x2", PGD(steps=10, loss="margin", target="each", restarts=2)),
        ("pgd-least-likely-3", PGD(steps=3, target="least-likely")),
        ("pgd-random-3", PGD(steps=3, target="random")),
        ("fgsm", fgsm()),
        ("apgd-ce", APGD()),
        ("apgd-ce-50x3", APGD(steps=50, restarts=3)),
        ("apgd-dlr-100-eot20", APGD(loss="dlr", samples=20)),
        ("apgd-t", APGD(loss="targeted")),
        ("fab", FAB(targeted=False)),
        ("fab-t-30", FAB(steps=30)),
        ("square", Square()),
        ("square-300x2", Square(queries=300, restarts=2)),
    ],
)
def test_names(name: str, attack: Attack) -> None:
    assert judges([name], 10) == {name: [attack]}
    again = parsed(attack.name)
    assert again is not None
    assert again[0].kind is type(attack), "what the records call it is a name as well"


def test_every_name_that_is_listed_is_one() -> None:
    for name in known():
        if name in ("saved:<path>", "transfer"):
            continue
        asked = name.replace("<steps>", "20")
        assert judges([asked], 10)[asked], name
    assert {name.removesuffix("-<steps>") for name in known()} >= FORMS.keys()


@pytest.mark.parametrize("name", ["fgsm-3", "square-3-eot2", "fab-3-eot2", "pgd-20x0", "pgd-x5", "apgd-ce-2", "pgd-"])
def test_names_that_no_attack_has(name: str) -> None:
    with pytest.raises(UserError) as caught:
        judges([name], 10)
    one_line(caught.value)


def read(text: str) -> dict[str, list[Attack]]:
    return read_judges(tomllib.loads(text)["attacks"], "suite.judge.attacks")


def test_tables() -> None:
    found = read(
        """
        [attacks.strong]
        attack = "pgd"
        steps = 100
        restarts = 5
        loss = "margin"
        [attacks.quick]
        attack = "pgd-margin-20"
        step = "2/255"
        [attacks.black]
        attack = "square"
        queries = 1000
        [[attacks.both]]
        attack = "apgd-ce"
        steps = 50
        [[attacks.both]]
        attack = "fab-t"
        targets = 3
        [attacks.from_simclr]
        attack = "transfer"
        encoder = "simclr"
        with = { attack = "pgd", steps = 10 }
        """
    )
    assert found == {
        "strong": [PGD(steps=100, restarts=5, loss="margin")],
        "quick": [PGD(steps=20, loss="margin", step="2/255")],
        "black": [Square(queries=1000)],
        "both": [APGD(steps=50), FAB(targets=3)],
        "from_simclr": [Transfer(source="simclr", attack=PGD(steps=10, verdict="last"))],
    }
    asked = judges(["both", "pgd-3", "strong"], 3, defined=found)
    assert list(asked) == ["both", "pgd-3", "strong"]
    assert asked["both"] == [APGD(steps=50), FAB(targets=2)], "three classes leave two targets"
    with pytest.raises(UserError, match=r"unknown attack 'stron', .*did you mean 'strong'\?"):
        judges(["stron"], 10, defined=found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[attacks.a]\nattack = "pdg"', "suite.judge.attacks.a.attack: unknown attack 'pdg'"),
        ("[attacks.a]\nsteps = 3", "suite.judge.attacks.a: missing key 'attack', expected one of pgd, "),
        ('[attacks.a]\nattack = "pgd"\nstep_s = 3', "suite.judge.attacks.a: unknown key 'step_s', expected one of"),
        ('[attacks.a]\nattack = "square"\nsteps = 3', "suite.judge.attacks.a: unknown key 'steps', expected one of"),
        (
            '[attacks.a]\nattack = "pgd-20"\nsteps = 3',
            "suite.judge.attacks.a.steps: 'pgd-20' says 20, expected it once",
        ),
        ('[attacks.a]\nattack = "pgd-margin"\nloss = "ce"', "a.loss: 'pgd-margin' says margin, expected it once"),
        ('[attacks.a]\nattack = "pgd"\nsteps = "x"', "suite.judge.attacks.a.steps: 'x' is wrong, expected"),
        ('[attacks.pgd-20]\nattack = "pgd"', "suite.judge.attacks.pgd-20: this is the name of an attack already"),
        ('[attacks.autoattack]\nattack = "pgd"', "this is the name of an attack already"),
        ('[attacks]\na = "pgd-20"', "suite.judge.attacks.a: 'pgd-20' is wrong, expected a table with attack"),
        ("[attacks]\na = []", "suite.judge.attacks.a: [] is wrong, expected a table"),
        ('[attacks.a]\nattack = "transfer"', "a: encoder None, expected encoder = <a name below [pretrain]>"),
        (
            '[attacks.a]\nattack = "transfer"\nencodr = "x"',
            "unknown key 'encodr', expected encoder and with; did you mean",
        ),
        (
            '[attacks.a]\nattack = "transfer"\nencoder = "x"\nwith = { attack = "pg" }',
            "suite.judge.attacks.a.with.attack: unknown attack 'pg'",
        ),
    ],
)
def test_wrong_tables_are_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert says in one_line(caught.value)


@pytest.mark.parametrize(
    "attack", [PGD(steps=3, share=0.2), fgsm(), APGD(loss="dlr", samples=2), FAB(targets=4), Square(queries=7)]
)
def test_an_attack_comes_back_from_its_identity(attack: Attack) -> None:
    assert from_identity(identity(attack), "stage", {}) == attack
    model: Any = network()
    moved = from_identity(identity(Transfer(source="simclr", attack=attack)), "stage", {"simclr": model})
    assert isinstance(moved, Transfer)
    assert moved.source is model
    assert moved.attack == attack


def test_default_batch_of_a_table_is_the_suites() -> None:
    assert read_attack({"attack": "square", "engine": "reference", "batch": 3}, "x") == Square(
        engine="reference", batch=3
    )
