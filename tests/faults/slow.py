"""A classifier of the digits that takes its time."""

import time

import torch
from torch import Tensor, nn


class Slow(nn.Module):
    """One linear layer, after a hundredth of a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10)."""
        time.sleep(0.01)
        answer: Tensor = self.layer(x.flatten(1))
        return answer


def slow() -> Slow:
    """As `robustcl evaluate` asks for it."""
    return Slow()
