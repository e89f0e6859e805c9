"""The only owner of docstrings on the site: plain text with `code` to reStructuredText, fields, readable signatures."""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Any

LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def text(docstring: str) -> str:
    """A docstring as reStructuredText: single backticks are code, nothing else is markup, `Errors:` is a paragraph."""
    parts = re.split(r"(?<!`)`(?!`)", docstring)
    plain = [re.sub(r"([\\*|]|_(?!\w)|(?<=\w)_\b)", r"\\\1", part) for part in parts[::2]]
    plain = [re.sub(r"(^|\s)Errors: ", r"\n\n**Errors:** ", part) for part in plain]
    plain = [re.sub(r"docs/([\w-]+)\.md", r":doc:`/\1`", part) for part in plain]
    code = [f"``{part}``" for part in parts[1::2]]
    code = [f"{mark}\\" if after[:1].isalnum() else mark for mark, after in zip(code, plain[1:], strict=True)]
    made = "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)
    return re.sub(
        r"^(?!- |\s)(.+)\n(?=- )", r"\1\n\n", made, flags=re.MULTILINE
    )  # a list needs an empty line before it


def fields(cls: type) -> list[str]:
    """A bullet per public field that a dataclass declares itself: as written, its limits, the comment behind it."""
    source = textwrap.dedent(inspect.getsource(cls)).splitlines()
    (body,) = ast.parse("\n".join(source)).body
    assert isinstance(body, ast.ClassDef)
    found = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            kind = ast.unparse(node.annotation)
            if not kind.startswith("ClassVar"):
                line = source[(node.end_lineno or node.lineno) - 1]
                comment = line[node.end_col_offset :].partition("# ")[2]
                found.append(_bullet(node.target.id, kind, node.value, comment))
    return found


def _bullet(name: str, kind: str, default: ast.expr | None, comment: str) -> str:
    notes = []
    if isinstance(default, ast.Call) and ast.unparse(default.func) in ("Field", "field"):
        given = {word.arg: word.value for word in default.keywords if word.arg}
        notes = [f"{LIMITS[key]} {ast.unparse(of)}" for key, of in given.items() if key in LIMITS]
        factory = given.get("default_factory")
        default = given.get("default", ast.Call(factory, [], []) if factory else None)
    shown = f"{name}: {kind}" + (f" = {ast.unparse(default)}" if default else "")
    notes += [text(comment)] if comment else []
    return f"* ``{shown}``" + (f" -- {'; '.join(notes)}" if notes else "")


def signature(of: Any) -> tuple[str, str | None]:
    """What stands behind the name: of a value its arguments, of a function its arguments as written, with links."""
    if isinstance(of, type):
        return _arguments(of), None
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(node, ast.FunctionDef)
    node.args.posonlyargs, node.args.args = (_without_self(part) for part in (node.args.posonlyargs, node.args.args))
    links = _Links(of.__globals__)
    answer = ast.unparse(links.visit(node.returns)) if node.returns else None
    return f"({ast.unparse(links.visit(node.args))})", answer


def _without_self(arguments: list[ast.arg]) -> list[ast.arg]:
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


class _Links(ast.NodeTransformer):
    """Names of our classes in annotations become full ones, of which Sphinx shows the last part (`~`)."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        of = self.names.get(node.id)
        if not isinstance(of, type) or not of.__module__.startswith("robustcl.") or of.__name__.startswith("_"):
            return node
        return ast.UnaryOp(ast.Invert(), ast.Name(f"{of.__module__}.{of.__qualname__}"))


def _arguments(cls: type) -> str:
    """Of a class: nothing where its fields are listed below, else the arguments of `__init__` as written."""
    made = cls.__dict__.get("__init__")
    if dataclasses.is_dataclass(cls) or not inspect.isfunction(made):
        return ""
    return signature(made)[0]


def on_docstring(app: object, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Sphinx's event: the lines of one docstring, changed in place."""
    made = text("\n".join(lines)).splitlines()
    if what == "module":
        made = _first_line(made)
    if isinstance(of, type) and dataclasses.is_dataclass(of):
        found = fields(of)
        made += ["", *found] if found else []
    lines[:] = [*made, ""]


def _first_line(lines: list[str]) -> list[str]:
    """Of a module: what it owns, without the words that every file begins with."""
    first = lines[0].removeprefix("The only owner of ") if lines else ""
    return [first[:1].upper() + first[1:], *lines[1:]]


def on_signature(
    app: object, what: str, name: str, of: Any, options: object, arguments: str | None, answer: str | None
) -> tuple[str, str | None] | None:
    """Sphinx's event: what stands behind the name of a class or a function of ours; None leaves it as it is."""
    of = of if isinstance(of, type) else inspect.unwrap(of) if callable(of) else None
    sort = inspect.isfunction(of) or (isinstance(of, type) and what == "class")
    return signature(of) if sort and of.__module__.startswith("robustcl.") else None
