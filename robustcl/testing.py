"""The only owner of the pytest plugin: its options and its fixture. What they need is imported when a test asks."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustcl.guard import Guard


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--robustcl-baseline`, `--robustcl-bless`, and what pytest's configuration may say in their place."""
    group = parser.getgroup("robustcl", "robust accuracy against a baseline")
    group.addoption("--robustcl-baseline", metavar="FILE", help="the baseline that robust_accuracy checks against")
    group.addoption("--robustcl-bless", action="store_true", help="write the baseline instead; never in CI")
    parser.addini("robustcl_baseline", "the baseline, relative to the root of the tests")
    parser.addini("robustcl_undecided", "a check that cannot tell: skip (default), fail or pass", default="skip")


@pytest.fixture
def robust_accuracy(request: pytest.FixtureRequest) -> "Guard":
    """Compares a model with the baseline: `robust_accuracy.check(model, images, labels, threat="8/255")`."""
    from robustcl.guard import Guard

    config = request.config
    given, written = config.getoption("--robustcl-baseline"), config.getini("robustcl_baseline")
    path = config.invocation_params.dir / given if given else config.rootpath / written if written else None
    return Guard(
        name=request.node.name,
        baseline=Path(path) if path else None,
        bless=config.getoption("--robustcl-bless"),
        undecided=config.getini("robustcl_undecided"),
        alone=not hasattr(config, "workerinput"),
    )
