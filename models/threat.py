"""The only owner of the ball and the box: norm, radius, projection, random start, steepest direction, distance."""

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator
from torch import Tensor

from robustcl.models.seeding import Draws
from robustcl.models.value import fraction, likely, value

Norm = Literal["linf", "l2", "l1"]


class _Decimal(Fraction):
    """A radius that was written as decimal text."""


def _radius(given: object) -> Fraction:
    eps = fraction(given, "eps")
    if eps < 0:
        raise ValueError(f"'{given}' is negative, expected a radius of at least 0")
    decimal = isinstance(given, _Decimal) or (isinstance(given, str) and "." in given)
    return _Decimal(eps) if decimal else eps


Radius = Annotated[Fraction, BeforeValidator(_radius), PlainSerializer(str, return_type=str)]


@value
class Threat:
    """All images within `eps` of the original in `norm` and within [0, 1].

    `eps` is exact: text (`"8/255"`), an int or a `Fraction`, in units of the pixel range [0, 1]. Decimal text
    (`"0.5"`) is welcome for l2 and l1 and refused for linf, where 0.0314 is not 8/255. A float is refused.
    """

    norm: Norm = "linf"
    eps: Radius = Field(kw_only=False)

    if TYPE_CHECKING:  # what is given is text, what is held is exact

        def __init__(self, eps: str | int | Fraction, *, norm: Norm = "linf") -> None: ...

    @model_validator(mode="after")
    def _exact(self) -> "Threat":
        if self.norm == "linf" and isinstance(self.eps, _Decimal):
            guess = likely(float(self.eps))
            exact = "" if guess == self.eps else f" (for exactly {float(self.eps)} write '{Fraction(self.eps)}')"
            raise ValueError(
                f"eps = '{float(self.eps)}' is a decimal, expected an exact fraction for linf such as '8/255'; "
                f"did you mean '{guess}'?{exact}"
            )
        return self

    def __str__(self) -> str:
        return f"{self.norm} {self.eps} ({float(self.eps):.5g})"

    def project(self, point: Tensor, origin: Tensor) -> Tensor:
        """The image in the ball and the box for `point`, both (n, ...): first the ball, then the box.

        The box only moves a pixel towards the original, which lies in it, so the ball is kept.
        """
        eps = float(self.eps)
        if self.norm == "linf":
            return torch.clamp(point, origin - eps, origin + eps).clamp(0, 1)
        change = (point - origin).flatten(1)
        if self.norm == "l2":
            change = change * (eps / change.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        else:
            change = _project_l1(change, eps)
        return (origin + change.view_as(origin)).clamp(0, 1)

    def random_start(self, origin: Tensor, draws: Draws) -> Tensor:
        """A uniform point of the ball around each image, not clipped to the box, as the published attacks do."""
        eps = float(self.eps)
        n, size = origin.shape[0], origin[0].numel()
        uniform = draws.uniform(n, size + 1).to(origin.device)
        cube, radius = 2 * uniform[:, :size] - 1, uniform[:, size:]
        if self.norm == "linf":
            change = eps * cube
        elif self.norm == "l2":  # a Gaussian direction at the radius of a uniform point of the ball
            gauss = torch.erfinv(cube.clamp(-1 + 1e-6, 1 - 1e-6))
            change = eps * radius ** (1 / size) * gauss / gauss.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:  # a Laplace direction is uniform on the l1 sphere
            laplace = cube.sign() * -torch.log1p(-cube.abs().clamp_max(1 - 1e-6))
            change = eps * radius ** (1 / size) * laplace / laplace.abs().sum(1, keepdim=True).clamp_min(1e-12)
        return origin + change.view_as(origin)

    def steepest(self, gradient: Tensor, share: float = 0.0) -> Tensor:
        """The direction of unit norm along which a linear function with this gradient (n, ...) grows fastest.

        In l1 that is one pixel; with `share` it is spread evenly over this share of the pixels, those with the largest
        gradients (SLIDE, Tramer and Boneh, NeurIPS 2019, section 3), at least one.
        """
        if self.norm == "linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "l2":
            unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
            return unit.view_as(gradient)
        count = max(1, round(share * flat.shape[1]))
        places = flat.abs().topk(count, dim=1).indices
        spread: Tensor = torch.zeros_like(flat).scatter_(1, places, flat.gather(1, places).sign() / count)
        return spread.view_as(gradient)

    def distance(self, point: Tensor, origin: Tensor) -> Tensor:
        """(n,) distances in the norm of the threat."""
        change = (point - origin).flatten(1)
        size: Tensor = torch.linalg.vector_norm(change, {"linf": torch.inf, "l2": 2, "l1": 1}[self.norm], dim=1)
        return size


_SLACK = 1e-4  # by so much of the radius may rounding leave a point outside


def _project_l1(change: Tensor, eps: float) -> Tensor:
    """Euclidean projection of each row (n, d) on the l1 ball (Duchi et al., ICML 2008)."""
    size = change.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - eps
    count = torch.arange(1, change.shape[1] + 1, device=change.device)
    last = (ordered * count > excess).sum(1, keepdim=True).clamp_min(1)
    shrink = (excess.gather(1, last - 1) / last).clamp_min(0)
    inside = size.sum(1, keepdim=True) <= eps
    found = torch.where(inside, change, change.sign() * (size - shrink).clamp_min(0))
    over = found.abs().sum(1, keepdim=True) / max(eps, 1e-12)  # far points cancel in float32; others are within 1e-6
    return torch.where(over > 1 + _SLACK, found / over, found)
