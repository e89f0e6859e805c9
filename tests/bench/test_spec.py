"""Suites: what is read, what is refused, and with which words."""

import re
from pathlib import Path

import numpy as np
import pytest

from robustcl.bench import tables
from robustcl.bench.library import Library
from robustcl.bench.plan import plan
from robustcl.bench.spec import read_suite
from robustcl.bench.suite import RANDOM, Suite, resolved
from robustcl.bench.tables import suites
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.pretraining.methods.advcl import AdvCL
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
    ("table=3", "3 is wrong, expected a table [table]", ""),
    ("table.row=['at']", "unknown key 'row'", "rows"),
    ("table.rows=['att']", "tiny.table.rows: unknown encoder 'att'", "at"),
    ("table.rows=[]", "tiny.table.rows: [] is wrong, expected at least one name, each once", ""),
    ("table.rows=['at', 'at']", "expected at least one name, each once", ""),
    ("table.rows=['random']", "unknown encoder 'random'", ""),
    ("table.rows=['at@3']", "'at@3', expected an epoch of its training.snapshots or a route after @ (normal)", ""),
    ("table.rows=['att@3']", "unknown encoder 'att'", "at"),
    ("table.rows=['at@last']", "expected an epoch of its training.snapshots or a route after @ (normal)", ""),
    ("table.schemes=['SLG']", "tiny.table.schemes: unknown scheme 'SLG'", "SLF"),
    ("table.schemes=[]", "expected at least one name", ""),
    ("target=3", "3 is wrong, expected a table [target]", ""),
    ("target.name=digit", "unknown data set 'digit'", "digits"),
    (
        "data.name=npz",
        "tiny.data.path: missing, expected the path of an .npz, for example --set data.path=mnist.npz",
        "",
    ),
    ("target.name=npz", "tiny.target.path: missing, expected the path of an .npz", ""),
    ("target.name=folder", "expected the path of a folder, for example --set target.path=images/", ""),
    ("pretrain.at.teacher=at", "tiny.pretrain.at: unknown key 'teacher', expected one of", ""),
    ("extends=quickstart", "read before --set, expected it in the file", ""),
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
        ("[labels.groups]\nk = [3]", "missing key 'encoder', expected one of encoder, file, checkpoint, torchvision"),
        ("[labels.groups]\nencoder = 'at'\nfile = 'x.npz'", "both encoder and file, expected one source"),
        ("[labels.groups]\nencoder = 'at'\nkk = [3]", "unknown key 'kk' beside encoder"),
        ("[labels.groups]\nencoder = 'at'\nexternal = true", "unknown key 'external' beside encoder"),
        ("[labels.groups]\nfile = 'x.npz'\nk = [3]", "unknown key 'k' beside file, expected one of file, external"),
        ("[labels.groups]\nencoder = 3", "3 is wrong"),
        ("[labels.groups]\ntorchvision = 'resnet50'", "labels.groups.weights: missing"),
        ("[labels.groups]\ntorchvision = 'resnet50'\nweights = 'x.pth'\nsize = 0", "0 is wrong"),
        ("[pretrain.x]\nmethod = 'deacl'", "needs an encoder, expected teacher = <a name below [pretrain]>"),
        ("[pretrain.x]\nmethod = 'deacl'\nteachr = 'at'", "did you mean 'teacher'?"),
        ("[pretrain.x]\nmethod = 'deacl'\nteacher = 'att'", "tiny.pretrain.x.teacher: unknown encoder 'att'"),
        ("[pretrain.x]\nmethod = 'deacl'\nteacher = 3", "pretrain.x.teacher: 3 is wrong, expected a name"),
        ("[pretrain.x]\nmethod = 'deacl'\nteacher = 'at'\nstart = 'at'", "unknown key 'start', expected one of"),
        ("[pretrain.x]\nmethod = 'deacl'\nteacher = 'x'", "tiny.pretrain.x: a circle (x needs x)"),
        ("[pretrain.x]\nmethod = 'deacl'\nteacher = 'random'", "unknown encoder 'random'"),
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


