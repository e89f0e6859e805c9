"""Tests of the heads: the layers of the published projectors, in order, and the start of the classifier."""

import pytest
import torch
from torch import nn

from robustcl.models.errors import UserError
from robustcl.models.heads import Norm, linear, projector


def layers(head: nn.Sequential) -> list[str]:
    """`512>128` for a linear layer with bias, `512>128-` for one without, `norm 512`, `relu`."""
    said = []
    for part in head:
        if isinstance(part, nn.Linear):
            said.append(f"{part.in_features}>{part.out_features}{'' if part.bias is not None else '-'}")
        else:
            said.append(f"norm {part.num_features}" if isinstance(part, nn.BatchNorm1d) else type(part).__name__)
    return said


def test_advcl_projector() -> None:
    assert layers(projector(512, 512, 128)) == ["512>512", "norm 512", "ReLU", "512>128"]


def test_acl_projector() -> None:
    assert layers(projector(512, 512, 256, layers=3, norm="all")) == [
        *("512>512", "norm 512", "ReLU"),
        *("512>512-", "norm 512", "ReLU"),
        *("512>256-", "norm 256"),
    ]


def test_acl_short_projector() -> None:
    assert layers(projector(512, 512, 512, layers=2, norm="all")) == [
        *("512>512", "norm 512", "ReLU"),
        *("512>512-", "norm 512"),
    ]


def test_rocl_projector() -> None:
    assert layers(projector(512, 2048, 128, norm="none")) == ["512>2048", "ReLU", "2048>128"]


@pytest.mark.parametrize("norm", ["hidden", "none"])
def test_one_layer_is_linear(norm: Norm) -> None:
    assert layers(projector(32, 999, 8, layers=1, norm=norm)) == ["32>8"]


def test_projector_maps_features() -> None:
    assert projector(32, 16, 8)(torch.randn(5, 32)).shape == (5, 8)


def test_classifier_starts_at_zero_where_asked() -> None:
    x = torch.randn(4, 32)
    assert linear(32, 10, zero=True)(x).eq(0).all()
    answers = linear(32, 10)(x)
    assert answers.shape == (4, 10)
    assert answers.ne(0).all()


@pytest.mark.parametrize("sizes", [(0, 8, 8, 2), (8, 0, 8, 2), (8, 8, 0, 2), (8, 8, 8, 0)])
def test_a_projector_without_size_is_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match=r"^projector: .* expected at least 1 each$"):
        projector(*sizes)


@pytest.mark.parametrize("sizes", [(0, 10), (32, 0)])
def test_a_classifier_without_size_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"^classifier: .* expected at least 1 each$"):
        linear(*sizes)
