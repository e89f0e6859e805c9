"""The only owner of a check as JUnit XML: one test case per row, for the pages of CI systems."""

import re
from xml.etree import ElementTree

from robustcl.reports.baseline import Baseline
from robustcl.reports.check import Check, Compared
from robustcl.reports.checked import sentence, verdict

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def junit(check: Check, baseline: Baseline) -> str:
    """A check as JUnit XML. A regression is a failure; a row that cannot be told is skipped, with the reason.

    Skipped and not failed, as a failure says that something broke, which nobody knows here; no page shows it as passed,
    and the exit code of the check (3) keeps the job from passing. There are no times in it: the same check gives the
    same bytes.
    """
    counts = {
        "tests": str(len(check.rows)),
        "failures": str(sum(row.outcome == "regression" for row in check.rows)),
        "errors": "0",
        "time": "0",
    }
    skipped = str(sum(row.outcome == "undecided" for row in check.rows))  # the schema counts them in suites alone
    root = ElementTree.Element("testsuites", {"name": "robustcl", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "robustcl check", **counts, "skipped": skipped})
    for row in check.rows:
        _case(suite, row)
    ElementTree.SubElement(suite, "system-out").text = _clean(sentence(check, baseline))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, row: Compared) -> None:
    place = {"classname": "check", "name": _clean(row.name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", place)
    drop = f"drop {100 * row.drop:.2f} points, at least {100 * row.low:.2f}, at most {100 * row.high:.2f}"
    told = f"{100 * row.before.accuracy:.1f} % before, {100 * row.now.accuracy:.1f} % now, {drop}, n = {row.now.n}"
    if row.outcome == "ok":
        ElementTree.SubElement(case, "system-out").text = _clean(told)
        return
    message = {"message": _clean(f"{verdict(row)}; {told}")}
    if row.outcome == "undecided":
        ElementTree.SubElement(case, "skipped", message)
        return
    lost = ", ".join(map(str, row.lost))
    failure = ElementTree.SubElement(case, "failure", {**message, "type": "regression"})
    failure.text = f"images that were right and are wrong: {lost}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
