"""The only owner of choosing an epoch: what held-out training images say after each, and the best weights so far."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.errors import NumberError
from robustcl.models.seeding import ImageDraws
from robustcl.models.share import processes, total
from robustcl.models.threat import Threat
from robustcl.models.value import digest, plain
from robustcl.pretraining.ascent import Ascent
from robustcl.pretraining.images import Images
from robustcl.pretraining.method import Net
from robustcl.pretraining.monitor import PIECE, unmoved

Epoch = dict[str, float]
"""One epoch's row of the training curve: epoch (from 1), lr, loss and each named term (means over the steps), and in
the epochs that a monitor or a validation measures, what it found."""

PGD20 = Ascent(steps=20, step="eps/4")


class Validation:
    """Held-out `images` that a classifier is asked for after every epoch, and the `best` weights so far.

    With a threat the epoch with the highest accuracy under PGD-20 (cross-entropy, one random start, the last iterate)
    is the best, without one that with the highest clean accuracy; of equal ones the earliest. The draws are keyed by
    image and are the same after every epoch, so that epochs differ by their weights alone, and no draw of the training
    moves. Test images have no part in it.
    """

    def __init__(self, images: Images, threat: Threat | None, seed: int) -> None:
        self.images, self.threat, self.seed = images, threat, seed
        self.best: dict[str, Tensor] = {}

    @property
    def column(self) -> str:
        """The column of the curve that decides."""
        return "robust_val" if self.threat else "val"

    @property
    def identity(self) -> str:
        """What tells this validation from another."""
        return digest([self.images.fingerprint, plain(self.threat) if self.threat else None, self.seed])

    def measure(self, net: Net, history: Sequence[Epoch]) -> None:
        """Add `val` and with a threat `robust_val`, shares in [0, 1], to the last row; keep the weights if they lead.

        An image is robustly right where the answer is right before and after the attack, as everywhere in robustcl. The
        net comes back bit for bit as it was: weights, statistics, modes, route, and no gradient on a parameter.
        """
        found, (rank, world) = torch.zeros(2, device=self.images.pixels.device), processes()
        with unmoved(net.encoder):
            for rows in torch.arange(len(self.images)).split(PIECE)[rank::world]:
                right, held = self._right(net, rows)
                found += torch.stack([right.sum(), held.sum()])
        clean, robust = (total(found) if world > 1 else found).tolist()
        history[-1]["val"] = clean / len(self.images)
        if self.threat is not None:
            history[-1]["robust_val"] = robust / len(self.images)
        if chosen(history, self.column) == len(history):
            self.best = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    def _right(self, net: Net, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these images are right, and which of them stay so under attack."""
        here = rows.to(self.images.pixels.device)
        images, labels = self.images.floats(here), self.images.labels[here]
        with torch.no_grad():
            logits = net(images, "classes")
            if not torch.isfinite(logits).all():
                raise NumberError("validation: answers are not finite, expected numbers to choose an epoch by")
            right: Tensor = logits.argmax(1) == labels
        if self.threat is None:
            return right, right

        def objective(x: Tensor) -> Tensor:
            return F.cross_entropy(net(x, "classes"), labels, reduction="sum")

        draws = ImageDraws(self.images.index[here].tolist(), self.seed, "validation")
        attacked = PGD20(objective, images, self.threat, net, draws)
        with torch.no_grad():
            return right, right & (net(attacked, "classes").argmax(1) == labels)


def chosen(history: Sequence[Epoch], column: str) -> int:
    """The epoch (from 1) with the highest value of a column; of equal ones the earliest, 0 where there is none."""
    values = [row[column] for row in history]
    return values.index(max(values)) + 1 if values else 0
