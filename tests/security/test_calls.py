"""Over the syntax trees: nothing in the rooms runs code that it reads, and one place runs code that it is given."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layout import DOOR, ROOMS, name, tree

BANNED = {
    "pickle.load", "pickle.loads", "pickle._load", "pickle._loads", "marshal.load", "marshal.loads", "shelve.open",
    "dill.load", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load",
    "runpy.run_path", "runpy.run_module", "input",
}  # fmt: skip
IMPORTS = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "runpy", "code", "xml.dom", "xml.sax"}
# Who may import what is found by name: plug-ins of our own rooms, packages, and the one place for foreign code.
DYNAMIC = {
    "robustcl/__init__.py", "models/plugin.py", "models/vision.py", "bench/zoo.py", "bench/autoattack/reference.py",
    "bench/foreign.py", "bench/cluster.py",
}  # fmt: skip


def calls(of: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call below `of`, with what is called as it is written: `torch.load`."""
    for node in ast.walk(of):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(call: ast.Call, keyword: str) -> str | None:
    """What a call gives for a keyword, as it is written."""
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == keyword), None)


def wrong(of: ast.AST) -> Iterator[str]:
    """Every call below `of` that could run what it reads."""
    for called, call in calls(of):
        if called in BANNED:
            yield called
        if called in ("torch.load", "torch.hub.load_state_dict_from_url") and given(call, "weights_only") != "True":
            yield f"{called} without weights_only=True"
        if (
            called.endswith(("np.load", "numpy.load", "read_array", "NpzFile"))
            and given(call, "allow_pickle") != "False"
        ):
            yield f"{called} without allow_pickle=False"
        if called.startswith("subprocess.") and given(call, "shell") not in (None, "False"):
            yield f"{called} with a shell"
        if called.endswith((".extractall", ".extract")):
            yield f"{called}, which a member could leave the folder with"
        if called.endswith("unpack_archive") and not any(
            one.arg == "filter" or one.arg is None for one in call.keywords
        ):
            yield f"{called} without a filter"


@pytest.mark.parametrize("path", [*ROOMS, *DOOR], ids=name)
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert not list(wrong(tree(path)))
    nodes = list(ast.walk(tree(path)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    unpickling = IMPORTS & (plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)})
    arrays_alone = {"pickle"} if name(path) == "bench/datasets/cifar10.py" else set()  # see test_reading
    assert unpickling == arrays_alone


@pytest.mark.parametrize("path", [*ROOMS, *DOOR], ids=name)
def test_code_is_found_by_name_in_few_places(path: Path) -> None:
    ways = ("import_module", "exec_module", "module_from_spec", "spec_from_file_location", "__import__")
    held = [called for called, _ in calls(tree(path)) if called.rpartition(".")[2] in ways]
    assert not held or name(path) in DYNAMIC


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)", "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "eval('1')",
        "np.load(path, allow_pickle=True)", "subprocess.run(line, shell=True)", "os.system(line)", "yaml.load(text)",
        "tarfile.open(path).extractall(folder)", "shutil.unpack_archive(path, folder)",
        "np.lib.format.read_array(file)",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(line: str) -> None:
    assert list(wrong(ast.parse(line)))
