"""The only owner of the words around numbers: headings, percents, and what a caption says of its table."""

import json
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from robustcl.bench.findings import UNCHECKED
from robustcl.reports import seeds as over_seeds
from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.statistics import detectable
from robustcl.reports.trust import MARKS

ESTIMATED = (
    "AA-estimate is no AA, but AutoAttack's accuracy estimated from a random part of the images; behind set stands the "
    "95 % interval for these very images, in brackets that for images like these"
)
_SIGNS = {"ok": "", "suspect": f" ({MARKS['suspect']})", "unreliable": f" ({MARKS['unreliable']})", UNCHECKED: ""}


def heading(judge: str) -> str:
    """The field's name of a judge's column: SA, RA (PGD-20), AA, CA; any other judge keeps its name.

    An estimate of AA is AA-estimate, and never AA; behind it stands the share of the passes where it was named.

    What follows the name in brackets, such as the number of one of several attacks of that name, stays.
    """
    name, apart, number = judge.partition(" [")
    steps = re.fullmatch(r"pgd-(\d+)", name)
    known = {CLEAN: "SA", "autoattack": "AA", CORRUPTIONS: "CA"}
    told = f"RA (PGD-{steps[1]})" if steps else known.get(name, name)
    estimated = re.fullmatch(r"aa-estimate(?:-(\d+))?", name)
    if estimated:
        told = "AA-estimate" + (f" ({estimated[1]} %)" if estimated[1] else "")
    return f"{told}{apart}{number}"


def percent(
    accuracy: float,
    low: float,
    high: float,
    spread: float = float("nan"),
    of_set: tuple[float, float] = (float("nan"), float("nan")),
) -> str:
    """A share with its interval, and its spread over seeds, as percent: 74.2 [69.4, 78.5] ± 0.8.

    A reference without an interval stands alone. The interval of an estimate for these very images follows it:
    74.2 [69.4, 78.5], set 73.9 to 74.5.
    """
    share = f"{100 * accuracy:.1f}"
    interval = "" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    here = "" if pd.isna(of_set[0]) else f", set {100 * of_set[0]:.1f} to {100 * of_set[1]:.1f}"
    return f"{share}{interval}{'' if pd.isna(spread) else f' ± {100 * spread:.1f}'}{here}"


def attack_text(judges: Mapping[str, Sequence[str]]) -> str:
    """What the columns stand for: `RA (PGD-20): pgd-20; AA: apgd-ce, apgd-t, fab-t, square`."""
    told = {judge: ", ".join(attacks) for judge, attacks in judges.items()}
    if CORRUPTIONS in told:
        names, levels = (
            dict.fromkeys(part) for part in zip(*(a.rsplit("-", 1) for a in judges[CORRUPTIONS]), strict=True)
        )
        told[CORRUPTIONS] = f"mean over {len(names)} corruptions at severities {', '.join(levels)}, normal interval"
    return "; ".join(f"{heading(judge)}: {text}" for judge, text in told.items())


def caption(cells: pd.DataFrame, singles: pd.DataFrame) -> list[str]:
    """What a number of the table means, part by part.

    Suite, data, threat and images; intervals; the detectable difference; seeds, attacks, protocol, reliability.
    """
    first = cells.iloc[0]
    threat = f"{first['norm']} {first['eps']} ({first['radius']:.5g})"
    protocol = _protocol(cells)
    seeds = _stated(cells, over_seeds.told(cells, singles))
    least = 100 * detectable(int(cells["n"].min()))
    return [
        f"{first['suite']}: {first['data']}, {threat}, {_images(cells)}",
        "accuracy in percent with 95 % Wilson intervals over images",
        f"detectable difference {least:.1f} points unpaired (80 % power), less on the same images",
        *([f"seeds: {seeds}"] if seeds else []),
        _attacks(cells),
        *([ESTIMATED] if cells["set_low"].notna().any() else []),
        *([f"protocol: {protocol}"] if protocol else []),
        f"reliability: {_trusted(cells)}",
    ]


