"""A dozen CPU steps of every method and scheme, against the numbers of the last time that they were meant to move.

The steps are taken in float64, from weights that are drawn as whole numbers and pixels of 8 bits: in float32 the last
bits, which differ from one CPU to another, turn the sign of a small gradient, and a few steps later the third digit of
the loss.

`--regenerate-golden` rewrites the CSV files of what has a new number and a raised version; that run fails all the same.
"""

import csv
import math
import zlib
from pathlib import Path

import pytest
import torch

from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Epoch, Run, fit
from robustcl.pretraining.method import Method, Net, Targets, build_net, every, named
from tests.finetuned import every_scheme, fitted, is_scheme, scheme

CASES = [*every(), *every_scheme()]
TRAINING = {"epochs": 6, "batch": 12}  # two steps per epoch
N = 24
PSEUDO = {2: torch.arange(N) % 2, 5: torch.arange(N) % 5}
FLAG = "--regenerate-golden"


def method_of(name: str) -> Method:
    if is_scheme(name):
        return scheme(name, {"training": TRAINING, "selection": ["last"]})  # which epoch is chosen moves no training
    less = {"layers": 1, "ascent": {"steps": 2}} if name.startswith("ap_dpe") else {}  # by far the costliest
    return named(name, {"training": TRAINING, **less})


class Precise(Images):
    """Images that come as float64."""

    def floats(self, rows: torch.Tensor | slice) -> torch.Tensor:
        return super().floats(rows).double()


def settle(net: Net) -> None:
    """Draw every weight anew, as a whole number times a power of two about as large as it was.

    A student thus does not begin as its teacher here; what it begins as has tests of its own.
    """
    with torch.no_grad():
        for name, weight in net.named_parameters():
            spread = float(weight.std()) if weight.numel() > 1 else 0.0
            if spread > 0:  # batch norms start at 1 and 0
                key = zlib.crc32(name.removeprefix("beside.momentum.").encode())  # a copy starts as what it follows
                drawn = torch.randint(-64, 65, weight.shape, generator=torch.Generator().manual_seed(key))
                weight.copy_(drawn * 2.0 ** (round(math.log2(spread)) - 5))


def curve(method: Method) -> list[Epoch]:
    """The training curve on smooth synthetic images."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(N, 1, 4, 4, generator=g)
    pixels = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
    images = Precise((255 * pixels).round().to(torch.uint8), torch.arange(N) % 3, classes=3, name="golden")
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes, seed=0)
    given = {role: Encoder(Tiny(width=4), (1, 8, 8), seed=2) for role in method.facts.needs}
    net = build_net(method, encoder, Targets(classes=3, pseudo=PSEUDO), 0, given).double()
    settle(net)
    return fit(method, net, images, fitted(method, images, Run(seed=0, threat=Threat("8/255"), pseudo=PSEUDO)))


def compare(path: Path, version: int, found: list[Epoch], regenerate: bool) -> None:
    """Fail unless `found` is what `path` holds for this version."""
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    kept = int(rows[0]["version"]) if rows else None
    numbers = [{key: float(entry) for key, entry in row.items() if key != "version"} for row in rows]
    same = [row.keys() for row in numbers] == [row.keys() for row in found] and all(
        row == pytest.approx(wanted, rel=1e-6, abs=1e-9) for row, wanted in zip(found, numbers, strict=True)
    )
    if same and kept == version:
        return
    if kept is not None and version <= kept:
        pytest.fail(
            f"{path.stem}: numbers moved and the version is still {version}; raise `version`, or undo the change"
        )
    if not regenerate:
        pytest.fail(f"{path.stem}: no golden numbers for version {version}; run again with {FLAG} and commit the file")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["version", *found[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"version": version, **{key: f"{entry:.8g}" for key, entry in row.items()}} for row in found)
    pytest.fail(f"{path.stem}: golden numbers rewritten for version {version}; look at the difference and run again")


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_this_version(name: str, request: pytest.FixtureRequest) -> None:
    method = method_of(name)
    path = Path(__file__).with_name(f"{name.replace('/', '-')}.csv")
    compare(path, method.version, curve(method), request.config.getoption(FLAG))


def test_there_is_no_file_without_a_method() -> None:
    assert {path.stem for path in Path(__file__).parent.glob("*.csv")} == {case.replace("/", "-") for case in CASES}


ROWS: list[Epoch] = [{"epoch": 1, "lr": 0.1, "loss": 2.0}, {"epoch": 2, "lr": 0.1, "loss": 1.0}]
MOVED: list[Epoch] = [{"epoch": 1, "lr": 0.1, "loss": 2.0}, {"epoch": 2, "lr": 0.1, "loss": 1.00001}]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "some.csv"
    with pytest.raises(pytest.fail.Exception, match="rewritten for version 1"):
        compare(path, 1, ROWS, regenerate=True)
    return path


def test_equal_numbers_pass_and_small_differences_of_cpus_too(golden: Path) -> None:
    compare(golden, 1, ROWS, regenerate=False)
    compare(golden, 1, [{key: entry * (1 + 1e-7) for key, entry in row.items()} for row in ROWS], regenerate=False)


@pytest.mark.parametrize("regenerate", [True, False])
@pytest.mark.parametrize("found", [MOVED, ROWS[:1], [{**row, "term": 1.0} for row in ROWS]])
def test_moved_numbers_need_a_raised_version(golden: Path, found: list[Epoch], regenerate: bool) -> None:
    before = golden.read_text()
    with pytest.raises(pytest.fail.Exception, match="numbers moved and the version is still 1; raise `version`"):
        compare(golden, 1, found, regenerate)
    assert golden.read_text() == before


def test_a_raised_version_asks_to_regenerate_and_that_run_fails(golden: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="no golden numbers for version 2; run again with --regenerate"):
        compare(golden, 2, MOVED, regenerate=False)
    with pytest.raises(pytest.fail.Exception, match="rewritten for version 2"):
        compare(golden, 2, MOVED, regenerate=True)
    compare(golden, 2, MOVED, regenerate=False)


def test_a_missing_file_asks_to_regenerate(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="no golden numbers for version 1"):
        compare(tmp_path / "new.csv", 1, ROWS, regenerate=False)
