"""The GitHub Action and the example repository: their steps and commands, run as a runner and a reader would."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robustcl.bench.datasets.digits import Digits
from robustcl.reports.baseline import Baseline, read_baseline, write_baseline
from tests.blocks import blocks, shell_source
from tests.forks import commands

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ci-gate"
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the example, and commands of this checkout on the path."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(EXAMPLE, folder / "repository")
    (folder / "bin").mkdir()
    with commands(folder / "bin", ROOT):
        yield folder


def bash(desk: Path, script: str, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A script as GitHub's runner runs it, in the copy of the example."""
    path = f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # The plugin comes from the checkout here, and from its entry point where robustcl is installed.
    plugin = "-p no:robustcl -p robustcl.testing -p no:cacheprovider"
    environment = os.environ | {"PATH": path, "PYTEST_ADDOPTS": plugin, **(settings or {})}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    folder = desk / "repository"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_command_of_the_example_runs_in_a_copy_of_it(desk: Path) -> None:
    """Gate, test suite, planted regression and new baseline; its own `models` folder is in nobody's way."""
    for block in blocks(EXAMPLE / "README.md"):
        done = bash(desk, shell_source(block))
        assert done.returncode == 0, f"README.md:{block.first}\n{done.stdout}{done.stderr}"


def test_the_workflow_of_the_example_gives_the_action_what_it_takes() -> None:
    workflow = yaml.safe_load((EXAMPLE / ".github/workflows/robustness.yml").read_text(encoding="utf-8"))
    (step,) = (step for step in workflow["jobs"]["gate"]["steps"] if "with" in step)
    given = step["with"]
    assert set(given) <= set(ACTION["inputs"])
    needed = {name for name, of in ACTION["inputs"].items() if of.get("required")}
    assert needed <= set(given)
    assert (EXAMPLE / given["baseline"]).is_file()
    assert (EXAMPLE / given["target"].partition(":")[0]).is_file()


def test_inputs_reach_scripts_as_variables_alone() -> None:
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert len(scripts) == 2
    assert not any("${{" in script for script in scripts)
    used = {name for step in STEPS for text in _texts(step) for name in re.findall(r"inputs\.([\w-]+)", text)}
    assert used == set(ACTION["inputs"]), "every input is read, and no other"


def _texts(step: Mapping[str, Any]) -> list[str]:
    held = [step.get("if", ""), step.get("working-directory", "")]
    return [*held, *step.get("env", {}).values(), *step.get("with", {}).values()]