def _attacks(cells: pd.DataFrame) -> str:
    """The fingerprint behind every column; of columns without one, the names of their attacks."""
    held = {judge: prints(part) for judge, part in cells.groupby("judge", observed=True) if judge != CLEAN}
    known = [f"{heading(str(judge))}: {', '.join(of)}" for judge, of in held.items() if any(of)]
    bare = {str(judge).partition(" [")[0] for judge, of in held.items() if not any(of)}
    texts = [{name: of for name, of in json.loads(text).items() if name in bare} for text in cells["judges"]]
    plain = _stated(cells, pd.Series([attack_text(text) for text in texts], index=cells.index)) if bare else ""
    return "; ".join([*([plain] if plain else []), *known])


def prints(cells: pd.DataFrame) -> list[str]:
    """The fingerprints of a column: several where they differ by their seeds alone."""
    return [str(of) for of in dict.fromkeys(cells["fingerprint"]) if of]


def several(cells: pd.DataFrame) -> list[str]:
    """The notes that say which attack is behind `AA [1]`."""
    made = []
    for judge, part in cells.groupby("judge", observed=True):
        name, apart, number = str(judge).partition(" [")
        if apart:
            made.append(f"[{number} {heading(name)}: {', '.join(prints(part)) or 'no fingerprint is recorded'}.")
    return made


def _trusted(cells: pd.DataFrame) -> str:
    """How many numbers are of which verdict."""
    counts = cells["reliability"].value_counts()
    told = [f"{counts[name]} {name}{sign}" for name, sign in _SIGNS.items() if name in counts]
    return told[0].partition(" ")[2] if len(told) == 1 else ", ".join(told) + " numbers"


def _images(cells: pd.DataFrame) -> str:
    """How many images were judged, per column where the columns differ."""
    counts = {str(judge): sorted(set(part)) for judge, part in cells.groupby("judge", observed=True)["n"]}
    if len({tuple(of) for of in counts.values()}) == 1:
        return f"n = {_range(next(iter(counts.values())))} images"
    return "n = " + ", ".join(f"{_range(of)} ({heading(judge)})" for judge, of in counts.items()) + " images"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _protocol(cells: pd.DataFrame) -> str:
    """The clauses that all cells share, then every other one with its cells: each clause once, none for cells alone."""
    places = list(zip(cells["row"].astype(str), cells["scheme"].astype(str), strict=True))
    held: dict[str, dict[tuple[str, str], None]] = {}
    for text, place in zip(cells["protocol"].astype(str), places, strict=True):
        for clause in filter(None, re.split(r", (?![^(]*\))", text)):  # a comma in brackets parts nothing
            held.setdefault(clause, {})[place] = None
    every = list(dict.fromkeys(places))
    shared = [clause for clause, of in held.items() if len(of) == len(every)]
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for clause, of in held.items():
        if clause not in shared:
            together.setdefault(tuple(of), []).append(clause)
    parts = [f"{', '.join(clauses)} ({_of(list(of), every)})" for of, clauses in together.items()]
    return "; ".join([*([", ".join(shared)] if shared else []), *parts])


def _of(some: Sequence[tuple[str, str]], every: Sequence[tuple[str, str]]) -> str:
    """The cells (row, scheme) in as few names as they have: whole rows, whole schemes, or one by one."""
    for side in (0, 1):
        names = dict.fromkeys(place[side] for place in some)
        if sum(place[side] in names for place in every) == len(some):
            return ", ".join(names)
    return ", ".join(" ".join(place) for place in some)


def _stated(cells: pd.DataFrame, texts: pd.Series) -> str:
    """A text that all cells share, or every text with its cells: unlike numbers are never mixed silently."""
    where = cells["row"].astype(str) + " " + cells["scheme"].astype(str)
    of = {str(text): list(dict.fromkeys(part)) for text, part in where.groupby(texts.astype(str), sort=False)}
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in of.items())
