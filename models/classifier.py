"""The only owner of `Classifier`: an encoder on its deployed route with a linear head, images in [0, 1] to logits."""

from torch import Tensor, nn

from robustcl.models.encoder import Encoder


class Classifier(nn.Module):
    """What is attacked and judged: (n, channels, height, width) in [0, 1] to (n, classes) logits."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.head(self.encoder(images))
        return logits
