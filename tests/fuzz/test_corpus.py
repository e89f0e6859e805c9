"""The corpus of the fuzz, without atheris: every kept input is read, or refused in one clean line."""

from random import Random

import pytest

from tests.fuzz.__main__ import CORPUS, MOST, WEIGHT, main
from tests.fuzz.target import find, names


@pytest.mark.parametrize("name", names())
def test_every_kept_input_is_read_or_refused_in_one_line(name: str) -> None:
    target = find(name)
    kept = sorted((CORPUS / name).iterdir())
    assert kept, f"no corpus, expected files in {CORPUS / name}"
    for path in kept:
        try:
            target.accept(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{name}: {path.name} raises {error!r}, expected a clean line") from error


@pytest.mark.parametrize("name", names())
def test_seeds_are_what_their_reader_takes_and_mutations_change_them(name: str) -> None:
    target = find(name)
    for one, data in target.seeds().items():
        target.accept(data)
        changed = [_changed(target.mutate, data, seed) for seed in range(20)]
        assert sum(of not in (None, data) for of in changed) >= 10, f"{name}: {one} keeps its bytes"


def _changed(mutate, data, seed):  # type: ignore[no-untyped-def]
    return mutate(data, Random(seed))


@pytest.mark.parametrize("name", names())
def test_the_corpus_of_a_target_stays_small(name: str) -> None:
    kept = list((CORPUS / name).iterdir())
    assert len(kept) <= MOST
    assert sum(path.stat().st_size for path in kept) <= WEIGHT


def test_without_atheris_the_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--runs", "1", "--target", "labels"]) == 2
    assert capsys.readouterr().out == (
        "python -m tests.fuzz: atheris is not installed, expected the extra 'fuzz'; see tox -e fuzz\n"
    )