def check(desk: Path, **settings: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str], str]:
    """The step that checks, with these inputs: how it ended, its outputs, and the job's summary."""
    step = next(step for step in STEPS if step.get("id") == "check")
    names = {name: re.findall(r"inputs\.([\w-]+)", text)[0] for name, text in step["env"].items()}
    values = {name: str(ACTION["inputs"][name_of].get("default", "")) for name, name_of in names.items()}
    files = {name: desk / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.write_text("")
    given = {**values, **{name: str(path) for name, path in files.items()}, **settings}
    done = bash(desk, step["run"], given)
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done, outputs, files["GITHUB_STEP_SUMMARY"].read_text()


@pytest.mark.parametrize(
    ("asked", "installed"), [("action", "[/some where]"), ("robustcl==0.1.0 x", "[robustcl==0.1.0][x]")]
)
def test_the_action_installs_the_robustcl_that_it_is_part_of(desk: Path, asked: str, installed: str) -> None:
    (step,) = (step for step in STEPS if "INSTALL" in step.get("env", {}))
    fake = desk / "pip" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text("#!/bin/sh\nshift 4\nprintf '[%s]' \"$@\"\n")
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done = bash(desk, step["run"], {"PATH": path, "INSTALL": asked, "GITHUB_ACTION_PATH": "/some where"})
    assert (done.returncode, done.stdout) == (0, installed), done.stderr


@pytest.fixture(scope="module")
def small(desk: Path) -> Path:
    """The example's network with a baseline of 60 images under one attack, and one that has lost its accuracy."""
    worse = "from load import model as whole\n\n\ndef model():\n    net = whole()\n"
    worse += "    net.layers[3].bias.data[0] += 999\n    return net\n"
    (desk / "repository" / "worse.py").write_text(worse)
    few, whole = Digits().load().test.sample(60), read_baseline(EXAMPLE / "baselines" / "net.parquet")
    rows = []
    for row in (row for row in whole.rows if row.judge in ("clean", "pgd-20")):
        kept = np.isin(row.image, few.index.numpy())
        part = {name: getattr(row, name)[kept] for name in ("image", "label", "right")}
        rows.append(replace(row, content=few.fingerprint, **part))
    write_baseline(desk / "repository" / "small.parquet", Baseline(rows=tuple(rows)))
    return desk


SMALL = {"TARGET": "load.py:model", "BASELINE": "small.parquet", "SEQUENTIAL": "true"}


def test_the_action_passes_what_is_ok(small: Path) -> None:
    done, outputs, summary = check(small, **SMALL, MARGIN="30")
    assert done.returncode == 0, done.stdout + done.stderr
    assert outputs == {"outcome": "ok", "junit": "robustcl.xml", "summary": "robustcl.md"}
    assert "### robustcl check: OK" in summary
    assert (small / "repository" / "robustcl.xml").is_file()


def test_the_action_fails_on_a_regression(small: Path) -> None:
    done, outputs, summary = check(small, **{**SMALL, "TARGET": "worse.py:model"}, MARGIN="5")
    assert done.returncode == 1, done.stdout + done.stderr
    assert outputs["outcome"] == "regression"
    assert "### robustcl check: REGRESSION" in summary


def test_the_action_says_how_many_images_could_tell(small: Path) -> None:
    done, outputs, summary = check(small, **SMALL)
    assert done.returncode == 3, done.stdout + done.stderr
    assert outputs["outcome"] == "undecided"
    assert "CANNOT TELL: takes" in summary


@pytest.mark.parametrize(("summary", "outcome", "code"), [("what it came to", "undecided", 0), ("", "error", 3)])
def test_what_cannot_be_told_passes_where_it_may_and_lost_work_never(
    desk: Path, summary: str, outcome: str, code: int
) -> None:
    fake = desk / "fake" / "robustcl"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f"#!/bin/sh\nprintf '{summary}' > none.md\nexit 3\n")
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done, outputs, told = check(desk, **SMALL, PATH=path, UNDECIDED="pass", JUNIT="none.xml")
    assert done.returncode == code
    assert outputs["outcome"] == outcome
    assert told == summary
    assert ("::warning::" in done.stdout) == (code == 0)


def test_text_in_an_input_is_never_run(desk: Path) -> None:
    bad = "$(touch hacked); touch hacked #`touch hacked`"
    done, outputs, _ = check(desk, TARGET=bad, BASELINE="baselines/net.parquet", MARGIN="5", UNDECIDED="fail")
    assert done.returncode == 2
    assert outputs["outcome"] == "error"
    assert not (desk / "repository" / "hacked").exists()
    for wrong in (
        {"UNDECIDED": "maybe"},
        {"SEQUENTIAL": "yes"},
        {"JUNIT": "a\noutcome=ok"},
        {"JUNIT": "a\routcome=ok"},
    ):
        done, outputs, _ = check(desk, **{**SMALL, **wrong})
        assert done.returncode == 2
        assert done.stdout.startswith("::error::")
        assert not outputs


def test_packages_may_stand_on_several_lines_and_are_never_run(desk: Path) -> None:
    fake = desk / "pip" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    (script,) = (step["run"] for step in STEPS if "INSTALL" in step.get("env", {}))
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done = bash(desk, script, {"PATH": path, "INSTALL": "robustcl $(touch hacked)\n  pytest\n"})
    assert done.stdout.split() == ["-m", "pip", "install", "--", "robustcl", "$(touch", "hacked)", "pytest"]
    assert not (desk / "repository" / "hacked").exists()
