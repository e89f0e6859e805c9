"""The only owner of a low-rank bypass around the convolutions of an encoder (LoRA, Hu et al., ICLR 2022)."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustcl.models.encoder import Encoder


class Bypass(nn.Module):
    """A term of low rank beside the weight of every convolution of an encoder; all zero at its start.

    A weight (out, in, k, k) becomes w + up @ down / rank, with `down` (rank, in k k) drawn from a normal and `up`
    (out, rank) zero, as in AutoLoRa's released code (Xu et al., ICLR 2024). That has a factor of k more rows in `down`
    and leaves the first convolution out; here the rank is what the paper says, of every convolution.
    """

    def __init__(self, encoder: Encoder, rank: int) -> None:
        super().__init__()
        convs = [(name, part.weight) for name, part in encoder.named_modules() if isinstance(part, nn.Conv2d)]
        self.names, self.rank = [f"{name}.weight" for name, _ in convs], rank
        self.down = nn.ParameterList(torch.randn(rank, weight[0].numel()) for _, weight in convs)
        self.up = nn.ParameterList(torch.zeros(len(weight), rank) for _, weight in convs)

    def forward(self, encoder: Encoder, images: Tensor) -> Tensor:
        """Features (n, width) of the encoder with its bypass; of the two the bypass alone gets a gradient."""
        weights = {name: weight.detach() for name, weight in encoder.named_parameters()}
        for name, up, down in zip(self.names, self.up, self.down, strict=True):
            weights[name] = weights[name] + (up @ down).view_as(weights[name]) / self.rank
        features: Tensor = functional_call(encoder, weights, (images,))
        return features
