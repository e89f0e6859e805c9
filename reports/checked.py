"""The only owner of how a check and a blessing read: the table for the terminal, the summary for a pull request."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robustcl.reports.baseline import NO_THREAT, Baseline, Row
from robustcl.reports.check import Check, Compared, Outcome
from robustcl.reports.table import heading
from robustcl.reports.writers import grid

WORDS: Mapping[Outcome, str] = {"ok": "OK", "regression": "REGRESSION", "undecided": "CANNOT TELL"}
_ORDER: Sequence[Outcome] = ("regression", "undecided", "ok")
FLIPPED = 8  # so many images are named
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "encoder": lambda row: row.encoder,
    "scheme": lambda row: row.scheme,
    "data": lambda row: row.data,
    "threat": lambda row: row.threat,
    "seeds": lambda row: row.seed_text,
    "n": lambda row: str(row.n),
    "accuracy": lambda row: heading(row.judge),
}
_ALWAYS = ("encoder", "scheme", "accuracy")


def terminal(check: Check, baseline: Baseline) -> str:
    """What the check came to, what else has changed, and last its table, which is Markdown."""
    notes = [textwrap.fill(f"- {note}", 100, subsequent_indent="  ") for note in _notes(check)]
    parts = [textwrap.fill(sentence(check, baseline), 100), "\n".join(notes), table(check)]
    return "\n\n".join(part for part in parts if part)


def markdown(check: Check, baseline: Baseline) -> str:
    """The summary for a pull request: heading, sentence, table, what else has changed, and the images that flipped."""
    flips = [f"- {_plain(row.name)}: {_flips(row)}" for row in check.rows if len(row.lost) or len(row.won)]
    folded = ["<details><summary>Images that changed</summary>", "\n".join(flips), "</details>"] if flips else []
    notes = "\n".join(f"- {_plain(note)}" for note in _notes(check))
    head = f"### robustcl check: {WORDS[check.outcome]}"
    parts = [head, _plain(sentence(check, baseline)), table(check, _named), notes, *folded]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentence(check: Check, baseline: Baseline) -> str:
    """What came out, of what, and how often such a check errs."""
    count = {outcome: sum(row.outcome == outcome for row in check.rows) for outcome in WORDS}
    points = "1 point" if check.margin == 0.01 else f"{_number(100 * check.margin)} points"
    total = len(check.rows)
    told: Mapping[Outcome, str] = {
        "regression": f"lost more than {points}",
        "undecided": "cannot be told",
        "ok": f"lost at most {points}",
    }
    found = ", ".join(f"{count[outcome]} {text}" for outcome, text in told.items() if count[outcome])
    images = sorted({row.before.n for row in check.rows})
    n = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
    rate = f"{_number(100 * check.level)} %"
    each = f" (so each lower bound is at {_number(100 * check.level / total)} %)" if total > 1 else ""
    rows = f"of {total} rows {found}" if total > 1 else f"the row {found.removeprefix('1 ')}"
    return (
        f"{WORDS[check.outcome]}: {rows}. Paired on the same {n} images with {_of(baseline)}. A false "
        f"alarm anywhere in this check has a chance of at most {rate}{each}, and so has OK for the whole though a row "
        f"lost more than {points}."
    )


def table(check: Check, shown: Callable[[str], str] = str) -> str:
    """One line per row, regressions first: percent before and now, the drop in points, how many images changed.

    `shown` is what a name looks like.
    """
    rows = sorted(check.rows, key=lambda row: _ORDER.index(row.outcome))
    heads, cells = _cells([row.before for row in rows])
    lines = [
        [
            verdict(row),
            *map(shown, cell),
            _percent(row.before.accuracy),
            _percent(row.now.accuracy),
            f"{_points(row.drop)} [{_points(row.low)}, {_points(row.high)}]",
            f"{len(row.lost)}, {len(row.won)}",
        ]
        for cell, row in zip(cells, rows, strict=True)
    ]
    columns = ["verdict", *heads, "before", "now", "drop [at least, at most]", "lost, won"]
    return grid(columns, lines, names=1 + len(heads))


def verdict(row: Compared) -> str:
    """The outcome of a row in words, with what could tell where this check cannot."""
    word = WORDS[row.outcome]
    if row.why:
        return f"{word}: {row.why}"
    if row.outcome != "undecided":
        return word
    if np.isnan(row.needed):
        return f"{word}: open when the check ended"
    if not np.isfinite(row.needed) or row.needed >= 1e7:
        return f"{word}: the drop is about the margin"
    return f"{word}: takes {_round_up(row.needed):,} images"


def blessed(baseline: Baseline, old: Baseline | None) -> str:
    """What a new baseline holds, one line per row, and what it changes where there was one."""
    before = {row.key: row for row in old.rows} if old else {}
    now = {row.key: row for row in baseline.rows}
    gone = [row for key, row in before.items() if key not in now]
    every = [*baseline.rows, *gone]
    heads, cells = _cells(every)
    lines = []
    for cell, row in zip(cells, every, strict=True):
        was, new = before.get(row.key), now.get(row.key)
        sides = [_percent(one.accuracy) if one else "-" for one in (was, new)]
        lines.append([*cell, *sides, (new.reliability if new else "-"), _change(was, new)])
    return grid([*heads, "before", "now", "reliability", "change"], lines, names=len(heads))


def _change(was: Row | None, new: Row | None) -> str:
    if was is None or new is None:
        return "new" if was is None else "removed"
    if not np.array_equal(was.image, new.image):
        return "other images"
    if was.fingerprint != new.fingerprint:
        return "another attack"
    lost, won = int((was.right & ~new.right).sum()), int((new.right & ~was.right).sum())
    return f"{lost} lost, {won} won" if lost or won else "none"


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The columns that say which row it is, those that never differ left out, and their text."""
    heads = [name for name, of in _COLUMNS.items() if name in _ALWAYS or len({of(row) for row in rows}) > 1]
    if len({row.threat for row in rows if row.eps != NO_THREAT}) < 2:  # clean accuracies are under none
        heads = [name for name in heads if name != "threat"]
    return heads, [[_COLUMNS[name](row) for name in heads] for row in rows]


