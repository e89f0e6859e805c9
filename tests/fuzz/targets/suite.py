"""The only owner of the fuzz of suites: TOML as text, with overrides, up to the table that a run folder keeps."""

import json
from collections.abc import Mapping

from robustcl.bench.spec import read_suite
from robustcl.bench.suite import resolved
from robustcl.bench.tables import FOLDER
from tests.bench.tiny import TINY
from tests.fuzz.changes import toml_changed
from tests.fuzz.desk import laid
from tests.fuzz.target import Target

SET = "#--set "  # a comment that is an override
KEPT = ("quickstart", "table1-mini", "table4-mini", "transfer-mini", "lambda-mini", "fig5-mini", "_paper")
MORE = """#--set judge.images=7
[grid]
"pretrain.at.ascent.steps" = [1, 2]
[seeds]
judge = [0, 1]
[reference]
theirs = { factory = "file.py:model" }
[pretrain.theirs2]
checkpoint = "x.pt"
[labels.own]
encoder = "at"
k = [2, 4]
[judge.attacks]
mine = [{ name = "pgd", steps = 2 }]
[probes.features]
"""


def read(data: bytes) -> None:
    """A suite from a file, and every one of its points as JSON."""
    given = [line.removeprefix(SET) for line in data.decode(errors="replace").splitlines() if line.startswith(SET)]
    for suite in read_suite(laid(data, "suite.toml"), given[:3]):
        json.dumps(resolved(suite), allow_nan=False)


def seeds() -> Mapping[str, bytes]:
    """The tiny suite, one with every table, and some of those that come with robustcl."""
    own = {name: (FOLDER / f"{name}.toml").read_bytes() for name in KEPT}
    return {"tiny": TINY.encode(), "whole": (TINY + MORE).encode(), **own}


TARGET = Target(read=read, seeds=seeds, mutate=toml_changed, share=0.12)
