"""Files of labels and baselines: what is written is read, of any other content a line is said."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcl.pretraining.pseudo_labels import load_labels, save_labels
from robustcl.reports.baseline import Baseline, Row, read_baseline, write_baseline
from tests.fuzz.target import find, names
from tests.properties.lines import answer

TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)


@given(st.integers(1, 30), st.lists(st.integers(2, 1000), min_size=1, max_size=3, unique=True), st.integers(0, 2**31))
def test_labels_that_are_written_are_read(n: int, clusters: list[int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    labels = {k: torch.randint(-1, k, (n,), generator=g) for k in clusters}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.npz"
        save_labels(path, labels)
        found = load_labels(path, n)
        assert answer(lambda: load_labels(path, n + 1)) is None
    assert found.keys() == labels.keys()
    assert all(torch.equal(found[k], labels[k]) for k in labels)


@given(TEXT, TEXT, st.dictionaries(TEXT, st.integers(0, 2**31), max_size=2), st.integers(0, 12), st.integers(0, 2**31))
def test_a_baseline_that_is_written_is_read(encoder: str, why: str, seeds: dict[str, int], n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    row = Row(
        encoder=encoder, scheme="SLF", data="digits", norm="linf", eps="8/255", judge="pgd-20", seeds=seeds, why=why,
        image=np.sort(draw.choice(100, n, replace=False)).astype(np.int32),
        label=draw.integers(0, 1000, n).astype(np.int16), right=draw.integers(0, 2, n) > 0,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "baseline.parquet"
        write_baseline(path, Baseline(rows=(row,), about={"suite": encoder}))
        found = read_baseline(path)
    (back,) = found.rows
    assert back.key == row.key
    assert back.why == row.why
    assert found.about == {"suite": encoder}
    for name in ("image", "label", "right"):
        np.testing.assert_array_equal(getattr(back, name), getattr(row, name))


@given(st.sampled_from(names()), st.integers(0, 2**32))
def test_any_changed_file_is_read_or_refused_in_one_line(name: str, seed: int) -> None:
    draw, target = Random(seed), find(name)
    data = draw.choice(list(target.seeds().values()))
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    target.accept(bytes(changed))
    target.accept(data[: draw.randrange(len(data))])
