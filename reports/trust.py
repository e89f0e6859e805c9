"""The only owner of how far a shown number is to be trusted: verdicts, small samples, marks and their notes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from robustcl.bench.findings import UNCHECKED, Finding, Reliability, read_reliability, worst
from robustcl.models.value import plain
from robustcl.reports.statistics import detectable

MARKS = {"suspect": "?", "unreliable": "!"}
FEW = 0.2  # 20 points: most of what tables show is smaller


def small_n(n: int) -> Finding:
    """Whether `n` images are too few for differences of 20 points, which takes 96 (see `detectable`)."""
    least = detectable(n) if n else 1.0
    return Finding(
        check="small_n",
        value=least,
        verdict="suspect" if least > FEW else "ok",
        found=f"{n} images tell no differences under {100 * least:.0f} points apart",
        next="judge more images: 300 tell 11 points apart, 1000 tell 6, 10000 tell 2" if least > FEW else "",
    )


def with_small_n(checked: Reliability, n: int) -> Reliability:
    """What the checks found, and what the number of images adds."""
    return replace(checked, findings=(*checked.findings, small_n(n)))


def text_of(checked: Reliability | None) -> str:
    """As one text, for a column: JSON, or nothing where nothing was checked."""
    return json.dumps(plain(checked), sort_keys=True) if checked else ""


def together(texts: Sequence[str]) -> str:
    """The findings of several cells, such as seeds, as those of one; nothing where one of them is unchecked."""
    if not all(texts):
        return ""
    held = [read_reliability(json.loads(text), "findings") for text in dict.fromkeys(texts)]
    findings = tuple(finding for one in held for finding in one.findings)
    images, passes = max(one.images for one in held), sum(one.passes for one in held)
    return text_of(replace(held[0], findings=findings, images=images, passes=passes))


def against(text: str, judge: str, n: int) -> tuple[Finding, ...] | None:
    """What speaks against the numbers of `judge` on `n` images, the worst first; None where nothing was checked.

    `text` is that of `text_of`.
    """
    if not text:
        return None
    few = small_n(n)
    found = read_reliability(json.loads(text), "findings").against(judge)
    return (*found, few) if few.verdict != "ok" else found


def verdict(found: Iterable[Finding] | None) -> str:
    """`ok`, `suspect` or `unreliable`, or `unchecked`."""
    return UNCHECKED if found is None else worst(finding.verdict for finding in found)


def why(found: Iterable[Finding] | None) -> str:
    """The findings in words, each with what to try next."""
    return " | ".join(f"{one.check}: {one.found}; try next: {one.next}" for one in found or ())


class Notes:
    """The numbered notes below a table: one per check and advice, with what was found in each cell."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[str, list[str]]] = {}

    def mark(self, cell: str, found: Iterable[Finding] | None) -> str:
        """The mark of a cell, such as `!(1, 2)`, its findings noted; nothing where nothing speaks against it."""
        numbers = []
        for one in found or ():
            note = self._held.setdefault((one.check, one.next), {})
            cells = note.setdefault(one.found, [])
            if cell not in cells:
                cells.append(cell)
            numbers.append(list(self._held).index((one.check, one.next)) + 1)
        sign = MARKS.get(verdict(found), "")
        return f"{sign}({', '.join(map(str, sorted(set(numbers))))})" if sign else ""

    def lines(self) -> list[str]:
        """The notes in their order."""
        return [
            f"({number}) {check}: {'; '.join(f'{found} ({_listed(cells)})' for found, cells in held.items())}. "
            f"Try next: {advice}."
            for number, ((check, advice), held) in enumerate(self._held.items(), 1)
        ]


def _listed(cells: Sequence[str]) -> str:
    """The cells, or the first five where they are more than six: the marks show which."""
    return ", ".join(cells) if len(cells) <= 6 else f"{', '.join(cells[:5])} and {len(cells) - 5} more"