CIRCLE = """
[labels.groups]
encoder = "student"

[pretrain.teacher]
method = "advcl"
labels = "groups"

[pretrain.student]
method = "deacl"
teacher = "teacher"
"""


def test_circles_go_through_labels_too(tmp_path: Path) -> None:
    path = write_suite(tmp_path, more=CIRCLE)
    with pytest.raises(UserError) as caught:
        read_suite(path)
    assert one_line(caught.value) == (
        "tiny.pretrain.teacher: a circle (teacher needs student needs teacher), expected one to come first"
    )
    (suite,) = read_suite(path, ["labels.groups.encoder=at"])
    assert suite.pretrain["student"].given == {"teacher": "teacher"}
    assert resolved(suite)["pretrain"]["student"]["teacher"] == "teacher"


def test_labels_may_come_from_an_encoder_that_reads_labels(tmp_path: Path) -> None:
    more = "[labels.a]\nencoder = 'at'\n[labels.b]\nencoder = 'one'\n" + "".join(
        f"[pretrain.{name}]\nmethod = 'advcl'\nlabels = '{labels}'\n" for name, labels in (("one", "a"), ("two", "b"))
    )
    (suite,) = read_suite(write_suite(tmp_path, more="\n" + more))
    assert suite.pretrain["two"].labels == "b"
    with pytest.raises(UserError, match=r"a circle \(one needs one\)"):
        read_suite(tmp_path / "tiny.toml", ["labels.a.encoder=one"])


def extending(folder: Path, base: str, more: str = "", name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f'# My own.\nextends = "{base}"\n{more}')
    return path


def test_a_suite_extends_another(tmp_path: Path) -> None:
    write_suite(tmp_path)
    more = "[pretrain.at.training]\nepochs = 9\n[pretrain.new]\nmethod = 'simclr'\n[judge]\nimages = 3\n"
    path = extending(tmp_path, "./tiny.toml", more)
    (suite,) = read_suite(path)
    assert (suite.name, suite.head) == ("mine", "# My own.")
    assert list(suite.pretrain) == ["at", "new"]
    assert suite.pretrain["at"].method.training.epochs == 9
    assert suite.pretrain["at"].method.training.batch == 256, "what is not named stays"
    assert suite.judge.images == 3
    (suite,) = read_suite(path, ["judge.images=4"])
    assert suite.judge.images == 4, "overrides come after extending"
    further = extending(tmp_path, "mine.toml", "[grid]\n'judge.images' = [5, 6]\n", name="further")
    assert [point.judge.images for point in read_suite(further)] == [5, 6]


def test_a_table_of_another_name_replaces_the_one_below(tmp_path: Path) -> None:
    write_suite(tmp_path)
    (suite,) = read_suite(extending(tmp_path, "tiny.toml", "[encoder]\nname = 'resnet'\n"))
    assert name_of(suite.architecture) == "resnet"
    (suite,) = read_suite(extending(tmp_path, "quickstart", "[pretrain.simclr]\noutput = 7\n"))
    assert suite.head == "# My own."
    assert list(suite.pretrain) == ["simclr", "at", "advcl"]
    assert resolved(suite)["pretrain"]["simclr"]["output"] == 7


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("quikstart", "mine.extends: unknown suite 'quikstart'"),
        ("other.toml", "no such file, expected a suite in TOML, relative to mine.toml"),
        ("mine.toml", "mine.extends: a circle (mine -> mine)"),
        ("back.toml", "back.extends: a circle (mine -> back -> mine)"),
    ],
)
def test_wrong_extensions_are_one_line(tmp_path: Path, base: str, says: str) -> None:
    extending(tmp_path, "mine.toml", name="back")
    with pytest.raises(UserError) as caught:
        read_suite(extending(tmp_path, base))
    assert says in one_line(caught.value)


def test_later_ones_of_several_lie_over_earlier_ones(tmp_path: Path) -> None:
    for name, width, eps in (("one", 4, "1/10"), ("two", 5, "2/10")):
        write_suite(tmp_path, name, "")
        path = tmp_path / f"{name}.toml"
        path.write_text(path.read_text().replace("width = 4", f"width = {width}").replace('"1/10"', f'"{eps}"'))
    path = _written(tmp_path, 'extends = ["./one.toml", "./two.toml"]\n[threat]\nnorm = "l2"\n')
    (suite,) = read_suite(path)
    assert (suite.architecture.width, str(suite.threat.eps), suite.threat.norm) == (5, "1/5", "l2")  # type: ignore[attr-defined]