def _notes(check: Check) -> list[str]:
    extra = f"not in the baseline, and not checked: {', '.join(check.new)}"
    return [*check.notes, *([extra] if check.new else [])]


def _flips(row: Compared) -> str:
    """The images that changed, the first of them by their positions in the split."""
    parts = []
    for word, images in (("lost", row.lost), ("won", row.won)):
        if len(images):
            more = ", ..." if len(images) > FLIPPED else ""
            parts.append(f"{len(images)} {word} ({', '.join(map(str, images[:FLIPPED]))}{more})")
    return "; ".join(parts)


def _of(baseline: Baseline) -> str:
    """The baseline as its file says: suite and commits."""
    commits = ", ".join(str(commit)[:7] for commit in baseline.about.get("commits", ()))
    return f"the baseline of {baseline.about.get('suite', 'a run')}{f' at commit {commits}' if commits else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(share: float) -> str:
    text = f"{100 * share:.2f}"
    return "0.00" if text == "-0.00" else text


def _number(of: float) -> str:
    return f"{of:.3g}"


def _round_up(n: float) -> int:
    """Up to two digits: it is an estimate."""
    unit = 10 ** max(len(str(int(n))) - 2, 0)
    return int(-(-n // unit) * unit)


def _named(text: str) -> str:
    """A name in a table, whose writer escapes the bar."""
    return "|".join(_plain(part) for part in text.split("|"))


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "\n": " "}
    marks |= {"[": "\\[", "]": "\\]"}
    return "".join(marks.get(mark, mark) for mark in text)
