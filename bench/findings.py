"""The only owner of what checks of a judgement come to: findings, and the verdict that they fold into (no torch)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from scipy.special import bdtrc

from robustcl.models.value import read, value

Verdict = Literal["ok", "suspect", "unreliable"]
VERDICTS: tuple[Verdict, ...] = ("ok", "suspect", "unreliable")
UNCHECKED = "unchecked"
NO_ATTACK = ("clean", "corruptions")  # what stands in records like a judge and attacks nothing
LEVEL = 0.01  # a count is beyond a share where at most this chance explains it


@value
class Finding:
    """What one check found: a number, what it means for the judged accuracies, and what to try next.

    `value` is a share in [0, 1] unless `found` says otherwise; `judges` names the judges concerned, none is all.
    """

    check: str
    value: float
    verdict: Verdict
    found: str
    next: str = ""
    judges: tuple[str, ...] = ()


@value
class Reliability:
    """The findings of one cell. `images` were looked at, which took `passes`, beside those of the records."""

    findings: tuple[Finding, ...]
    images: int = Field(ge=0)
    passes: int = Field(ge=0)
    version: int = 1

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        return worst(finding.verdict for finding in self.findings)

    def beside(self, more: Iterable[Finding]) -> "Reliability":
        """These findings and `more`, which were made elsewhere."""
        return replace(self, findings=(*self.findings, *more))

    def against(self, judge: str) -> tuple[Finding, ...]:
        """What speaks against the numbers of this judge, the worst first; `NO_ATTACK` are concerned by name alone."""
        every = judge not in NO_ATTACK
        concern = (one for one in self.findings if judge in one.judges or (every and not one.judges))
        found = [one for one in concern if one.verdict != "ok"]
        return tuple(sorted(found, key=lambda one: -VERDICTS.index(one.verdict)))


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts; `ok` without any."""
    return max(verdicts, key=VERDICTS.index, default="ok")


def read_reliability(table: Mapping[str, Any], where: str) -> Reliability:
    """A `Reliability` from what `plain` made of one. Errors: `UserError` that names `where`."""
    return read(Reliability, table, where)


def beyond(count: int, n: int, of: float) -> bool:
    """Whether `count` of `n` is more than a share `of` explains (one-sided exact binomial test)."""
    return count > 0 and float(bdtrc(count - 1, n, of)) <= LEVEL


def graded(count: int, n: int, suspect: float, unreliable: float) -> Verdict:
    """The verdict on `count` of `n` images, given the shares from which on it is suspect and unreliable."""
    if beyond(count, n, unreliable):
        return "unreliable"
    return "suspect" if beyond(count, n, suspect) else "ok"


def share(count: int, n: int) -> str:
    """`3 of 40 images`."""
    return f"{count} of {n} images"
