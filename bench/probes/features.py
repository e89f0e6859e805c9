"""The only owner of the probe `features`: what an encoder makes of images, and where t-SNE puts it in the plane."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits
from torch import Tensor

from robustcl.bench.probe import Arrays, NetworkProbe, Reads, Subject, attacked, placed
from robustcl.models.seeding import derive
from robustcl.models.value import value
from robustcl.pretraining.images import Images

_BATCH, _KEPT = 512, 50  # images of a pass; principal components that t-SNE sees
Array = NDArray[Any]


@value
class Features(NetworkProbe):
    """Features of a fixed random part of the test images: of the pretrained encoder, or with `scheme` of the finetuned.

    With `attack` (which needs a scheme, whose classifier it fools) of the adversarial images too; both are put into one
    plane. The plane is t-SNE (van der Maaten and Hinton, JMLR 2008) after PCA to 50 components, of a fixed seed, made
    here so that drawing again is quick. Arrays: `image` (n,) and `label` (n,), `features` (n, d) and `plane` (n, 2),
    `adversarial_features` and `adversarial_plane` with an attack.
    """

    version: ClassVar[int] = 1

    images: int = Field(default=2000, ge=4)
    scheme: str | None = None
    attack: str | None = None
    perplexity: float = Field(default=30, ge=1)

    @model_validator(mode="after")
    def _fooled(self) -> "Features":
        if self.attack is not None and self.scheme is None:
            raise ValueError("attack needs a classifier to fool, expected scheme = <a name below [finetune]> with it")
        return self

    @property
    def reads(self) -> Reads:
        return "encoder" if self.scheme is None else "classifier"

    @property
    def attacked(self) -> str | None:
        return self.attack

    def passes(self, images: Images) -> int:
        return min(self.images, len(images)) * (2 if self.attack else 1)

    def run(self, subject: Subject) -> Arrays:
        part = subject.images.sample(self.images)
        sets = {"": part.floats(slice(None))}
        if self.attack:
            sets["adversarial_"] = attacked(subject, part)[0]
        found = {name: _features(subject, pixels) for name, pixels in sets.items()}
        plane = np.split(_plane(np.concatenate(list(found.values())), self.perplexity, subject.seed), len(sets))
        arrays = {f"{name}features": features for name, features in found.items()}
        return placed(part) | arrays | {f"{name}plane": at for name, at in zip(sets, plane, strict=True)}


def _features(subject: Subject, pixels: Tensor) -> Array:
    """(n, d) float32."""
    encoder = subject.encoder
    assert encoder is not None
    with torch.no_grad():
        return torch.cat([encoder(part) for part in pixels.split(_BATCH)]).cpu().numpy()


def _plane(features: Array, perplexity: float, seed: int) -> Array:
    """(n, 2) float32. One thread, or sums in another order would put points elsewhere in every run."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.ptp(features, axis=0).any():  # every image has the same features, which no plane can tell apart
        return np.zeros((len(features), 2), dtype=np.float32)
    kept, state = min(_KEPT, *features.shape), derive(seed, "plane") % 2**32
    with threadpool_limits(1):
        fewer = PCA(kept, svd_solver="full").fit_transform(features.astype(np.float64))
        put = TSNE(perplexity=min(perplexity, (len(features) - 1) / 3), init="pca", random_state=state)
        return np.asarray(put.fit_transform(fewer), dtype=np.float32)
