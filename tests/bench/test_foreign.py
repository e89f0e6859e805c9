"""Foreign factories: whose modules are imported, and one line for everything that goes wrong in their code."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from robustcl.bench.autoattack.reference import package
from robustcl.bench.foreign import load
from robustcl.models.errors import UserError
from tests.bench.tiny import one_line

NET = """
import torch
from torch import nn
from models import Net
from models.blocks import width
import data

def make():
    import utils  # late
    return Net(width + utils.more + data.classes - data.classes)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A research repository as one meets them; what a test loads from it is forgotten afterwards."""
    write(
        tmp_path,
        {
            "models/__init__.py": "from torch import nn\nimport utils\nNet = lambda width: nn.Linear(4, width)\n",
            "models/blocks.py": "width = 3\n",
            "utils.py": "more = 2\n",
            "data/__init__.py": "classes = 10\n",
            "bench/__init__.py": "",
            "queue.py": "raise RuntimeError('this is not the queue of Python')\n",
            "net.py": NET,
        },
    )
    before, finders, path = dict(sys.modules), list(sys.meta_path), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert sys.path == path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("target", ["net.py:make", "net:make"])
def test_their_imports_are_theirs(repository: Path, target: str) -> None:
    model = load(target)
    assert isinstance(model, nn.Linear)
    assert model.out_features == 5
    assert sys.modules["models"].__file__ == str(repository / "models" / "__init__.py")
    assert "robustcl.models" in sys.modules


def test_from_another_folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder of the file comes before the one that one stands in."""
    there = tmp_path_factory.mktemp("there")
    write(there, {"net.py": NET, "models/__init__.py": "Net = dict\n", "models/blocks.py": "width = 1\n"})
    with pytest.raises(UserError, match="TypeError"):
        load(str(there / "net.py:make"))


def test_a_file_of_a_package_may_import_relatively(repository: Path) -> None:
    write(repository, {"nets/__init__.py": "", "nets/deep/__init__.py": "", "nets/base.py": "size = 7\n"})
    write(repository, {"nets/deep/a.py": "from torch import nn\nfrom ..base import size\nnet = nn.Linear(2, size)\n"})
    model = load("nets/deep/a.py:net")
    assert isinstance(model, nn.Linear)
    assert model.out_features == 7


def test_the_standard_library_is_never_theirs(repository: Path) -> None:
    """A module of Python that nothing has imported yet is Python's, in their code as in ours."""
    for name in ("sndhdr", "colorsys"):
        sys.modules.pop(name, None)
    write(repository, {"colorsys.py": "ours = 1\n", "a.py": "import colorsys\nmake = lambda: colorsys.rgb_to_hsv\n"})
    load("a.py:make")
    assert not hasattr(sys.modules["colorsys"], "ours")
    importlib.import_module("queue")


def test_a_copy_of_an_installed_package_is_theirs_inside_and_nobodys_outside(repository: Path) -> None:
    installed = importlib.import_module("jinja2")
    write(repository, {"jinja2/__init__.py": "mine = 3\n"})
    write(repository, {"b.py": "import jinja2\nfrom torch import nn\nmake = lambda: nn.Linear(1, jinja2.mine)\n"})
    model = load("b.py:make")
    assert isinstance(model, nn.Linear)
    assert model.out_features == 3
    assert importlib.import_module("jinja2") is installed
    assert importlib.import_module("jinja2.nodes").__name__ == "jinja2.nodes"


def test_an_autoattack_of_theirs_never_attacks(repository: Path) -> None:
    before = package()
    write(repository, {"autoattack/__init__.py": "AutoAttack = None\n"})
    load("net.py:make")
    assert importlib.util.find_spec("autoattack") is None
    assert package() == before


def test_what_the_model_imports_while_it_answers_is_found(repository: Path) -> None:
    write(repository, {"late_one.py": "scale = 2.0\n"})
    write(
        repository,
        {"c.py": "def answer(x):\n    from late_one import scale\n    return scale * x\nmake = lambda: answer"},
    )
    assert float(load("c.py:make")(torch.ones(()))) == 2.0


def test_a_bare_folder_does_not_hide_an_installed_package(repository: Path) -> None:
    write(repository, {"jinja2/readme.txt": ""})
    write(repository, {"d.py": "import jinja2\nfrom torch import nn\njinja2.Template\nnet = nn.Identity()\n"})
    assert isinstance(load("d.py:net"), nn.Identity)


def test_their_file_sees_no_arguments_of_ours(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["robustcl", "evaluate", "--eps", "8/255"])
    write(repository, {"e.py": "import argparse\nargparse.ArgumentParser().parse_args()\nmake = lambda: len\n"})
    assert callable(load("e.py:make"))
    assert sys.argv[1:] == ["evaluate", "--eps", "8/255"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing.py:make", "nothing.py: no such file, expected one with a function make"),
        ("net.py", "net.py: not a factory, expected path/to/file.py:name"),
        ("net.py:mak", "net.py: no function 'mak'; did you mean 'make'?"),
        ("nothing.at_all:make", "No module named 'nothing'"),
        ("bad.py:missing", "bad.py:missing: ModuleNotFoundError: No module named 'timmm' ("),
        ("bad2.py:make", "bad2.py:make: SyntaxError: "),
        ("bad3.py:boom", "bad3.py:boom: ValueError: two lines ("),
        ("bad3.py:depth", "bad3.py:depth: needs depth, expected a factory that is called without any"),
        ("bad3.py:none", "bad3.py:none: returned nothing, expected an nn.Module or a callable"),
        ("bad3.py:pair", "returned something of type tuple, expected an nn.Module"),
        ("bad3.py:number", "bad3.py:number: is something of type int, expected a function that returns a model"),
        ("bad3.py:leave", "bad3.py:leave: ended Python with exit code 2 instead of returning a model"),
    ],
)
def test_mistakes_are_one_line(repository: Path, target: str, says: str) -> None:
    write(repository, {"bad.py": "\nimport timmm\n", "bad2.py": "def make(:\n    pass\n"})
    write(
        repository,
        {
            "bad3.py": "import sys\nnumber = 3\n\ndef boom():\n    raise ValueError('two\\nlines')\n"
            "def depth(depth, width=3): pass\ndef none(): pass\ndef pair(): return (1, 2)\ndef leave(): sys.exit(2)\n"
        },
    )
    with pytest.raises(UserError) as caught:
        load(target)
    assert says in one_line(caught.value)


@pytest.mark.parametrize(("target", "place"), [("f.py:make", "g.py:2"), ("h.py:make", "h.py:1")])
def test_the_line_that_failed_is_named(repository: Path, target: str, place: str) -> None:
    write(repository, {"f.py": "import g\ndef make():\n    g.work()\n", "g.py": "def work():\n    return 1 / 0\n"})
    write(repository, {"h.py": "import torch; torch.nn.Linear('a', 2)\n"})  # fails deep in torch
    with pytest.raises(UserError) as caught:
        load(target)
    assert f"{repository / place})" in one_line(caught.value)
