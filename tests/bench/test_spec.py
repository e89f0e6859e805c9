"""Suites: what is read, what is refused, and with which words."""

from pathlib import Path

import pytest

from robustcl.bench.data import Digits
from robustcl.bench.plan import plan
from robustcl.bench.spec import RANDOM, read_suite, resolved, suites
from robustcl.models.errors import UserError
from tests.bench.tiny import one_line, write_suite

BAD = [
    ("judgee.images=3", "unknown table 'judgee'", "judge"),
    ("judge.imagse=3", "unknown key 'imagse'", "images"),
    ("judge.sweep.epss=[]", "unknown key 'epss'", "eps"),
    ("encoder.widht=3", "unknown key 'widht'", "width"),
    ("encoder.name=tini", "unknown architecture 'tini'", "tiny"),
    ("data.name=digit", "unknown data set 'digit'", "digits"),
    ("data.size=8", "unknown key 'size'", ""),
    ("threat.nrom=l2", "unknown key 'nrom'", "norm"),
    ("threat.norm=linff", "'linff' is wrong", "linf"),
    ("threat.eps=0.0314", "0.0314 is not exact", "8/255"),
    ("threat.eps='0.0314'", "is a decimal, expected an exact fraction", "8/255"),
    ("threat.eps=much", "'much' is not a number", ""),
    ("threat.eps='-1/255'", "is negative", ""),
    ("pretrain.at.method=supervized", "unknown method 'supervized'", "supervised"),
    ("pretrain.at.trainings.epochs=3", "unknown key 'trainings'", "training"),
    ("pretrain.at.training.epoch=3", "unknown key 'epoch'", "epochs"),
    ("pretrain.at.training.optimiser.momentun=0.5", "unknown key 'momentun'", "momentum"),
    ("pretrain.at.training.epochs=many", "'many' is wrong, expected a valid integer", ""),
    ("pretrain.at.training=3", "is wrong", ""),
    ("pretrain.at.weak=digits-wek", "digits-wek", "digits-weak"),
    ("pretrain.at.labels=groups", "reads no pseudo-labels", ""),
    ("pretrain.at.labels=3", "3 is wrong, expected a name below [labels]", ""),
    ("pretrain.att.method=supervised", "unknown table 'att'", "at"),
    ("finetune.SLG.scheme=SLF", "unknown table 'SLG'", "SLF"),
    ("finetune.SLF.scheme=SLT", "unknown scheme 'SLT'", "SLF"),
    ("finetune.SLF.trains=heads", "'heads' is wrong", "head"),
    ("finetune.SLF=3", "expected a table", ""),
    ("pretrain=3", "3 is wrong", ""),
    ("judge=3", "3 is wrong, expected a table [judge]", ""),
    ("seeds=3", "3 is wrong, expected a table [seeds]", ""),
    ("labels=3", "3 is wrong, expected a table [labels]", ""),
    ("grid=3", "3 is wrong, expected a table [grid]", ""),
    ("seeds.pretrain=-1", "-1 is wrong", ""),
    ("judge.images=0", "0 is wrong", ""),
    ("encoder.mean=0.5", "expected a list of numbers", ""),
    ("judge.images.more=3", "'images' is not a table", ""),
    ("=3", "expected path.to.key=value", ""),
    ("judge.images", "expected path.to.key=value", ""),
]


@pytest.mark.parametrize(("override", "says", "near"), BAD)
def test_what_is_wrong_is_one_line_with_the_nearest_name(tmp_path: Path, override: str, says: str, near: str) -> None:
    suite = write_suite(tmp_path)
    assert len(read_suite(suite)) == 1
    with pytest.raises(UserError) as caught:
        read_suite(suite, [override])
    text = one_line(caught.value)
    assert says in text
    assert not near or f"did you mean '{near}'?" in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[pretrain.random]\nmethod = 'simclr'", "this name is taken"),
        ("[jugde]\nimages = 3", "unknown key 'jugde'"),
        ("[pretrain.x]\nmethod = 'advcl'", "expected labels = <a name below [labels]>"),
        ("[pretrain.x]\nmethod = 'advcl'\nlabels = 'group'\n[labels.groups]\nencoder = 'at'", "did you mean 'groups'?"),
        ("[labels.groups]\nencoder = 'att'", "did you mean 'at'?"),
        ("[labels.groups]\nk = [3]", "missing key 'encoder'"),
        ("[pretrain.x]\ntemperature = 1", "missing key 'method'"),
        ("[finetune.SLFF]", "did you mean 'SLF'?"),
        ("[grid]\n'judge.batch' = 3", "expected a list of values"),
        ("[grid]\n'judges.batch' = [3]", "unknown table 'judges'"),
        ("[grid", "not a readable TOML file"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_suite(write_suite(tmp_path, more="\n" + more + "\n"))
    assert says in one_line(caught.value)


@pytest.mark.parametrize("table", ["data", "encoder", "threat", "pretrain", "finetune"])
def test_missing_tables_are_named(tmp_path: Path, table: str) -> None:
    path = write_suite(tmp_path)
    blocks = path.read_text().split("\n\n")
    path.write_text("\n\n".join(block for block in blocks if f"[{table}" not in block))
    with pytest.raises(UserError, match=rf"tiny: missing table \[{table}\]"):
        read_suite(path)


def test_unknown_suites() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        read_suite("quikstart")
    with pytest.raises(UserError, match=r"nowhere\.toml: no such file"):
        read_suite("nowhere.toml")


def test_overrides_set_what_they_say(tmp_path: Path) -> None:
    words = ["judge.images=5", 'threat.eps="1/4"', "pretrain.at.training.epochs=7", "finetune.SLF.weak=weak"]
    (suite,) = read_suite(write_suite(tmp_path), [*words, "seeds.judge=9", "judge.sweep.eps=['1/3']"])
    assert suite.judge.images == 5
    assert str(suite.threat.eps) == "1/4"
    assert suite.pretrain["at"].method.training.epochs == 7
    assert suite.pretrain["at"].method.training.batch == 256, "what is not overridden stays"
    assert suite.seeds.judge == 9
    assert [str(eps) for eps in suite.judge.sweep.eps] == ["1/3"]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    path = write_suite(
        tmp_path, more='\n[grid]\n"threat.eps" = ["1/10", "1/5"]\n"pretrain.at.training.epochs" = [1, 2]\n'
    )
    points = read_suite(path)
    assert [point.point for point in points] == [f"eps={e}, epochs={n}" for e in ("1/10", "1/5") for n in (1, 2)]
    found = [(str(p.threat.eps), p.pretrain["at"].method.training.epochs) for p in points]
    assert found == [("1/10", 1), ("1/10", 2), ("1/5", 1), ("1/5", 2)]
    assert len(plan(points, Digits().load()).cells) == 4 + 2


def test_head_comment_and_resolved(tmp_path: Path) -> None:
    (suite,) = read_suite(write_suite(tmp_path))
    assert suite.head == "# A suite of seconds, for tests.\n# It reproduces nothing."
    whole = resolved(suite)
    assert whole["pretrain"]["at"]["ascent"] == {"steps": 1, "step": "eps/4", "init": "random", "batch_norm": "eval"}
    assert whole["judge"]["sweep"]["judges"] == ["pgd-20"]
    assert RANDOM not in whole["pretrain"]


@pytest.mark.parametrize("name", sorted(suites()))
def test_suites_that_come_along_read_and_plan(name: str) -> None:
    points = read_suite(name)
    assert points[0].head.startswith("# ")
    made = plan(points, points[0].data.load())
    assert made.cells
    assert {stage.key for stage in made.stages} == set(made.cost)
