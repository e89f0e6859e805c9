"""The only owner of what the site lists of the package itself: commands, suites and plug-ins, anew at each build."""

import re
from collections.abc import Callable, Iterator
from typing import Any

MARK = re.compile(r"^<!-- list (\w+) -->$", re.MULTILINE)
KINDS = ("methods", "schemes", "attacks", "data", "architectures", "layouts", "probes", "figures")


def commands() -> str:
    """A part for every command of `robustcl`: what it does, its arguments and options with their defaults."""
    import typer

    from robustcl.cli import app

    group: Any = typer.main.get_command(app)
    return "\n".join(line for name, command in group.commands.items() for line in _command(name, command))


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [given for given in command.params if given.param_type_name == "argument"]
    words = [given.name.upper() if given.required else f"[{given.name.upper()}]" for given in arguments]
    yield f"## robustcl {name}\n"
    yield f"```text\n{' '.join(['robustcl', name, *words, '[OPTIONS]'])}\n```\n"
    yield f"{escaped(command.help)}\n"
    yield "| | |\n|---|---|"
    yield from (_row(given) for given in command.params if given.name != "help")
    yield ""


def _row(given: Any) -> str:
    name = given.name.upper() if given.param_type_name == "argument" else ", ".join(given.opts)
    default = f" Default `{given.default}`." if given.default not in (None, False) and not given.required else ""
    return f"| `{name}` | {escaped(given.help or '')}{default} |"


def suites() -> str:
    """A part for every suite: its head comment, a paragraph for each of its entries."""
    from robustcl.bench.tables import suites as known

    order = sorted(known().items(), key=lambda item: (item[0] != "quickstart", item[0].partition("-")))
    return "\n".join(_suite(name, path.read_text(encoding="utf-8")) for name, path in order)


def _suite(name: str, text: str) -> str:
    """The comment at the head: its first line, then `Key: text`, whose rows of numbers are indented."""
    head = re.match(r"(?:#.*\n)+", text)
    said = escaped("\n".join(line[2:] for line in head[0].splitlines())) if head else ""
    said = re.sub(r"\n(?=  [^:\n]*: \d)", r"\\\n", said)
    said = re.sub(r"^(\w+)((?:,[^:\n]*)?): ", r"- **\1**\2: ", said, flags=re.MULTILINE)
    command = re.search(r"^# Command: (.*)$", text, re.MULTILINE)
    return f"## {name}\n\n{said.partition('- **Command**')[0]}" + (f"- `{command[1]}`\n" if command else "")


def everything() -> str:
    """What `robustcl ls` answers, kind by kind, but for the suites, which have a page."""
    from robustcl.outline import listing

    return "\n".join(f"## {kind}\n\n```text\n{listing(kind)}\n```\n" for kind in KINDS)


def escaped(said: str) -> str:
    """Plain text as Markdown."""
    return re.sub(r"([<>*_|\[\]])", r"\\\1", said)


LISTS: dict[str, Callable[[], str]] = {"commands": commands, "suites": suites, "everything": everything}


def page(text: str) -> str:
    """A page as the site shows it: lists at their marks, titles for names of pages, whole intervals; code as it is."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if number % 2 else _prose(part) for number, part in enumerate(parts))


def _prose(text: str) -> str:
    text = MARK.sub(lambda found: LISTS[found[1]](), text)
    text = re.sub(r"\[([^\]]+)\]\(([\w/-]+/table\.md)\)", r"{download}`\1 <\2>`", text)  # no page of its own
    text = re.sub(r"\[(?:docs/)?[\w/-]+\.md\]\(", "[](", text)
    text = text.replace("± ", "±\u00a0")
    return re.sub(r"([\d*>~†]) \[(-?\d+\.\d+), (-?\d+\.\d+)\]", "\\1\u00a0[\\2,\u00a0\\3]", text)


def on_source(app: object, name: str, source: list[str]) -> None:
    """Sphinx's event: a page as it was read, changed in place."""
    source[0] = page(source[0])
