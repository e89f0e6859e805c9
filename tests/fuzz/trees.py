"""The only owner of odd trees: plain tables, lists and leaves, changed at a few places into what no reader expects."""

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

LEAVES: tuple[Any, ...] = (
    True, False, 0, 1, -1, 2, 3.5, -0.0, 255, 256, 2**31, -(2**31) - 1, 2**63, 10**30, 10**400, 1e308, 5e-324,
    math.nan, math.inf, -math.inf, "", " ", ".", "..", "../../../../etc/passwd", "/etc/passwd", "a/b", "0/0", "8/0",
    "8/255", "-8/255", "0.5", "1e999999999", "1.0e400", "eps/4", "nan", "inf", "\0", "\n", "\r\nx", "\x1b[31m", "\x7f",
    "\u202e", "\ufeff", "\u00e9", "\u4e2d\u6587", "\U0001f600", "x" * 300, "{{ x }}", "${x}", "%s%n", "<script>",
    "=1+1", "$x^$", "\\input{x}", "robustbench:x", "random", "clean", "digits", "pgd-20", "linf", "l2",
    [], {}, [[]], [{}], {"": {}}, {"name": "x"}, {"name": []}, [1, 2, 3], ["a", "b"],
)  # fmt: skip
Place = tuple[Any, Any]  # a table or list, and the key or position in it


def mutated(tree: Any, draw: Random, times: int = 3) -> Any:
    """A copy of `tree` with one to `times` changes: odd leaves, lost, renamed, moved and doubled keys, deep nesting."""
    whole = [copy.deepcopy(tree)]
    for _ in range(draw.randint(1, times)):
        places = list(_places(whole, 0))
        holder, key = draw.choice(places)
        _change(holder, key, draw, places)
    return whole[0]


def _places(tree: Any, depth: int) -> Iterator[Place]:
    keys: Any = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        if depth < 12:
            yield from _places(tree[key], depth + 1)


def _change(holder: Any, key: Any, draw: Random, places: list[Place]) -> None:
    if draw.random() < 0.7:
        other, at = draw.choice(places)
        changes = {
            "leaf": lambda: copy.deepcopy(draw.choice(LEAVES)),
            "nudge": lambda: _nudged(holder[key], draw),
            "move": lambda: copy.deepcopy(other[at]),
            "deep": lambda: _deep(holder[key], draw),
        }
        holder[key] = changes[draw.choice(list(changes))]()
    elif isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 2, 40))))
    elif draw.random() < 0.5:
        del holder[key]
    else:
        holder[str(draw.choice([*LEAVES, *(name for _, name in places)]))[:400]] = holder.pop(key)


def _deep(part: Any, draw: Random) -> Any:
    for _ in range(draw.choice((1, 3, 30, 300))):
        part = draw.choice(([part], {"a": part}))
    return part


def _nudged(leaf: Any, draw: Random) -> Any:
    """Another leaf of the same type, near or far."""
    if isinstance(leaf, bool):
        return not leaf
    if isinstance(leaf, int):
        return draw.choice((leaf + 1, leaf - 1, -leaf, leaf * 10**6, leaf / 2))
    if isinstance(leaf, float):
        return draw.choice((-leaf, leaf * 1e6, leaf / 1e6, int(leaf) if math.isfinite(leaf) else 0))
    if isinstance(leaf, str) and leaf:
        at = draw.randrange(len(leaf))
        return leaf[:at] + draw.choice(("", "x", "-", "/", ".", "\0", "@", " ", "9")) + leaf[at + draw.randint(0, 1) :]
    return [leaf, leaf]


def toml(tree: dict[str, Any]) -> str:
    """A table as TOML, one line for each of its keys; what TOML does not know (None) is left out."""
    return "".join(f"{_text(str(key))} = {_toml(part)}\n" for key, part in tree.items() if part is not None)


def _toml(part: Any) -> str:
    if isinstance(part, dict):
        return "{" + ", ".join(f"{_text(str(k))} = {_toml(p)}" for k, p in part.items() if p is not None) + "}"
    if isinstance(part, list):
        return "[" + ", ".join(_toml(one) for one in part if one is not None) + "]"
    if isinstance(part, bool):
        return str(part).lower()
    return _text(part) if isinstance(part, str) else repr(part) if not isinstance(part, int) else f"{part:#x}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