ALIKE = """
[labels.clusters]
encoder = "at"
route = "normal"
normalise = false
k = [2]

[pretrain.contrast]
method = "advcl"
labels = "clusters"
strong = "digits"
training = { epochs = 3 }

[pretrain.bare]
like = "contrast"
arm = "neither"

[pretrain.barer]
like = "bare"
training = { batch = 7 }
"""


def test_an_entry_may_be_like_another_one(tmp_path: Path) -> None:
    (suite,) = read_suite(write_suite(tmp_path, more=ALIKE))
    contrast, bare, barer = (suite.pretrain[name].method for name in ("contrast", "bare", "barer"))
    assert isinstance(contrast, AdvCL)
    assert isinstance(bare, AdvCL)
    assert isinstance(barer, AdvCL)
    assert (bare.weight, bare.strong, bare.training) == (0, contrast.strong, contrast.training)
    assert (barer.weight, barer.training.epochs, barer.training.batch) == (0, 3, 7)
    reads = [suite.pretrain[name].method.supervision for name in ("contrast", "bare", "barer")]
    assert reads == ["pseudo", "none", "none"]
    fit = suite.labels["clusters"].fit
    assert fit is not None
    assert not fit.normalise


def test_an_entry_has_constants_of_its_own_or_none(tmp_path: Path) -> None:
    more = (
        "\n[pretrain.own]\nlike = 'at'\nmean = [0.5]\nstd = [0.2]\n[pretrain.raw]\nlike = 'own'\nmean = []\nstd = []\n"
    )
    (suite,) = read_suite(write_suite(tmp_path, more=more), ["encoder.mean=[0.1]"])
    found = {name: (part.mean, part.std) for name, part in suite.pretrain.items()}
    assert found == {"at": ((0.1,), None), "own": ((0.5,), (0.2,)), "raw": (None, None)}
    for wrong in ("mean=0.5", "std=['a']", "mean=[nan]", "std=[true]"):
        with pytest.raises(UserError, match=r"tiny\.pretrain\.own\.(mean|std): .* expected a list of numbers"):
            read_suite(tmp_path / "tiny.toml", [f"pretrain.own.{wrong}"])


def test_what_an_entry_is_like_may_be_on_the_grid(tmp_path: Path) -> None:
    more = f'{ALIKE}\n[grid]\n"pretrain.contrast.temperature" = [0.1, 0.2]\n'
    points = read_suite(write_suite(tmp_path, more=more))
    assert [point.pretrain["barer"].method.temperature for point in points] == [0.1, 0.2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('like = "bare"', 'like = "bear"', "tiny.pretrain.barer.like: unknown encoder 'bear'"),
        ('like = "bare"', 'like = "barer"', "tiny.pretrain.barer.like: a circle (barer -> barer)"),
        ('like = "contrast"', 'like = "barer"', "tiny.pretrain.barer.like: a circle (bare -> barer -> bare)"),
        ('route = "normal"', 'route = "norml"', "tiny.labels.clusters.route: unknown route 'norml'"),
        ('arm = "neither"', 'arm = "niether"', "tiny.pretrain.bare: unknown arm 'niether'"),
    ],
)
def test_wrong_likenesses_are_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        read_suite(write_suite(tmp_path, more=ALIKE.replace(old, new)))
    assert one_line(error.value).startswith(says)


def test_what_is_extended_is_a_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="extends: 3 is wrong, expected the name of a suite"):
        read_suite(_written(tmp_path, "extends = 3\n"))


def _written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


def test_a_base_is_extended_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path, "_base")
    extending(tmp_path, "_base", name="paper")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    assert list(suites()) == ["paper"]
    assert read_suite("paper")[0].pretrain["at"].method.training.epochs == 1
    with pytest.raises(UserError, match="unknown suite '_base'"):
        read_suite("_base")


