"""The only owner of the tests of fingerprints: what they say, what moves them, where they are written."""

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from torch import Tensor

from robustcl.bench import fingerprint as prints
from robustcl.bench import records
from robustcl.bench.attacks import Attack, judges
from robustcl.bench.autoattack.versions import plus, rand, standard
from robustcl.bench.pgd import PGD, fgsm
from robustcl.bench.runner import make, prepare
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.reports.about import About, read_about
from robustcl.reports.frame import frame
from robustcl.reports.pairs import pairs
from robustcl.reports.table import heading, tables
from robustcl.reports.verdicts import summary
from tests.bench.tiny import Quiet, write_suite
from tests.reports.synthetic import records as rows

THREAT = Threat("8/255")
ENGINE = "pyautoattack 0.2.0"


def aa(classes: int = 10, batch: int = 512, engine: str = ENGINE) -> list[Attack]:
    return standard(classes, engine=engine, batch=batch)


def fingerprint(judge: str, attacks: Any, threat: Threat, seed: int, classes: int = 10) -> str:
    return prints.fingerprint(judge, attacks, threat, seed, classes)


def test_it_says_what_people_ask() -> None:
    text = fingerprint("autoattack", aa(), THREAT, 0)
    told, _, sha = text.rpartition("; sha:")
    assert told == (
        "autoattack@apgd-ce 100it, apgd-t 100it/9t, fab-t 100it/9t, square 5000q; linf 8/255; seed 0; batch 512; "
        "pyautoattack 0.2.0"
    )
    assert len(sha) == 8
    assert int(sha, 16) >= 0
    assert fingerprint("pgd-20", [PGD(steps=20)], THREAT, 3).startswith(
        "pgd-20@20it step eps/4; linf 8/255; seed 3; sha:"
    )
    often = fingerprint("strong", [PGD(steps=50, restarts=5, verdict="last")], Threat("0.5", norm="l2"), 0)
    assert often.startswith("strong@pgd-50x5-last 50it step eps/4 5x; l2 1/2; seed 0; sha:")
    assert fingerprint("fgsm", [fgsm()], THREAT, 0).startswith("fgsm@1it step eps/1 init=clean; linf")
    each = fingerprint("pgd-targeted-10", [PGD(steps=10, target="each")], THREAT, 0, classes=5)
    assert each.startswith("pgd-targeted-10@10it/4t step eps/4; linf")
    assert fingerprint("rand", rand(10), THREAT, 0).startswith("rand@apgd-ce-eot20 100it, apgd-dlr-eot20 100it; ")
    assert "apgd-ce-100x5 100it 5x, " in fingerprint("plus", plus(10), THREAT, 0)
    sparse = fingerprint("autoattack", aa(), Threat("12", norm="l1"), 0)
    assert "apgd-ce 100it 5x shrinking=True, apgd-t 100it/5t shrinking=True, fab-t 100it/9t" in sparse
    assert "apgd-t" not in fingerprint("autoattack", aa(classes=3), THREAT, 0, classes=3)
    assert "fab-t 100it/2t" in fingerprint("autoattack", aa(classes=3), THREAT, 0, classes=3)


def own(model: Any, x: Tensor, y: Tensor, threat: Threat, generator: Any) -> Tensor:
    return x


def test_a_callable_has_one_too() -> None:
    text = fingerprint("own", judges([own], 10)["own"], THREAT, 0)
    assert text.startswith("own@(a callable); linf 8/255; seed 0; sha:")


@pytest.mark.parametrize(
    ("attacks", "threat"),
    [
        (aa(batch=256), THREAT),
        (aa(engine="pyautoattack 0.3.0"), THREAT),
        (aa()[:2], THREAT),
        (aa()[::-1], THREAT),
        (aa(classes=6), THREAT),
        (aa(), Threat("4/255")),
        (aa(), Threat("8/255", norm="l2")),
    ],
)
def test_what_changes_the_attack_changes_the_hash(attacks: Any, threat: Threat) -> None:
    assert sha(fingerprint("autoattack", attacks, threat, 0)) != sha(fingerprint("autoattack", aa(), THREAT, 0))


def test_a_seed_is_told_and_not_hashed() -> None:
    one, other = (fingerprint("autoattack", aa(), THREAT, seed) for seed in (0, 1))
    assert one != other
    assert sha(one) == sha(other)


def sha(text: str) -> str:
    return text.rpartition(":")[2]


