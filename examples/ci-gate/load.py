"""The factory that the gate calls."""

from pathlib import Path

from models.net import Net
from safetensors.torch import load_file


def model() -> Net:
    """The trained network."""
    net = Net()
    net.load_state_dict(load_file(Path(__file__).parent / "weights.safetensors"))
    return net