def test_rows_and_schemes_keep_the_order_of_the_table(tmp_path: Path) -> None:
    more = "[pretrain.new]\nmethod = 'simclr'\n[finetune.AFF]\n[table]\nrows = ['new', 'at']\nschemes = ['AFF']\n"
    (suite,) = read_suite(write_suite(tmp_path, more="\n" + more))
    assert [str(row) for row in suite.rows] == ["new", "at"]
    assert suite.schemes == ["AFF"]
    (suite,) = read_suite(write_suite(tmp_path))
    assert ([str(row) for row in suite.rows], suite.schemes) == (["at"], ["SLF"])


def test_a_snapshot_is_a_row(tmp_path: Path) -> None:
    path = write_suite(tmp_path, more="\n[table]\nrows = ['at@2', 'at']\n")
    (suite,) = read_suite(path, ["pretrain.at.training.epochs=3", "pretrain.at.training.snapshots=[2]"])
    assert [(row.entry, row.snapshot) for row in suite.rows] == [("at", 2), ("at", None)]
    assert resolved(suite)["table"] == {"rows": ["at@2", "at"], "schemes": ["SLF"]}


def test_a_route_is_a_row_and_goes_with_a_snapshot(tmp_path: Path) -> None:
    more = "\n[pretrain.dual]\nmethod = 'acl'\nstrong = 'digits'\ntraining = { epochs = 3, snapshots = [2] }\n"
    path = write_suite(tmp_path, more=more + "[table]\nrows = ['dual', 'dual@normal', 'dual@2@normal']\n")
    (suite,) = read_suite(path)
    assert [(row.snapshot, row.route) for row in suite.rows] == [(None, None), (None, "normal"), (2, "normal")]
    assert [str(row) for row in suite.rows] == ["dual", "dual@normal", "dual@2@normal"]
    for wrong in ("dual@", "dual@normal@pgd", "dual@2@2", "dual@nromal"):
        with pytest.raises(UserError, match=r"expected an epoch .* or a route after @ \(2, normal, pgd\)"):
            read_suite(path, [f"table.rows=['{wrong}']"])


def test_a_holdout_of_one_data_set_alone_would_judge_on_test_images(tmp_path: Path) -> None:
    path = write_suite(tmp_path, more="\n[target]\nname = 'npz'\npath = 'other.npz'\n")
    data = ["data={name='npz', path='some.npz', holdout=5}"]
    with pytest.raises(UserError, match=r"holdout of \[data\] 5, of \[target\] None, expected the same"):
        read_suite(path, data)
    assert read_suite(path, [*data, "target.holdout=5"])


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
    assert len(plan(points, Library()).cells) == 4 + 2


def test_head_comment_and_resolved(tmp_path: Path) -> None:
    (suite,) = read_suite(write_suite(tmp_path))
    assert suite.head == "# A suite of seconds, for tests.\n# It reproduces nothing."
    whole = resolved(suite)
    assert whole["pretrain"]["at"]["ascent"] == {"steps": 1, "step": "eps/4", "init": "random", "batch_norm": "eval"}
    assert whole["judge"]["sweep"]["judges"] == ["pgd-20"]
    assert RANDOM not in whole["pretrain"]


def _read_with_data(name: str, folder: Path) -> list[Suite]:
    """A suite, with images that mean nothing where it leaves the data to the command line."""
    path, overrides = folder / "noise.npz", list[str]()
    while True:
        try:
            return read_suite(name, overrides)
        except UserError as error:
            lacks = re.search(r"\.(data|target|sets\.\w+)\.path: missing", str(error))
            given = f"{lacks[1]}={{name='npz', path='{path}', train=600}}" if lacks else ""
            if lacks is None or given in overrides:
                raise
            overrides += [given, "judge.images=10"]
        images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(600) % 10
        np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


@pytest.mark.parametrize("name", sorted(suites()))
def test_suites_that_come_along_read_and_plan(name: str, tmp_path: Path) -> None:
    points = _read_with_data(name, tmp_path)
    assert points[0].head.startswith("# ")
    made = plan(points, Library())
    assert made.cells
    assert {stage.key for stage in made.stages} == set(made.cost)