def test_records_say_what_they_are_and_old_ones_stay_readable(tmp_path: Path) -> None:
    held, path = rows([(0, "clean", "clean", True), (0, "pgd-1", "pgd-1", True)]), tmp_path / "records.parquet"
    about = {"threat": {"norm": "linf", "eps": "8/255"}, "fingerprints": {"pgd-1": "pgd-1@..."}, "protocol": {"a": 1}}
    records.write(path, held, about)
    assert read_about(path) == About(**about)  # type: ignore[arg-type]
    assert pq.read_table(path).schema.metadata[b"robustcl.records"] == b"1"
    records.write(path, held)
    assert read_about(path) == About()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged or truncated"):
        read_about(path)


def test_a_grid_over_the_judge_splits_the_column(tmp_path: Path) -> None:
    """The same name and other batches, at which the reference draws: not one column, and no pairs across."""
    more = "\n[grid]\n'judge.batch' = [4, 8]\n"
    fast = ("judge.judges=['pgd-1', 'apgd-ce']", "judge.images=8", "judge.engine=reference")
    job = prepare(write_suite(tmp_path, more=more), runs=tmp_path / "runs", overrides=fast)
    make(job, Quiet(), workers=1)
    made = frame(tmp_path / "runs")
    (table,) = tables(made)
    assert table.judges == ["clean", "pgd-1", "apgd-ce [1]", "apgd-ce [2]"]
    assert heading("autoattack [2]") == "AA [2]"
    measured = table.numbers[table.numbers["kind"] == "measured"]
    for number, batch in ((1, 4), (2, 8)):
        part = measured[measured["judge"] == f"apgd-ce [{number}]"]
        assert all(f"; batch {batch}; " in text for text in part["fingerprint"])
        assert any(note.startswith(f"[{number}] apgd-ce: apgd-ce@100it; linf 1/10; seed 0; b") for note in table.notes)
        assert f"apgd-ce [{number}]: apgd-ce@100it; linf 1/10; seed 0; batch {batch}; " in table.caption
    with pytest.raises(UserError, match=r"pairs: 'apgd-ce' is not one attack here but .* and .*, expected one"):
        pairs(made, "SLF", "apgd-ce")
    assert len(pairs(made, "SLF", "pgd-1")), "what has one fingerprint is compared"
    check_what_is_written(tmp_path / "runs")


def check_what_is_written(runs: Path) -> None:
    cells = json.loads((runs / "suite.json").read_text())["cells"]
    for cell in cells:
        about = read_about(runs / "evaluate" / cell["stage"] / "records.parquet")
        assert about.fingerprints == cell["fingerprints"]
        assert set(about.fingerprints) == {"pgd-1", "apgd-ce"}
        assert about.threat == {"norm": "linf", "eps": "1/10"}
        assert about.protocol["kind"] == "evaluate"
        assert about.protocol["part"]["images"] == 8
        finetune = about.protocol["parents"]["classifier"]
        assert finetune["part"]["scheme"]["training"]["epochs"] == 1
        assert finetune["parents"]["encoder"]["part"]["method"]["name"] == "supervised"
        assert about.reliability is not None
        assert about.reliability.images == 8
    numbers = summary(frame(runs))
    assert set(numbers["reliability"]) <= {"ok", "suspect", "unreliable"}
    assert numbers["why"].str.contains("small_n: 8 images").all()


def test_callables_are_told_apart_by_what_they_bring_along() -> None:
    """The same lines with another radius or step inside are another attack."""

    def noise(size: float) -> Any:
        def attack(model: Any, x: Tensor, y: Tensor, threat: Threat, source: Any) -> Tensor:
            return x + size

        return attack

    class Noise:
        def __init__(self, size: float) -> None:
            self.size = size

        def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, source: Any) -> Tensor:
            return x + self.size

    def said(attack: Any) -> str:
        ((name, bench),) = judges([attack], 10).items()
        return fingerprint(name, bench, THREAT, 0)

    for kind in (noise, Noise):
        assert said(kind(0.1)) == said(kind(0.1)) != said(kind(0.2))
    assert said(functools.partial(Noise(0.1), threat=Threat("1/8"))) != said(
        functools.partial(Noise(0.1), threat=THREAT)
    )
    typed: dict[str, Any] = {}
    exec("def typed(model, x, y, threat, source): return x", typed)
    assert said(typed["typed"]).startswith("typed@(a callable)")
