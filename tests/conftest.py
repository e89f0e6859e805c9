"""The only owner of what holds for every test: one thread, no window, and the flag for golden numbers."""

import os

import pytest

# Processes that tests start inherit both. Two threads on two busy cores are far slower than one.
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="rewrite the golden numbers; the run still fails")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
