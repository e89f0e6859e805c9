"""The only owner of how values are declared, read and written: frozen pydantic dataclasses with one-line errors."""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeVar, dataclass_transform, get_args

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from robustcl.models.errors import UserError, nearest

_DIGITS = 100  # characters of an exact number
T = TypeVar("T")
Table = dict[str, Any]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def value(cls: type[T]) -> type[T]:
    """Declare a frozen, keyword-only value whose fields are checked; a wrong one is a one-line `UserError`."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, validate_default=True, allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise UserError(explain(error, cls.__name__, made)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def read(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A value from a table of a file: fields that are left out keep the default, also in tables within tables.

    Errors: `UserError` that names `where`, what was expected and the nearest key.
    """
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: {table!r} is wrong, expected a table")
    try:
        made: T = _adapter(cls).validate_python(merge(_defaults(cls), table))
        return made
    except ValidationError as error:
        raise UserError(explain(error, where, cls)) from None


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
        hint = f"; did you mean '{likely(float(text))}'?" if isinstance(text, float) and abs(text) < 1e6 else ""
        raise ValueError(f"{where}: {text!r} is not exact, expected a fraction in quotes such as '8/255'{hint}")
    try:
        if len(str(text)) > _DIGITS or re.search("e", str(text), re.IGNORECASE):  # 1e999999999 has as many digits
            raise ValueError(text)
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{where}: {text!r} is not a number, expected a fraction such as '8/255'") from None


def likely(number: float) -> Fraction:
    """The fraction that somebody who wrote this decimal probably meant: k/255 where that is near, else its own."""
    grey = Fraction(round(number * 255), 255)
    return grey if grey and abs(float(grey) - number) < 5e-4 else Fraction(str(number)).limit_denominator(10**6)


def explain(error: ValidationError, where: str, cls: type[Any]) -> str:
    """The first of pydantic's complaints about a `cls` as one line."""
    first = _first(error)
    if first["loc"] and isinstance(first["loc"][0], int):  # an argument given by position: pydantic counts, people name
        named = dict(enumerate(_positional(cls)))
        first["loc"] = (named.get(first["loc"][0], first["loc"][0]), *first["loc"][1:])
    inner, here = _walk(cls, first["loc"][:-1])
    key = str(first["loc"][-1]) if first["loc"] else ""
    parent = ".".join([where, *inner])
    place = f"{parent}.{key}" if key and key not in _STEPS else parent
    message, context = first["msg"].removeprefix("Value error, "), first.get("ctx", {})
    if first["type"] in _UNKNOWN:
        known = sorted({name for one in here for name in one.__pydantic_fields__})
        return f"{parent}: unknown key '{key}', expected one of {', '.join(known)}{nearest(key, known)}"
    if first["type"].startswith("missing"):
        return f"{place}: missing, expected a value"
    if first["type"].startswith("union_tag"):
        names = sorted(_tag(one) for one in _walk(cls, first["loc"])[1])
        expected = f"expected one of {', '.join(names)}"
        if first["type"] == "union_tag_not_found":
            return f"{place}: missing key {context['discriminator']}, {expected}"
        return f"{place}: unknown name '{context['tag']}', {expected}{nearest(context['tag'], names)}"
    if first["type"] == "value_error":
        return f"{place}: {message.removeprefix(f'{key}: ')}"
    expected, hint = message.removeprefix("Input should be ").replace("a valid tuple", "a list"), ""
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        hint = nearest(first["input"], [part.strip("' ") for part in expected.replace(" or ", ",").split(",")])
    return f"{place}: {first['input']!r} is wrong, expected {expected}{hint}"


def _positional(cls: type[Any]) -> list[str]:
    """The fields of a value that may be given by position, in order."""
    return [name for name, field in cls.__pydantic_fields__.items() if field.kw_only is False]


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_STEPS = ("function-after", "dataclass")  # what pydantic adds to a place and no file holds


def _first(error: ValidationError) -> Any:
    """The complaint to show: an unknown key before what it may be the reason for."""
    complaints = error.errors(include_url=False)
    return next((one for one in complaints if one["type"] in _UNKNOWN), complaints[0])


def _walk(cls: type[Any], places: Iterable[str | int]) -> tuple[list[str], list[Any]]:
    """The keys of a file that lead to a place, with the names of union members, and the values allowed there."""
    keys: list[str] = []
    here: list[Any] = [cls]
    for part in places:
        named = [one for one in here if len(here) > 1 and part in (_tag(one), one.__name__)]
        if part not in _STEPS:
            keys.append(str(part))
        if named:
            here = named
        elif part not in _STEPS and isinstance(part, str):
            fields = [one.__pydantic_fields__[part] for one in here if part in one.__pydantic_fields__]
            here = [leaf for field in fields for leaf in _leaves(field.annotation)]
    return keys, here


def _tag(of: Any) -> str:
    return str(of.__pydantic_fields__["name"].default) if "name" in of.__pydantic_fields__ else ""


def _leaves(annotation: Any) -> list[Any]:
    """The values within an annotation such as `tuple[A | B, ...]`."""
    if hasattr(annotation, "__pydantic_fields__"):
        return [annotation]
    return [leaf for part in get_args(annotation) for leaf in _leaves(part)]


def _adapter(cls: Any) -> TypeAdapter[Any]:
    return _adapters(cls)


@functools.cache
def _adapters(cls: Hashable) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(cls)  # type: ignore[arg-type]
    return adapter


def _defaults(cls: Any) -> Table:
    """The default tables of a value, also of one with required fields; what is no table keeps its default anyway."""
    fields = cls.__pydantic_fields__.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}
    tables = {name: plain(of) for name, of in defaults.items() if hasattr(of, "__pydantic_fields__")}
    return tables | {name: of for name, of in defaults.items() if isinstance(of, Mapping)}
