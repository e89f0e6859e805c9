"""The corpus of the fuzz, without atheris: every kept input is read, or refused in one clean line."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.__main__ import CORPUS, KEPT, MOST, WEIGHT, main
from tests.fuzz.target import Target, find, names


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", names())
def test_every_kept_input_is_read_or_refused_in_one_line(name: str, every: int) -> None:
    """In the gate what has a name, as it once broke a reader, and one in four of what the fuzz kept."""
    target = find(name)
    kept = sorted((CORPUS / name).iterdir())
    assert kept, f"no corpus, expected files in {CORPUS / name}"
    found = [path for path in kept if KEPT.fullmatch(path.name)]
    for path in (*(path for path in kept if path not in found), *found[::every]):
        try:
            target.accept(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{name}: {path.name} raises {error!r}, expected a clean line") from error


@pytest.mark.parametrize("name", names())
def test_seeds_are_what_their_reader_takes_and_mutations_change_them(name: str) -> None:
    target = find(name)
    for one, data in target.seeds().items():
        target.accept(data)
        assert len({_changed(target, data, seed) for seed in range(20)} - {data}) >= 5, f"{name}: {one} keeps its bytes"


def _changed(target: Target, data: bytes, seed: int) -> bytes:
    """The file changed, or as it is where it is not of the structure that is changed."""
    try:
        return target.mutate(data, Random(seed))
    except Exception:  # as the fuzz takes it
        return data


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


def test_what_was_found_before_is_found_again_and_an_early_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finding has one name however often it is found, and a process that is killed leaves none."""
    ends = [(77, "finding"), (77, "finding"), (-9, ""), (0, "")]

    def process(name: str, flags: list[str], place: Path) -> tuple[int, str]:
        code, wrote = ends.pop(0)
        if wrote:
            (place / "found" / f"{name}-crash-1").write_text(wrote)
        return code, "stat::number_of_executed_units: 7\n"

    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("tests.fuzz.__main__._process", process)
    words = ["--runs", "7", "--target", "labels", "--findings", str(tmp_path / "findings")]
    assert [main(words) for _ in range(4)] == [1, 1, 1, 0]
    assert [path.name for path in (tmp_path / "findings").iterdir()] == ["labels-crash-1"]
    assert "labels: ended early" in capsys.readouterr().out
