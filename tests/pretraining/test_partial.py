"""Labels of some images: which ones, batches that share them, and that no other label is read."""

import pytest
import torch

from robustcl.pretraining.images import Images
from robustcl.pretraining.partial import Partial, hidden, some


def images(n: int, classes: int = 10) -> Images:
    labels = torch.arange(n) ** 2 % classes if classes == 7 else torch.arange(n) % classes
    return Images(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), labels, classes=classes, name="blank")


def partial(known: torch.Tensor) -> Partial:
    return Partial(known=known, logits=torch.zeros(len(known), 2))


@pytest.mark.parametrize(("share", "size", "labelled"), [(0.01, 200, 2), (0.1, 250, 25)])
def test_batches_of_acl_have_its_composition(share: float, size: int, labelled: int) -> None:
    known = some(images(45_000), share)
    parts = partial(known).batches(torch.randperm(45_000), size)
    assert len(parts) == 45_000 // size
    assert {len(part) for part in parts} == {size}
    assert {int(known[part].sum()) for part in parts} == {labelled}
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(45_000))


def test_few_labels_come_again_so_that_every_batch_has_one() -> None:
    known = torch.arange(60) < 3
    parts = partial(known).batches(torch.arange(60), 10)
    assert len(parts) == 6
    assert [int(known[part].sum()) for part in parts] == [1] * 6
    rest = torch.cat([part[~known[part]] for part in parts])
    assert torch.equal(rest.sort().values, torch.arange(3, 60)), "images without labels come once"


def test_the_labels_are_a_fixed_part_of_every_class_and_a_larger_share_holds_a_smaller_one() -> None:
    data = images(700, classes=7)  # classes of different sizes
    few, many = some(data, 0.02), some(data, 0.1)
    sizes = data.labels.bincount(minlength=7)
    for found, share in ((few, 0.02), (many, 0.1)):
        wanted = [max(round(share * int(size)), 1) if size else 0 for size in sizes]
        assert data.labels[found].bincount(minlength=7).tolist() == wanted
    assert bool((many | ~few).all())
    assert torch.equal(some(data, 0.1), many)
    assert int(some(images(20), 0.01).sum()) == 10, "one image of each class at least"


def test_hidden_labels_are_gone() -> None:
    data, known = images(30), torch.arange(30) % 3 == 0
    found = hidden(data, known)
    assert torch.equal(found.labels[known], data.labels[known])
    assert found.labels[~known].unique().tolist() == [0]
    assert torch.equal(found.index, data.index)


def test_what_is_known_goes_with_its_rows() -> None:
    whole = Partial(known=torch.tensor([True, False, True]), logits=torch.arange(6.0).view(3, 2))
    part = whole.take(torch.tensor([2, 1]))
    assert part.known.tolist() == [True, False]
    assert part.logits.tolist() == [[4, 5], [2, 3]]
    assert part.identity != whole.identity == whole.take(torch.arange(3)).identity
