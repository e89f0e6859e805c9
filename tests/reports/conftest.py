"""The only owner of the run folder that the tests of the reports share."""

from pathlib import Path

import pytest

from tests.reports.synthetic import plausible


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of five encoders, eight radii and 360 images; tests leave it as it is."""
    return plausible(tmp_path_factory.mktemp("quickstart") / "runs")
