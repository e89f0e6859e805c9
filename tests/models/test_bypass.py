"""The low-rank bypass: its rank, its start, and whose gradient it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from robustcl.models.architecture import read_architecture
from robustcl.models.bypass import Bypass
from robustcl.models.encoder import Encoder


def encoder(name: str = "tiny") -> Encoder:
    made = Encoder(read_architecture({"name": name, **({"width": 12} if name == "tiny" else {})}, "x"), (3, 16, 16))
    return made.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["tiny", "resnet"])
def test_it_begins_as_the_encoder(name: str, x: torch.Tensor) -> None:
    whole = encoder(name)
    bypass = Bypass(whole, 8)
    assert torch.allclose(bypass(whole, x), whole(x), atol=1e-6)
    assert len(bypass.up) == sum(isinstance(part, nn.Conv2d) for part in whole.modules())
    assert all(bool((part == 0).all()) for part in bypass.up)
    assert all(bool((part != 0).any()) for part in bypass.down)


def test_what_it_adds_to_a_weight_has_its_rank(x: torch.Tensor) -> None:
    whole = encoder()
    bypass = Bypass(whole, 8)
    with torch.no_grad():
        for part in bypass.up:
            part.normal_()
    weights = dict(whole.named_parameters())
    for name, up, down in zip(bypass.names, bypass.up, bypass.down, strict=True):
        term = up @ down
        assert term.numel() == weights[name].numel()
        assert torch.linalg.matrix_rank(term) == min(8, *term.shape)
    assert any(min(term.shape) > 8 for term in (weights[name].flatten(1) for name in bypass.names))
    assert not torch.allclose(bypass(whole, x), whole(x), atol=1e-3)


def test_it_is_a_term_of_the_weights(x: torch.Tensor) -> None:
    whole = encoder()
    bypass = Bypass(whole, 2)
    with torch.no_grad():
        for part in bypass.up:
            part.normal_()
        answer = bypass(whole, x)
        for name, up, down in zip(bypass.names, bypass.up, bypass.down, strict=True):
            weight = whole.get_parameter(name)
            weight.add_((up @ down).view_as(weight) / 2)
        assert torch.allclose(answer, whole(x), atol=1e-5)


def test_a_pass_by_way_of_it_moves_it_alone_and_the_statistics(x: torch.Tensor) -> None:
    whole = encoder().train()
    bypass = Bypass(whole, 8)
    before = [buffer.clone() for name, buffer in whole.named_buffers() if "running" in name]
    F.mse_loss(bypass(whole, x), torch.ones(4, whole.width)).backward()
    assert all(p.grad is None for p in whole.parameters())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in bypass.up)
    after = [buffer for name, buffer in whole.named_buffers() if "running" in name]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
