"""The only owner of how a cell looks in each form: what is escaped, how leading numbers are set off, what is small."""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from robustcl.reports.ranks import BEST, SECOND, TIED
from robustcl.reports.table import Table

Pair = tuple[str, str]
# What each place says, behind the sign of it; `ranks` has the test.
_MEANING = {
    BEST: "resolved above every other row of its column",
    SECOND: "above every row but the best",
    TIED: "tied for the best, with no row resolved above",
}
_TEST = "Leaders, paired on the same images (Holm, 5 %)"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≠": r"\ensuremath{\neq}",
    "±": r"\ensuremath{\pm}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form: `escape` makes text plain, `places` are what stands before and after a leading number.

    `small` is what stands around an interval, `signs` are what the legend calls the places, `most` is how many columns
    of numbers a page takes, and `rows` how many encoders below each other.
    """

    escape: Callable[[object], str]
    places: Mapping[str, Pair]
    signs: Mapping[str, str]
    small: Pair = ("", "")
    most: int = 9
    rows: int = 10_000

    def cell(self, text: str, place: str = "") -> str:
        """A cell of `Table.text` in this form, its number set off by its place."""
        number, apart, rest = text.partition(" ")
        before, after = self.places.get(place, ("", ""))
        first, last = self.small if rest else ("", "")
        return f"{before}{self.escape(number)}{after}{apart}{first}{self.escape(rest)}{last}"

    def legend(self, table: Table) -> str:
        """What the signs of a table mean, those that occur; nothing where there is none."""
        held = set(table.places.values())
        told = [f"{self.signs[place]} {meaning}" for place, meaning in _MEANING.items() if place in held]
        return f"{_TEST}: {'; '.join(told)}." if told else ""


def _markdown(text: object) -> str:
    """Text that Markdown reads as no markup; a bar is left to the writer of the table."""
    return re.sub(r"([\\`*<$]|\](?=[(\[:]))", r"\\\1", str(text))


def _latex(text: object) -> str:
    """Text as LaTeX prints it, every character of its own accord."""
    return "".join(_LATEX.get(mark, mark) for mark in str(text))


def _html(text: object) -> str:
    return html.escape(str(text))


_NAMES = {BEST: "bold is", SECOND: "underlined is", TIED: "italics are"}
_SIGNS = {BEST: "*", SECOND: "†", TIED: "~"}
TERMINAL = Form(escape=str, places={place: ("", sign) for place, sign in _SIGNS.items()}, signs=_SIGNS)
MARKDOWN = Form(escape=_markdown, places={BEST: ("**", "**"), SECOND: ("<u>", "</u>"), TIED: ("*", "*")}, signs=_NAMES)
LATEX = Form(
    escape=_latex,
    places={BEST: (r"\textbf{", "}"), SECOND: (r"\underline{", "}"), TIED: (r"\textit{", "}")},
    signs=_NAMES,
    small=(r"{\scriptsize ", "}"),
    most=6,
    rows=45,
)
HTML = Form(
    escape=_html,
    places={BEST: ("<b>", "</b>"), SECOND: ("<u>", "</u>"), TIED: ("<i>", "</i>")},
    signs=_NAMES,
    small=("<small>", "</small>"),
)
