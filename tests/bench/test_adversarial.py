"""Adversarial images on disk: what a judge kept, judged again, by us and by others."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from robustcl.bench.adversarial import Saved
from robustcl.bench.attacks import identity, judges
from robustcl.bench.evaluate import Trial, judge
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network, one_line

THREAT = Threat("1/25")
NAMES = ("pgd-5", "two")


def bench() -> Any:
    one, other = (judges([name], 10)[name][0] for name in ("pgd-margin-5", "fgsm"))
    return {**judges(["pgd-5"], 10), "two": [other, one]}


@pytest.fixture
def model() -> torch.nn.Module:
    return network()


@pytest.fixture
def images(model: torch.nn.Module) -> Images:
    return images_for(model, 30)


@pytest.fixture
def saved(model: torch.nn.Module, images: Images, tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    path = tmp_path / "kept.npz"
    return path, judge(model, images, Trial(threat=THREAT, judges=bench(), save=path))


def right(records: pd.DataFrame, name: str) -> dict[int, bool]:
    rows = records[(records["judge"] == name)]
    verdict = rows.groupby("image")["right"].all()
    return dict(zip(verdict.index.tolist(), verdict.tolist(), strict=True))


def test_the_file_holds_the_worst_point_of_every_image(
    model: torch.nn.Module, images: Images, saved: tuple[Path, pd.DataFrame]
) -> None:
    path, records = saved
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    assert str(held["threat"]) == "linf 1/25"
    assert held["adversarial"].dtype == np.float32
    assert held["judge"].tolist() == [name for name in NAMES for _ in range(30)]
    assert held["index"].tolist() == images.index.tolist() * 2
    assert held["label"].tolist() == images.labels.tolist() * 2
    points = torch.from_numpy(held["adversarial"])
    answers = model(points).argmax(1)
    broken = answers != images.labels.repeat(2)
    assert held["broken"].tolist() == broken.tolist(), "as anybody else would find"
    assert 2 < int(broken.sum()) < 58
    assert (THREAT.distance(points, images.pixels.repeat(2, 1, 1, 1)) <= 1 / 25 + 1e-6).all()
    assert torch.equal(points[:2], images.pixels[:2]), "what is wrong clean is kept as it is"
    for number, name in enumerate(NAMES):
        verdict = right(records, name)
        assert [not held["broken"][30 * number + row] for row in range(2, 30)] == list(verdict.values())
    margin = records[records["judge"] == "two"].groupby("image")["margin"].min()
    logits = model(points[32:])
    own = logits.gather(1, images.labels[2:, None])[:, 0]
    gap = own - logits.scatter(1, images.labels[2:, None], -torch.inf).max(1).values
    unbroken = ~broken[32:]
    assert torch.tensor(margin.to_numpy())[unbroken].allclose(gap[unbroken], atol=1e-5)


@pytest.mark.parametrize("only", NAMES)
def test_judged_again_the_verdicts_are_the_same(
    model: torch.nn.Module, images: Images, saved: tuple[Path, pd.DataFrame], only: str
) -> None:
    path, records = saved
    attack = Saved(path=path, only=only)
    assert attack.name == f"saved-kept-{only}"
    again = judge(model, images, Trial(threat=THREAT, judges={"again": [attack]}))
    assert right(again, "again") == right(records, only)
    assert set(again[again["judge"] == "again"]["passes"]) == {1} == {attack.cost(10)}
    both = judge(model, images, Trial(threat=THREAT, judges=judges([f"saved:{path}"], 10)))
    first, second = (right(records, name) for name in NAMES)
    assert right(both, "saved-kept") == {image: first[image] and second[image] for image in first}


def test_in_another_threat_the_points_are_projected(
    model: torch.nn.Module, images: Images, saved: tuple[Path, pd.DataFrame]
) -> None:
    smaller = Threat("1/100")
    found = judge(model, images, Trial(threat=smaller, judges=judges([f"saved:{saved[0]}"], 10)))
    assert (found["distance"] <= 0.01 + 1e-6).all()
    assert found["right"].sum() > saved[1].groupby("image")["right"].all().sum()


def test_a_part_of_the_images_and_another_order_are_fine(
    model: torch.nn.Module, images: Images, saved: tuple[Path, pd.DataFrame]
) -> None:
    part = images.take(torch.tensor([9, 4, 17]))
    found = judge(model, part, Trial(threat=THREAT, judges={"again": [Saved(path=saved[0], only="two")]}))
    whole = right(saved[1], "two")
    assert right(found, "again") == {image: whole[image] for image in sorted(part.index.tolist())}


def test_other_images_labels_and_files_are_refused_in_one_line(
    model: torch.nn.Module, images: Images, saved: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    def again(held: Images, attack: Saved) -> str:
        with pytest.raises(UserError) as caught:
            judge(model, held, Trial(threat=THREAT, judges={"again": [attack]}))
        return one_line(caught.value)

    path = saved[0]
    with torch.no_grad():
        moved = images.pixels.clone()
        moved[5] = 1 - moved[5]
        answers = model(moved).argmax(1)
    same = Images(moved, answers, index=images.index, classes=10, name="other")
    assert "made from another image 28, expected the images that are judged" in again(same, Saved(path=path))
    far = Images(images.pixels, images.labels, index=images.index + 1, classes=10, name="other")
    assert "nothing of image 14, expected every image" in again(far, Saved(path=path))
    with np.load(path) as file:
        held = dict(file)
    held["label"] = (held["label"] + 1) % 10
    np.savez(tmp_path / "labels.npz", **held)
    assert "made for other labels" in again(images, Saved(path=tmp_path / "labels.npz"))
    assert "no judge 'three', expected one of pgd-5, two" in again(images, Saved(path=path, only="three"))
    assert "damaged or not adversarial images" in again(images, Saved(path=tmp_path / "none.npz"))
    for name, content in {"cut": path.read_bytes()[:700], "empty": b"", "text": b"images"}.items():
        (tmp_path / name).write_bytes(content)
        assert "damaged or not adversarial images" in again(images, Saved(path=tmp_path / name))
    np.savez(tmp_path / "pickled.npz", **{**held, "judge": np.array([{}] * 60, dtype=object)})
    assert "damaged or not adversarial images" in again(images, Saved(path=tmp_path / "pickled.npz"))


def test_identity_is_the_content_not_the_place(saved: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.npz"
    copy.write_bytes(saved[0].read_bytes())
    one, other = identity(Saved(path=saved[0])), identity(Saved(path=copy))
    assert one == other
    assert "kept" not in str(one)
    assert identity(Saved(path=copy, only="two")) != one
    copy.write_bytes(b"changed")
    assert identity(Saved(path=copy)) != one


@pytest.mark.parametrize("eps", ["0", "1/25"])
def test_a_restart_keeps_the_points(model: torch.nn.Module, images: Images, tmp_path: Path, eps: str) -> None:
    trial = Trial(threat=Threat(eps), judges=bench(), batch=4)
    judge(model, images, dataclasses.replace(trial, save=tmp_path / "whole.npz"))
    kept = dataclasses.replace(trial, save=tmp_path / "again.npz", keep=tmp_path / "batches")
    judge(model, images, kept)
    for path in sorted((tmp_path / "batches").glob("*.npz"))[::2]:
        path.unlink()
    judge(model, images, kept)
    with np.load(tmp_path / "whole.npz") as one, np.load(tmp_path / "again.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
    with pytest.raises(UserError, match=r"adversarial images \(saved then, not saved now\)"):
        judge(model, images, dataclasses.replace(kept, save=None))
