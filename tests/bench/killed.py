"""A process that the restart tests start: it judges, and at a given call of the model it kills itself.

`python -m tests.bench.killed FOLDER`: per attack a fork, which ends by SIGKILL in the middle of the attack.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Attack
from robustcl.bench.pgd import PGD
from robustcl.bench.transfer_attack import Transfer
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network


class Counting(nn.Module):
    """A model that draws, counts its calls, and may kill its process at one of them."""

    def __init__(self, dies_at: int = 0) -> None:
        super().__init__()
        self.model, self.calls, self.dies_at = network(), 0, dies_at

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10)."""
        self.calls += 1
        if self.calls == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        answer: Tensor = self.model(x + 1e-3 * torch.randn_like(x))
        return answer


def wrapped(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    """Noise from the generator that it is given and from the global one."""
    noise: Tensor = 2 * (torch.rand(x.shape, generator=g) + torch.rand_like(x)) - 2
    return x + noise


ATTACKS: dict[str, Attack] = {
    "pgd": PGD(steps=4, restarts=2),
    "pgd-targeted": PGD(steps=2, target="each", targets=3, loss="margin", samples=2),
    "apgd-ce": APGD(steps=6),
    "apgd-dlr": APGD(loss="dlr", steps=6, samples=2),
    "apgd-t": APGD(loss="targeted", steps=6, targets=2),
    "fab": FAB(targeted=False, steps=4),
    "fab-t": FAB(steps=4, targets=2),
    "square": Square(queries=25),
    "transfer": Transfer(source=network(seed=1), attack=PGD(steps=3, verdict="last")),
}


def setting(name: str, keep: Path | None) -> tuple[Images, Trial]:
    """Images and trial of one attack: a judge of that attack after a short PGD, in batches of four."""
    from robustcl.bench.attacks import Wrapped

    attack = ATTACKS.get(name) or Wrapped(function=wrapped)
    bench: dict[str, list[Attack]] = {"first": [PGD(steps=1)], name: [PGD(steps=1), attack]}
    return images_for(network(), 18), Trial(threat=Threat("1/40"), judges=bench, batch=4, keep=keep, seed=2)


def main(folder: Path) -> None:
    """Kill one fork per attack, in the second half of its calls, and print how each ended."""
    torch.set_num_threads(1)
    for name in (*ATTACKS, "wrapped"):
        whole = Counting()
        judge(whole, *setting(name, None))
        child = os.fork()
        if not child:
            judge(Counting(dies_at=whole.calls * 3 // 4), *setting(name, folder / name))
            os._exit(0)
        print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
