"""The only owner of what the tests of `bench` share: a suite of seconds, a small model, images with structure."""

import tomllib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcl.bench.locks import Holder
from robustcl.bench.store import Stage
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images

TINY = """# A suite of seconds, for tests.
# It reproduces nothing.
[data]
name = "digits"

[encoder]
name = "tiny"
width = 4
blocks = [1]

[threat]
norm = "linf"
eps = "1/10"

[pretrain.at]
method = "supervised"
objective = "adversarial"
weak = "digits-weak"
ascent = { steps = 1 }
training = { epochs = 1, batch = 256 }

[finetune.SLF]
weak = "digits-weak"
selection = ["last"]
training = { epochs = 1, batch = 256 }

[judge]
judges = ["pgd-3", "apgd-ce"]
images = 40
batch = 8
"""


def write_suite(folder: Path, name: str = "tiny", more: str = "") -> Path:
    """The tiny suite as `<folder>/<name>.toml`, with `more` TOML at its end."""
    path = folder / f"{name}.toml"
    path.write_text(TINY + more)
    return path


def table() -> dict[str, Any]:
    """The tiny suite as a table."""
    return tomllib.loads(TINY)


def one_line(error: UserError | str) -> str:
    """The text of an error, which has to be one line."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def network(classes: int = 10, size: int = 4, seed: int = 0) -> nn.Sequential:
    """A small network (n, 1, size, size) -> (n, classes) with weights of its own seed, in eval mode."""
    g = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(size**2, 32), nn.Linear(32, classes, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.randn(32, size**2, generator=g))
        first.bias.copy_(-first.weight.sum(1) / 2)  # grey is in the middle, so that every class occurs
        last.weight.copy_(torch.randn(classes, 32, generator=g))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).eval()


def images_for(model: nn.Module, n: int = 12, *, classes: int = 10, size: int = 4, wrong: int = 2) -> Images:
    """Random images labelled as the model answers, but for the first `wrong`; `index` does not start at 0."""
    pixels = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % classes
    return Images(pixels, labels, classes=classes, index=torch.arange(n) * 5 + 3, name="random")


def trained(classes: int = 10, n: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network trained on the first digits below `classes`, and `n` digits it never saw."""
    from robustcl.bench.datasets.digits import Digits

    train, test = Digits().load()
    few_train, few_test = (s.take(s.labels < classes) for s in (train, test))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 24), nn.ReLU(), nn.Linear(24, classes)
        )
    fitted(model, few_train, steps=40, batch=len(few_train))
    return model, few_test.floats(slice(0, n)), few_test.labels[:n]


def fitted(model: nn.Sequential, train: Images, *, steps: int, batch: int) -> nn.Sequential:
    """`model` after so many steps of Adam on the training images, batch after batch in their order, in eval mode."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02 if batch == len(train) else 0.002)
    for step in range(steps):
        at = step * batch % (len(train) - batch + 1)
        rows = slice(at, at + batch)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train.floats(rows)), train.labels[rows]).backward()
        optimiser.step()
    return model.eval()


class Quiet:
    """A watch that notes the labels of what happened."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []

    def started(self, stage: Stage) -> None:
        """Noted."""
        self.begun.append(stage.label)

    def moved(self, stage: Stage, done: int, total: int) -> None:
        """Not noted."""

    def finished(self, stage: Stage) -> None:
        """Noted."""
        self.done.append(stage.label)

    def waiting(self, stage: Stage, holder: Holder) -> None:
        """Not noted."""


def visible(root: Path) -> dict[str, bytes]:
    """Every visible stage file but `stage.json`, by its path below `root`."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for kind in ("pretrain", "import", "labels", "finetune", "evaluate")
        for path in sorted((root / kind).glob("[!.]*/*"))
        if path.name != "stage.json"
    }
