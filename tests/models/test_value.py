"""Tests of values: every mistake in a table is one line with the place, what was expected and the nearest name."""

from fractions import Fraction
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from robustcl.models.errors import UserError
from robustcl.models.value import digest, fraction, likely, merge, plain, read, value


@value
class Round:
    name: Literal["round"] = "round"
    radius: float = 1.0


@value
class Square:
    name: Literal["square"] = "square"
    side: float = 1.0
    thickness: float = 0.5


Form = Annotated[Round | Square, Field(discriminator="name")]


@value
class Inner:
    depth: int = 1
    color: Literal["red", "green"] = "red"


@value
class Outer:
    inner: Inner = Inner(depth=5)
    form: Form = Square(side=3)
    forms: tuple[Form, ...] = ()
    size: int = Field(default=2, ge=1)


@value
class Needy:
    must: int
    inner: Inner = Inner(depth=7, color="green")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"sise": 3}, "w: unknown key 'sise', expected one of form, forms, inner, size; did you mean 'size'?"),
    ({"inner": {"dept": 3}}, "w.inner: unknown key 'dept', expected one of color, depth; did you mean 'depth'?"),
    ({"size": "three"}, "w.size: 'three' is wrong, expected a valid integer"),
    ({"size": 0}, "w.size: 0 is wrong, expected greater than or equal to 1"),
    ({"inner": 3}, "w.inner: 3 is wrong, expected"),
    ({"inner": {"color": "gren"}}, "w.inner.color: 'gren' is wrong, expected 'red' or 'green'; did you mean 'green'?"),
    ({"inner": {"color": "rd"}}, "w.inner.color: 'rd' is wrong, expected 'red' or 'green'; did you mean 'red'?"),
    (
        {"form": {"name": "squar"}},
        "w.form: unknown name 'squar', expected one of round, square; did you mean 'square'?",
    ),
    (
        {"forms": [{"name": "roun"}]},
        "w.forms.0: unknown name 'roun', expected one of round, square; did you mean 'roun",
    ),
    ({"forms": [{"radius": 1}]}, "w.forms.0: missing key 'name', expected one of round, square"),
    ({"form": {"sid": 1}}, "w.form.square: unknown key 'sid', expected one of name, side, thickness; did you m"),
    (
        {"form": {"name": "round", "radus": 1}},
        "w.form.round: unknown key 'radus', expected one of name, radius; did you mean",
    ),
    ({"forms": [{"name": "round"}, {"name": "square", "sde": 1}]}, "w.forms.1.square: unknown key 'sde', expec"),
    ({"form": {"name": "round", "radius": "big"}}, "w.form.round.radius: 'big' is wrong, expected a valid number"),
]


@pytest.mark.parametrize(("table", "message"), MISTAKES, ids=lambda given: str(given)[:40])
def test_a_mistake_in_a_table_is_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(Outer, table, "w")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_name_without_a_near_one_gets_no_hint() -> None:
    with pytest.raises(UserError, match=r"^w\.form: unknown name 'zzz', expected one of round, square$"):
        read(Outer, {"form": {"name": "zzz"}}, "w")


def test_the_unknown_key_is_named_before_what_it_is_the_reason_for() -> None:
    with pytest.raises(UserError, match=r"^w: unknown key 'mut', expected one of inner, must; did you mean 'must'\?$"):
        read(Needy, {"mut": 1}, "w")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match=r"^w\.must: missing, expected a value$"):
        read(Needy, {}, "w")
    with pytest.raises(UserError, match=r"^Needy\.must: missing, expected a value$"):
        Needy()  # type: ignore[call-arg]


def test_mistakes_in_python_are_the_same_one_line() -> None:
    given: Any = {"sise": 3}
    with pytest.raises(UserError, match=r"^Outer: unknown key 'sise', .*did you mean 'size'\?$"):
        Outer(**given)
    nested: Any = {"dept": 1}
    with pytest.raises(UserError, match=r"^Outer\.inner: unknown key 'dept', expected one of color, depth"):
        Outer(inner=nested)


def test_values_are_frozen_keyword_only_and_hashable() -> None:
    of = Outer()
    with pytest.raises(AttributeError):
        of.size = 3  # type: ignore[misc]
    with pytest.raises((TypeError, UserError)):
        Outer(Inner())  # type: ignore[call-arg]
    assert {of: 1}[Outer()] == 1


def test_tables_merge_with_the_default_table_within_table() -> None:
    assert read(Outer, {"inner": {"color": "green"}}, "w").inner == Inner(depth=5, color="green")
    assert read(Outer, {"form": {"thickness": 2}}, "w").form == Square(side=3, thickness=2)
    assert read(Outer, {}, "w") == Outer()


def test_tables_merge_also_where_another_field_is_required() -> None:
    assert read(Needy, {"must": 1, "inner": {"depth": 2}}, "w").inner == Inner(depth=2, color="green")


def test_a_table_of_another_name_replaces_the_default_whole() -> None:
    assert read(Outer, {"form": {"name": "round"}}, "w").form == Round()
    assert read(Outer, {"form": {"name": "square"}}, "w").form == Square(side=3)


def test_merge_leaves_what_it_merges_alone() -> None:
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}}
    assert merge(old, new) == {"a": {"b": 4, "c": 2}, "d": 3}
    assert (old, new) == ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}})


def test_plain_round_trips() -> None:
    of = Outer(forms=(Round(radius=2), Square()), size=4)
    assert read(Outer, plain(of), "w") == of


def test_digest_is_stable_and_tells_contents_apart() -> None:
    assert digest({"b": 1, "a": [1, "x"]}) == digest({"a": [1, "x"], "b": 1}) == "a88dede55f330dba"
    assert digest({"a": 1}) != digest({"a": "1"}) != digest({"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))


@pytest.mark.parametrize("given", ["8/255", Fraction(8, 255)])
def test_exact_numbers_are_taken(given: object) -> None:
    assert fraction(given, "eps") == Fraction(8, 255)
    assert fraction("0.5", "eps") == Fraction(1, 2)
    assert fraction(2, "eps") == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0314, r"eps: 0.0314 is not exact, .*; did you mean '8/255'\?"),
        (0.5, r"eps: 0.5 is not exact, .*; did you mean '1/2'\?"),
        (True, "eps: True is not exact"),
        (None, "eps: None is not exact"),
        ("8/0", "eps: '8/0' is not a number"),
        ("eight", "eps: 'eight' is not a number"),
    ],
)
def test_inexact_numbers_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fraction(given, "eps")


def test_the_likely_fraction() -> None:
    assert likely(0.031) == Fraction(8, 255)
    assert likely(0.0157) == Fraction(4, 255)
    assert likely(0.25) == Fraction(1, 4)
