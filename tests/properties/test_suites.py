"""Suites as nobody writes them: from any table a typed suite, or one clean line."""

import json
import tomllib
from random import Random
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from robustcl.bench.spec import read_suite
from robustcl.bench.suite import Suite, resolved
from robustcl.bench.tables import merged, suites
from robustcl.models.value import digest
from tests.bench.tiny import TINY
from tests.fuzz.targets.suite import MORE
from tests.fuzz.trees import mutated
from tests.properties.lines import answer

TABLES = [tomllib.loads(TINY), tomllib.loads(TINY + MORE), *(merged(path)[0] for path in list(suites().values())[::4])]
PATHS = st.lists(
    st.sampled_from(["data", "pretrain", "at", "ascent", "steps", "judge", "images", "threat", "eps", "x", "", "grid"]),
    min_size=1,
    max_size=4,
).map(".".join)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(["digits", "8/255"])
)
TREES = st.recursive(LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part))


@given(st.sampled_from(TABLES), st.integers(0, 2**32))
def test_a_suite_changed_at_a_few_places_is_read_or_refused_in_one_line(table: dict[str, Any], seed: int) -> None:
    changed = mutated(table, Random(seed))
    assume(isinstance(changed, dict))  # a file of TOML is a table
    _whole(answer(lambda: read_suite("odd", table=changed)))


@given(st.dictionaries(st.sampled_from([*TABLES[1], "other"]), TREES, max_size=4))
def test_any_table_in_place_of_one_of_a_suite_is_one_line(parts: dict[str, Any]) -> None:
    _whole(answer(lambda: read_suite("odd", table={**tomllib.loads(TINY), **parts})))


@given(PATHS, st.one_of(st.text(max_size=30), st.integers().map(str), st.just("[" * 5000), TREES.map(repr)))
@example("judge.images", "nan")
@example("threat.eps", '"1e999999999"')
def test_an_override_is_taken_or_refused_in_one_line(path: str, text: str) -> None:
    table = tomllib.loads(TINY)
    _whole(answer(lambda: read_suite("odd", [f"{path}={text}"], table=table)))


@given(st.text(max_size=200))
def test_any_text_as_override_is_one_line(text: str) -> None:
    _whole(answer(lambda: read_suite("odd", [text], table=tomllib.loads(TINY))))


def _whole(found: list[Suite] | None) -> None:
    """What was read can be written down: into `suite.json`, and into the key of a stage."""
    for suite in found or ():
        assert suite.judge.batch >= 1
        digest(json.loads(json.dumps(resolved(suite), allow_nan=False)))
