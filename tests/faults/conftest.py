"""The only owner of what commands in forks need: everything imported once, and no figures drawn."""

from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(scope="package")
def imported() -> Iterator[None]:
    """What a command imports, once. Figures are most of the time of a report, and written like the rest of it."""
    import sklearn.datasets
    import torch._dynamo

    from robustcl import gate, judging
    from robustcl.bench import runner
    from robustcl.reports import card, checked, drawing, named, report, robustbench

    assert all((sklearn.datasets, torch._dynamo, gate, judging, runner, card, checked, named, report, robustbench))
    with mock.patch.object(drawing, "save", return_value=[]):
        yield
