"""The pytest plugin, as in somebody's own test suite: it gates, it blesses, and it stays out of the way."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustcl import guard
from robustcl.bench.datasets.digits import Digits
from robustcl.reports.baseline import read_baseline

pytest_plugins = ["pytester"]
HELD = (guard, Digits().load())  # imported here: pytester forgets after each run what was imported in it

TEST = """
import torch
from torch import nn

from robustcl.bench.datasets.digits import Digits


def model(noise=0.0):
    train = Digits().load().train
    x = train.floats(slice(None)).flatten(1)
    means = torch.stack([x[train.labels == label].mean(0) for label in range(10)])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(means + noise * torch.randn(10, 64))
        net[1].bias.copy_(-(means**2).sum(1) / 2)
    return net


def test_robust(robust_accuracy):
    test = Digits().load().test.take(slice(0, 100))
    images, labels = test.floats(slice(None)), test.labels
    robust_accuracy.check(model(NOISE), images, labels, threat="1/20", attacks=["pgd-1"], margin=MARGIN)
"""


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def run(
    pytester: pytest.Pytester, *words: str, noise: float = 0.0, margin: float = 0.1, baseline: str = "base.parquet"
) -> pytest.RunResult:
    pytester.makepyfile(test_gate=TEST.replace("NOISE", str(noise)).replace("MARGIN", str(margin)))
    options = ("--robustcl-baseline", baseline) if baseline else ()
    return pytester.runpytest_inprocess("-p", "no:robustcl", "-p", "robustcl.testing", "-rA", *options, *words)


def test_a_test_is_blessed_then_passes_and_fails_only_on_regression(pytester: pytest.Pytester) -> None:
    first = run(pytester)
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*base.parquet: no such file, expected a baseline; pytest --robustcl-bless*"])
    told = run(pytester, "--robustcl-bless")
    told.assert_outcomes(skipped=1)
    told.stdout.fnmatch_lines(["*blessed test_robust into *base.parquet: clean *, pgd-1 *"])
    rows = read_baseline(pytester.path / "base.parquet").rows
    assert [(row.encoder, row.judge, row.eps, row.n) for row in rows] == [
        ("test_robust", "clean", "-", 100),
        ("test_robust", "pgd-1", "1/20", 100),
    ]
    run(pytester).assert_outcomes(passed=1)
    worse = run(pytester, noise=0.5)
    worse.assert_outcomes(failed=1)
    worse.stdout.fnmatch_lines(["*REGRESSION: of 2 rows*", "*| REGRESSION *| test_robust *"])
    assert "guard.py" not in worse.stdout.str(), "the table and no traceback of ours"


@pytest.mark.parametrize(("does", "outcome"), [("skip", "skipped"), ("fail", "failed"), ("pass", "passed")])
def test_a_check_that_cannot_tell_does_what_the_user_chose(pytester: pytest.Pytester, does: str, outcome: str) -> None:
    run(pytester, "--robustcl-bless").assert_outcomes(skipped=1)
    pytester.makeini(
        f"[pytest]\nrobustcl_undecided = {does}\nrobustcl_baseline = base.parquet\nfilterwarnings = default"
    )
    told = run(pytester, margin=0.001, baseline="")
    told.assert_outcomes(**{outcome: 1}, warnings=1 if does == "pass" else 0)
    told.stdout.fnmatch_lines(["*CANNOT TELL: takes * images*"])


def test_blessing_keeps_other_rows_and_says_a_name_that_is_near(pytester: pytest.Pytester) -> None:
    run(pytester, "--robustcl-bless").assert_outcomes(skipped=1)
    pytester.makepyfile(test_gate=(pytester.path / "test_gate.py").read_text().replace("test_robust(", "test_robusts("))
    words = ("-p", "no:robustcl", "-p", "robustcl.testing", "-rA", "--robustcl-baseline", "base.parquet")
    told = pytester.runpytest_inprocess(*words)
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines(["*unknown row 'test_robusts'*did you mean 'test_robust'*--robustcl-bless adds it*"])
    pytester.runpytest_inprocess(*words, "--robustcl-bless").assert_outcomes(skipped=1)
    assert {row.encoder for row in read_baseline(pytester.path / "base.parquet").rows} == {
        "test_robust",
        "test_robusts",
    }


def test_nothing_is_blessed_in_ci(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    told = run(pytester, "--robustcl-bless")
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines(["*--robustcl-bless: this is CI*"])
    assert not (pytester.path / "base.parquet").exists()


def test_mistakes_are_a_line(pytester: pytest.Pytester) -> None:
    told = run(pytester, baseline="")
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines(["robust_accuracy: no baseline, expected --robustcl-baseline FILE*"])
    pytester.makeini("[pytest]\nrobustcl_undecided = skipp")
    told = run(pytester)
    told.stdout.fnmatch_lines(["robust_accuracy: *'skipp'*did you mean 'skip'*"])
    pytester.makeini("[pytest]")
    pytester.makepyfile(test_gate=(pytester.path / "test_gate.py").read_text().replace('"1/20"', '"far"'))
    told = pytester.runpytest_inprocess("-p", "no:robustcl", "-p", "robustcl.testing")
    told.stdout.fnmatch_lines(["robust_accuracy: Threat.eps: *'far'*"])


def test_a_baseline_of_another_attack_is_refused(pytester: pytest.Pytester) -> None:
    run(pytester, "--robustcl-bless")
    path = pytester.makepyfile(test_gate=(pytester.path / "test_gate.py").read_text().replace('"1/20"', '"1/10"'))
    told = pytester.runpytest_inprocess(
        "-p", "no:robustcl", "-p", "robustcl.testing", "--robustcl-baseline", "base.parquet", path
    )
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines(["*the baseline's is of linf 1/20 and the run's of linf 1/10*"])


def test_the_plugin_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, robustcl.testing; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    root = Path(__file__).resolve().parent.parent
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert told.stdout.strip() == "[]"
