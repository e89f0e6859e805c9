"""The workflows: least permissions, actions of a fixed version, and no text of strangers in a script."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_layout import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    """A workflow as GitHub reads it, but that YAML takes its `on` for true."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs of a workflow."""
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_runs_no_text_of_strangers(path: Path) -> None:
    held = read(path)
    allowed = [held.get("permissions"), *(job.get("permissions") for job in held["jobs"].values())]
    assert {"contents": "read"} in allowed
    assert all(one in (None, {"contents": "read"}) for one in allowed)
    assert "pull_request_target" not in held[True]
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "an expression in a script is run as text"
        used = step.get("uses", "./")
        assert used.startswith("./") or re.search(r"@(v\d|[0-9a-f]{40})", used), f"{used}: of no fixed version"


def test_dependencies_are_looked_up_and_secrets_searched_for() -> None:
    path = ROOT / ".github" / "workflows" / "security.yml"
    held, scripts = read(path), "\n".join(step.get("run", "") for step in steps(path))
    assert {"push", "pull_request", "schedule"} <= set(held[True])
    assert re.search(r"pip install pip-audit==\d", scripts)
    assert re.search(r"pip install detect-secrets==\d", scripts)
    assert "git ls-files -z | xargs -0 detect-secrets-hook" in scripts
    assert not any(step.get("continue-on-error") for step in steps(path))


def test_the_security_policy_says_what_is_promised_and_where_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "security advisory" in text
    for name in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / name).exists(), f"SECURITY.md names {name}, which is not there"
    for name in re.findall(r"`((?:models|bench|reports)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), f"SECURITY.md names {name}, which is not there"
