"""The only owner of how values are declared, read and written: frozen pydantic dataclasses with one-line errors."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from robustcl.models.errors import UserError, nearest

T = TypeVar("T")
Table = dict[str, Any]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def value(cls: type[T]) -> type[T]:
    """Declare a frozen, keyword-only value whose fields are checked; a wrong one is a one-line `UserError`."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True)
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise UserError(explain(error, cls.__name__, list(made.__dataclass_fields__))) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def read(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A value from a table of a file: fields that are left out keep the default, also in tables within tables.

    Errors: `UserError` that names `where`, what was expected and the nearest key.
    """
    defaults = _defaults(cls)
    try:
        made: T = _adapter(cls).validate_python(merge(defaults, table))
        return made
    except ValidationError as error:
        raise UserError(explain(error, where, _known(error, cls, defaults))) from None


def merge(defaults: Mapping[str, Any], table: Mapping[str, Any]) -> Table:
    """`defaults` overlaid by `table`, table within table; a table with another `name` replaces the default whole."""
    merged = dict(defaults)
    for key, new in table.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(new, Mapping)
        same = both and new.get("name", old.get("name")) == old.get("name")  # type: ignore[union-attr]
        merged[key] = merge(old, new) if same else new  # type: ignore[arg-type]
    return merged


def plain(of: Any) -> Any:
    """A value as what JSON and TOML can hold."""
    return _adapter(type(of)).dump_python(of, mode="json")


def digest(of: Any) -> str:
    """The hash of something plain: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(of, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fraction(text: object, where: str) -> Fraction:
    """An exact number from a text such as `8/255` or `0.5`, an int or a `Fraction`; a float is refused.

    Errors: `ValueError`, since 8/255 has no exact float and 0.0314 is not 8/255.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, Fraction)):
        hint = f"; did you mean '{likely(float(text))}'?" if isinstance(text, float) else ""
        raise ValueError(f"{where}: {text!r} is not exact, expected a fraction in quotes such as '8/255'{hint}")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{where}: {text!r} is not a number, expected a fraction such as '8/255'") from None


def likely(number: float) -> Fraction:
    """The fraction that somebody who wrote this decimal probably meant: k/255 where that is near, else its own."""
    grey = Fraction(round(number * 255), 255)
    return grey if grey and abs(float(grey) - number) < 5e-4 else Fraction(str(number)).limit_denominator(10**6)


def explain(error: ValidationError, where: str, known: list[str]) -> str:
    """The first of pydantic's complaints as one line."""
    first = _first(error)
    place = ".".join([where, *(str(part) for part in first["loc"] if part not in ("function-after", "dataclass"))])
    key = str(first["loc"][-1]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _UNKNOWN:
        parent = place.rpartition(".")[0]
        return f"{parent}: unknown key '{key}', expected one of {', '.join(known)}{nearest(key, known)}"
    if first["type"].startswith("missing"):
        return f"{place}: missing, expected a value"
    if first["type"] == "value_error":
        return f"{place}: {message.removeprefix(place.rpartition('.')[2] + ': ')}"
    hint = ""
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        hint = nearest(first["input"], [part.strip("' ") for part in message.replace(" or ", ",").split(",")])
    expected = message.removeprefix("Input should be ")
    return f"{place}: {first['input']!r} is wrong, expected {expected}{hint}"


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def _first(error: ValidationError) -> Any:
    """The complaint to show: an unknown key before what it may be the reason for."""
    complaints = error.errors(include_url=False)
    return next((one for one in complaints if one["type"] in _UNKNOWN), complaints[0])


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _defaults(cls: type[Any]) -> Table:
    """The default of every field that has one, as plain tables."""
    try:
        return dict(plain(cls()))
    except (UserError, TypeError):  # a value with a required field has no default as a whole
        return {}


def _known(error: ValidationError, cls: type[Any], defaults: Table) -> list[str]:
    """The keys that are allowed where the first unknown key stands."""
    here: Any = defaults or dict.fromkeys(cls.__dataclass_fields__)
    for part in _first(error)["loc"][:-1]:
        if isinstance(here, Mapping) and part in here:
            here = here[part]
    return sorted(here) if isinstance(here, Mapping) else []
