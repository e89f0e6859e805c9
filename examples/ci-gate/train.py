"""Adversarial training of the network on scikit-learn's digits: seconds on a CPU. `python train.py [EPS]`."""

import sys

import torch
from models.net import Net
from safetensors.torch import save_file
from torch import Tensor, nn

from robustcl.bench.datasets.digits import Digits


def attack(net: Net, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Five steps of PGD in linf."""
    point = x.clone()
    for _ in range(5):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(point), y), point)
        point = (point + eps / 3 * gradient.sign()).detach()
        point = torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)
    return point


def main(eps: float) -> None:
    """Train for 300 steps and write weights.safetensors."""
    torch.manual_seed(0)
    train = Digits().load().train
    x, y = train.floats(slice(None)), train.labels
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(300):
        rows = torch.randint(len(y), (256,))
        loss = nn.functional.cross_entropy(net(attack(net, x[rows], y[rows], eps)), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(net.state_dict(), "weights.safetensors")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.1)
