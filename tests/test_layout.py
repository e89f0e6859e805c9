"""The only owner of the tests of the house itself: rooms, floors, front door, wheel and declared dependencies."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import robustcl

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ["models", "pretraining", "bench", "reports"]
ROOMS = [path for room in FLOORS for path in sorted((ROOT / room).rglob("*.py"))]
DOOR = sorted((ROOT / "robustcl").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name(path))


def imports(of: ast.AST) -> Iterator[str]:
    """Every dotted name that an import statement below `of` asks for, `robustcl.models.threat.Threat` for example."""
    for node in ast.walk(of):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def disguised(of: ast.AST) -> Iterator[str]:
    """Every module or name of ours below `of` that is asked for without an import: as text or as an attribute."""
    for node in ast.walk(of):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^robustcl(?:\.\w+)+$", node.value)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "robustcl":
            yield f"robustcl.{node.attr}"


def top(module: str) -> str:
    return module.partition(".")[0]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", ROOMS, ids=name)
def test_imports_point_down(path: Path) -> None:
    below = FLOORS[: FLOORS.index(path.relative_to(ROOT).parts[0]) + 1]
    ours = [module.split(".") for module in [*imports(tree(path)), *disguised(tree(path))]]
    asked = {parts[1] for parts in ours if parts[0] == "robustcl" and len(parts) > 1}
    up = {part for part in asked if part not in below and not part.startswith("__")}  # the version is no door
    assert not up, f"{name(path)} reaches up to {sorted(up)}, expected only {below}"


@pytest.mark.parametrize("path", [*ROOMS, *DOOR, *TESTS], ids=name)
def test_no_plain_and_no_relative_imports(path: Path) -> None:
    # `import models.threat` would be a second copy of the classes, or the `models` folder of somebody else.
    plain = {module for module in imports(tree(path)) if top(module) in ("", *FLOORS)}
    assert not plain, f"{name(path)} imports {sorted(plain)}, expected robustcl.<room>..."


@pytest.mark.parametrize("path", [*ROOMS, *DOOR, *filter(Path.read_bytes, TESTS)], ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert (ast.get_docstring(tree(path)) or "").partition("\n")[0]


def mentions_torchvision(of: ast.AST) -> bool:
    calls = (node for node in ast.walk(of) if isinstance(node, ast.Call) and node.args)
    loads = (call.args[0] for call in calls if ast.unparse(call.func).endswith(("import_module", "__import__")))
    asked = [arg.value for arg in loads if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return any(top(module) == "torchvision" for module in [*imports(of), *asked])


def test_torchvision_has_one_owner_and_is_late() -> None:
    assert [name(path) for path in [*ROOMS, *DOOR] if mentions_torchvision(tree(path))] == ["models/vision.py"]
    late = python("-c", "import sys, robustcl.models.vision; sys.exit('torchvision' in sys.modules)")
    assert late.returncode == 0, late.stderr


def test_reports_import_without_torch() -> None:
    modules = [name(path)[:-3].replace("/", ".") for path in ROOMS if name(path).startswith("reports/")]
    wanted = ["robustcl", *(f"robustcl.{module.removesuffix('.__init__')}" for module in modules)]
    assert "robustcl.reports" in wanted
    code = f"import importlib, sys\nfor name in {wanted}:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name + ' imports torch'"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_lost_links_are_one_clear_line(tmp_path: Path) -> None:
    door = tmp_path / "robustcl"
    door.mkdir()
    for path in DOOR:
        shutil.copy(path, door)
    for room in FLOORS:
        (door / room).write_text(f"../{room}")  # what git leaves where links are not supported
    done = python("-c", "import robustcl", cwd=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("ImportError: ")]
    assert said == done.stderr.splitlines()[-1:]
    assert "links" in said[0]


def test_links_are_relative_and_complete() -> None:
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "robustcl").iterdir() if path.is_symlink()}
    assert links == {room: f"../{room}" for room in FLOORS}


def test_public_names_load() -> None:
    for public in robustcl.__all__:
        assert getattr(robustcl, public).__name__ == public
    assert set(robustcl.__all__) < set(dir(robustcl))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'robustcl' has no attribute 'nothing'"):
        _ = robustcl.nothing


def test_citation_has_the_version() -> None:
    assert f"\nversion: {robustcl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def package(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0]


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_gate_runs_with_one_version_of_everything() -> None:
    pinned = {package(line) for line in (ROOT / "constraints" / "ci.txt").read_text(encoding="utf-8").splitlines()}
    extras = [text for of in project()["optional-dependencies"].values() for text in of]
    asked = {package(text) for text in [*project()["dependencies"], *extras]}
    assert asked - {"robustcl"} == pinned - {""}


def test_imports_are_declared() -> None:
    imported_as = {"pillow": "PIL", "scikit-learn": "sklearn"}
    packages = [package(text) for text in project()["dependencies"]]
    declared = {imported_as.get(name, name) for name in packages}
    optional = {"autoattack", "pytest", "robustbench", "tensorboard"}  # taken when present
    asked = {top(module) for path in [*ROOMS, *DOOR] for module in imports(tree(path))}
    assert not asked - declared - optional - {"robustcl"} - sys.stdlib_module_names


def test_the_wheel_holds_every_file() -> None:
    """Only where the package is installed as users get it, which in the gate it is."""
    try:
        files = importlib.metadata.files("robustcl") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("robustcl is not installed")
    packed = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    if "robustcl/__init__.py" not in packed:
        pytest.skip("robustcl is installed from the checkout")
    rooms = [path for room in FLOORS for path in (ROOT / room).rglob("*") if path.is_file()]
    wanted = {f"robustcl/{name(path)}" for path in rooms if "__pycache__" not in path.parts}
    wanted |= {name(path) for path in [*DOOR, ROOT / "robustcl" / "py.typed"]}
    assert {path for path in packed if path.startswith("robustcl/")} == wanted
