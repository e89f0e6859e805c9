"""Corruption accuracy: which pictures of the official files are judged, what is refused, and a whole suite."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench.corruptions import ALL, STANDARD, Corruptions, check, corrupted
from robustcl.bench.datasets.digits import Digits
from robustcl.bench.errands import from_json, to_json
from robustcl.bench.library import Library
from robustcl.bench.plan import plan
from robustcl.bench.records import SCHEMA
from robustcl.bench.runner import make, prepare
from robustcl.bench.spec import read_suite
from robustcl.models.errors import NumberError, UserError
from robustcl.pretraining.images import Images
from robustcl.reports.frame import frame
from robustcl.reports.report import report
from robustcl.reports.verdicts import summary
from tests.bench.tiny import Quiet, one_line, write_suite

N, SIDE = 7, 4


class Reader(nn.Module):
    """Answers with the class that the top left red value of an image says, modulo 10."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) to one-hot (n, 10)."""
        self.seen.append(images)
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long() % 10, 10).float()


def code(name: int, severity: int, image: int) -> int:
    """The top left red value: another one for every picture that must not be confused, and so is the answer."""
    return (41 * name + 13 * severity + 7 * image) % 256


def write(
    folder: Path, labels: Any, names: tuple[str, ...] = ("fog", "snow"), shape: tuple[int, ...] = (SIDE, SIDE, 3)
) -> Path:
    """Files as CIFAR-10-C has them, for as many test images as there are labels."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.tile(np.asarray(labels, dtype=np.uint8), 5))
    for number, name in enumerate(names):
        stack = np.random.default_rng(number).integers(0, 256, (5 * len(labels), *shape), dtype=np.uint8)
        for severity in range(5):
            for image in range(len(labels)):
                stack[severity * len(labels) + image, 0, 0, 0] = code(number, severity + 1, image)
        np.save(folder / f"{name}.npy", stack)
    return folder


LABELS = [3, 0, 9, 1, 4, 4, 2]


def judged_images(index: list[int]) -> Images:
    rows = torch.tensor(index)
    pixels = torch.zeros(len(index), 3, SIDE, SIDE, dtype=torch.uint8)
    return Images(pixels, torch.tensor(LABELS)[rows], classes=10, index=rows, name="seven test")


def given(folder: Path, **changes: Any) -> Corruptions:
    fields: dict[str, Any] = {"path": folder, "names": ("fog", "snow")}
    return Corruptions(**(fields | changes))


def test_the_sets_are_those_of_the_benchmarks() -> None:
    assert (len(STANDARD), len(ALL), len(set(ALL))) == (15, 19, 19)
    assert set(ALL) - set(STANDARD) == {"spatter", "saturate", "speckle_noise", "gaussian_blur"}
    where = Path("nowhere")
    assert Corruptions(path=where).names == Corruptions(path=where, names="standard").names == STANDARD  # type: ignore[arg-type]
    assert Corruptions(path=where, names="all").names == ALL  # type: ignore[arg-type]
    assert len(Corruptions(path=where).attacks) == 75


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"names": ("fogg",)}, "did you mean 'fog'?"),
        ({"names": "fog"}, "'fog' is wrong, expected a list, 'standard' or 'all'"),
        ({"names": ()}, "expected at least one, each once"),
        ({"names": ("fog", "fog")}, "expected at least one, each once"),
        ({"severities": (1, 6)}, "6 is wrong, expected severities from 1 to 5"),
    ],
)
def test_a_wrong_choice_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        given(Path("nowhere"), **fields)
    assert says in one_line(caught.value)


def test_every_picture_is_judged_in_its_place(tmp_path: Path) -> None:
    # Images 5, 0 and 2 of the test split, in no order: the blocks are found by their index.
    images, chosen = judged_images([5, 0, 2]), given(write(tmp_path, LABELS), severities=(1, 4))
    model = Reader()
    told: list[tuple[int, int]] = []
    found = corrupted(model, images, chosen.files, chosen.severities, report=lambda *of: told.append(of))
    expected = [
        (image, LABELS[image], f"{name}-{severity}", code(number, severity, image) % 10)
        for image in (0, 2, 5)
        for number, name in enumerate(("fog", "snow"))
        for severity in (1, 4)
    ]
    assert list(zip(found["image"], found["label"], found["attack"], found["answer"], strict=True)) == expected
    assert found["right"].tolist() == [answer == label for _, label, _, answer in expected]
    assert set(found["right"]) == {True, False}
    assert found["margin"].tolist() == [1.0 if right else -1.0 for right in found["right"]]
    constant = {"judge": "corruptions", "distance": 0, "step": -1, "passes": 1}
    assert all((found[name] == held).all() for name, held in constant.items())
    assert list(found) == SCHEMA.names
    assert told == [(3, 12), (6, 12), (9, 12), (12, 12)]
    stack = np.load(chosen.files["fog"])
    assert torch.equal((model.seen[0] * 255).round().byte(), torch.from_numpy(stack[[5, 0, 2]]).permute(0, 3, 1, 2))


def test_what_is_judged_already_is_kept(tmp_path: Path) -> None:
    images, chosen = judged_images([0, 1, 2]), given(write(tmp_path / "c", LABELS))
    whole = corrupted(Reader(), images, chosen.files, chosen.severities)

    class Killed(Reader):
        def forward(self, images: Tensor) -> Tensor:
            if len(self.seen) == 7:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        corrupted(Killed(), images, chosen.files, chosen.severities, keep=tmp_path / "keep")
    rest = Reader()
    resumed = corrupted(rest, images, chosen.files, chosen.severities, keep=tmp_path / "keep")
    assert len(rest.seen) == 3
    pd.testing.assert_frame_equal(resumed, whole, check_dtype=False, check_categorical=False)


def test_nan_is_no_answer(tmp_path: Path) -> None:
    class Broken(Reader):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * torch.nan

    chosen = given(write(tmp_path, LABELS))
    with pytest.raises(NumberError, match="the answer to image 4 is not finite"):
        corrupted(Broken(), judged_images([4]), chosen.files, chosen.severities)


def no_file(folder: Path) -> None:
    (folder / "snow.npy").unlink()


def no_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def pickled(folder: Path) -> None:
    np.save(folder / "snow.npy", np.array([{}] * 35), allow_pickle=True)


def truncated(folder: Path) -> None:
    content = (folder / "snow.npy").read_bytes()
    (folder / "snow.npy").write_bytes(content[: len(content) // 2])


def floats(folder: Path) -> None:
    np.save(folder / "snow.npy", np.load(folder / "snow.npy").astype(np.float32))


def channels_first(folder: Path) -> None:
    np.save(folder / "snow.npy", np.load(folder / "snow.npy").transpose(0, 3, 1, 2))


def one_severity(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[:N])


def other_labels(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    labels[4 * N + 2] += 1  # at the last severity alone
    np.save(folder / "labels.npy", labels)


def fewer(folder: Path) -> None:
    write(folder, LABELS[:5])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (no_file, "snow.npy: no such file, expected labels.npy and <corruption>.npy"),
        (no_labels, "'robustcl fetch cifar10-c <folder>'"),
        (pickled, "snow.npy: not a readable .npy (Array can't be memory-mapped"),
        (truncated, "snow.npy: not a readable .npy"),
        (floats, "snow.npy: float32 of shape (35, 4, 4, 3), expected uint8 of shape (35, 4, 4, 3)"),
        (channels_first, "snow.npy: uint8 of shape (35, 3, 4, 4), expected uint8 of shape (35, 4, 4, 3)"),
        (one_severity, "labels.npy: shape (7,), expected 5 times the test split of seven test"),
        (other_labels, "labels.npy: another label for image 2 than seven test"),
        (fewer, "labels.npy: shape (25,), expected 5 times the test split"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    folder = write(tmp_path, LABELS)
    images = judged_images(list(range(N)))
    check(given(folder).files, images)
    harm(folder)
    with pytest.raises(UserError) as caught:
        check(given(folder).files, images)
    assert says in one_line(caught.value)


@pytest.fixture
def digits_c(tmp_path: Path) -> Path:
    """Corruptions of all digits, whose index counts the whole set: fog leaves them alone, snow inverts them."""
    train, test = Digits().load()
    order = torch.cat([train.index, test.index]).argsort()
    pixels = torch.cat([train.pixels, test.pixels])[order].permute(0, 2, 3, 1).numpy()
    folder = tmp_path / "digits-c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(torch.cat([train.labels, test.labels])[order].numpy(), 5))
    np.save(folder / "fog.npy", np.tile(pixels, (5, 1, 1, 1)))
    np.save(folder / "snow.npy", 255 - np.tile(pixels, (5, 1, 1, 1)))
    return folder


def more(folder: Path, names: str = '["fog", "snow"]') -> str:
    return f'corruptions = {{ path = "{folder}", names = {names}, severities = [1, 3] }}\n'


def test_a_suite_has_a_corruption_accuracy(tmp_path: Path, digits_c: Path) -> None:
    suite = write_suite(tmp_path, more=more(digits_c) + 'sweep = { eps = ["1/20"], judges = ["pgd-3"] }\n')
    job = prepare(suite, runs=tmp_path / "runs")
    corrupt = [stage for stage in job.plan.stages if stage.kind == "corrupt"]
    assert [stage.label for stage in corrupt] == ["corrupt random SLF", "corrupt at SLF"]
    assert all(job.plan.cost[stage.key] == 40 * 4 for stage in corrupt)
    assert [("corrupt" in cell, cell["headline"]) for cell in job.plan.cells] == [(True, True), (False, False)] * 2
    assert all(from_json(json.loads(json.dumps(to_json(stage)))).key == stage.key for stage in corrupt)
    make(job, Quiet(), workers=1)
    rows = frame(tmp_path / "runs")
    numbers = summary(rows)
    of = numbers[(numbers["encoder"] == "at") & numbers["headline"]].set_index("judge")
    at = rows[(rows["encoder"] == "at") & rows["headline"] & rows["judge"].isin(["clean", "corruptions"])]
    answers = at.pivot_table(index="image", columns="attack", values="margin", observed=True)
    assert len(answers) == 40
    # Batches differ in size, and some CPUs round a convolution's last bits by it.
    same = {name: np.allclose(answers[name], answers["clean"], rtol=0, atol=1e-5) for name in answers}
    assert same == {"clean": True, "fog-1": True, "fog-3": True, "snow-1": False, "snow-3": False}
    right = at[at["judge"] == "corruptions"].groupby("attack", observed=True)["right"].mean()
    assert of.loc["corruptions", "accuracy"] == pytest.approx(right.mean())
    assert not len(numbers[(numbers["judge"] == "corruptions") & ~numbers["headline"]])
    told = report(tmp_path / "runs")
    assert re.search(r"\|\s+CA \|", told.text)
    assert "CA: mean over 2 corruptions at severities 1, 3" in told.text.replace("\n", " ")
    assert {"corruptions.csv", "severities.csv", "severities.md"} <= {path.name for path in told.paths}
    again = prepare(suite, runs=tmp_path / "runs")
    assert not again.missing


def test_the_key_holds_the_content_and_not_the_place(tmp_path: Path, digits_c: Path) -> None:
    def keys(text: str) -> list[str]:
        made = plan(read_suite(write_suite(tmp_path, more=text)), Library())
        return [stage.key for stage in made.stages if stage.kind == "corrupt"]

    first = keys(more(digits_c))
    moved = digits_c.rename(tmp_path / "elsewhere")
    assert keys(more(moved)) == first
    assert keys(more(moved, '["snow", "fog"]')) != first
    stack = np.load(moved / "fog.npy")
    stack[0] += 1
    np.save(moved / "fog.npy", stack)
    assert not set(keys(more(moved))) & set(first)


def test_a_path_alone_is_all_a_suite_has_to_say(tmp_path: Path) -> None:
    (suite,) = read_suite(write_suite(tmp_path, more='corruptions = "there"\n'))
    assert suite.judge.corruptions == Corruptions(path=Path("there"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("corruptions = 3\n", "tiny.judge.corruptions: "),
        ('corruptions = "there"\n', "there/labels.npy: no such file, expected labels.npy"),
        ('corruptions = { path = "there", name = ["fog"] }\n', "unknown key 'name'"),
        ('corruptions = { path = "there", severities = [0] }\n', "tiny.judge.corruptions.severities: 0 is wrong"),
    ],
)
def test_what_a_suite_says_wrongly_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(read_suite(write_suite(tmp_path, more=text)), Library())
    assert says in one_line(caught.value)


def test_held_out_images_have_no_corruptions(tmp_path: Path, digits_c: Path) -> None:
    suite = write_suite(tmp_path, more=more(digits_c))
    with pytest.raises(UserError, match="made of test images, expected them judged; remove holdout"):
        plan(read_suite(suite, ["data.holdout=5"]), Library())


def test_the_same_cell_in_a_sweep_keeps_its_corruptions(tmp_path: Path, digits_c: Path) -> None:
    """At 1/20 the first point has a sweep, the second its table: one cell, and its corruption accuracy stays."""
    text = (
        'sweep = { eps = ["1/20", "1/10"], judges = ["pgd-3", "apgd-ce"] }\n[grid]\n"threat.eps" = ["1/10", "1/20"]\n'
    )
    suite = write_suite(tmp_path, more=more(digits_c) + text)
    made = plan(read_suite(suite), Library())
    random = [cell for cell in made.cells if cell["encoder"] == "random"]
    assert {cell["eps"] for cell in random} == {"1/10", "1/20"}
    assert all(cell["headline"] and "corrupt" in cell and "corruptions" in cell["judges"] for cell in random)
    assert json.loads(json.dumps(random)) == random
