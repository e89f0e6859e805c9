"""The only owner of the losses between views and between answers: NT-Xent, SupCon over views, TRADES' divergence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.errors import UserError
from robustcl.models.share import precise as precise


@dataclass(frozen=True, kw_only=True)
class Hard:
    """Hard negatives (HCL, Robinson et al., ICLR 2021, as A-InfoNCE takes them over): negatives weigh more where near.

    A negative with e = exp(similarity / T) weighs e^beta over its mean, and `tau`, the chance that a negative is none,
    is taken off. Two slips of the released code of A-InfoNCE: `across`, the mean of one anchor's row divides another's
    column; `unshifted`, the lower bound is not shifted although the exponentials were.
    """

    beta: float = 1.0
    tau: float = 0.12
    across: bool = False
    unshifted: bool = False


def nt_xent(views: Sequence[Tensor], temperature: float, *, detach: bool = False) -> Tensor:
    """NT-Xent (SimCLR, Chen et al., ICML 2020) of two (n, d) tensors, whose rows are partners; a scalar.

    `-1/2n sum_i log(exp(z_i.z_p(i)/T) / sum_{k != i} exp(z_i.z_k/T))` over the 2n normalised rows; `detach` as in
    `directed`. RoCL's three-view form, the sum of its six directions over 3n, is `2 * sup_con` of three views.
    Errors: `UserError` for other than two views, shapes that differ or are not (n, d), a temperature not above 0.
    """
    if len(views) != 2:
        raise UserError(f"nt_xent: {len(views)} views, expected 2; sup_con takes more")
    return sup_con(views, temperature, detach=detach)


def sup_con(views: Sequence[Tensor], temperature: float, scale: float = 1.0, *, detach: bool = False) -> Tensor:
    """The contrastive loss of AdvCL (Fan et al., NeurIPS 2021) over m views (n, d) each; a scalar.

    `scale` times the mean, over the m n normalised rows and the m - 1 other views of each, of
    `-log(exp(z_i.z_j/T) / sum_{k != i} exp(z_i.z_k/T))`. At `scale` 1 it is NT-Xent for two views. The released code
    has T / 0.07; the paper sums over all ordered positive pairs, which per image is m (m - 1). `detach` as in
    `directed`. Errors: `UserError` for fewer than two views, shapes that differ, a temperature not above 0.
    """
    m = len(views)
    return scale * directed(views, temperature, detach=detach).sum() / max(m * (m - 1), 1)


def directed(views: Sequence[Tensor], temperature: float, *, detach: bool = False, hard: Hard | None = None) -> Tensor:
    """The contrastive term of every ordered pair of views: (m, m), 0 on the diagonal.

    Entry (u, v) is the mean over the n images of `-log(exp(z_u.z_v/T) / D_u)`, anchor in view u and positive in view v,
    where D_u sums over all m n - 1 other rows, or is the mean positive and the `hard` negatives. With `detach` the
    second factor of every similarity is a constant, so that the anchor alone is pulled (RoCL's released code; about
    half of the gradient of NT-Xent, and not parallel to it).
    Errors: `UserError` for fewer than two views, shapes that differ or are not (n, d), a temperature not above 0.
    """
    m, n = len(views), _rows("contrast", views, fewest=2)
    if not temperature > 0:
        raise UserError(f"contrast: temperature {temperature}, expected a number above 0")
    with torch.autocast(views[0].device.type, enabled=False):  # a sum of exponentials at T = 0.5 needs float32
        z = F.normalize(torch.cat([precise(view) for view in views]), dim=1)
        similar = z @ (z.detach() if detach else z).T / temperature  # (m n, m n)
        row = torch.arange(m * n, device=z.device)
        partners = row % n + n * torch.arange(m, device=z.device)[:, None]  # (m, m n): the row of each view's image
        positive = similar.gather(1, partners.T)  # (m n, m); an anchor's own view among them
        itself = row[:, None] == partners.T
        if hard is None:
            bottom = similar.masked_fill(torch.eye(m * n, dtype=torch.bool, device=z.device), -torch.inf).logsumexp(1)
        else:
            bottom = _hard_bottom(similar, positive, itself, 1 / temperature, hard)
        terms = (bottom[:, None] - positive).masked_fill(itself, 0)
        return terms.view(m, n, m).mean(1)


def _hard_bottom(similar: Tensor, positive: Tensor, itself: Tensor, top: float, hard: Hard) -> Tensor:
    """The logarithm of the mean positive and the hard negatives of each row; `top` is the largest similarity, 1 / T."""
    m = positive.shape[1]
    n = len(similar) // m
    image = torch.arange(len(similar), device=similar.device) % n
    own_image, count = image[:, None] == image, (n - 1) * m
    near = similar - top  # in logarithms throughout: exponentials at a small temperature leave every float
    weight = (hard.beta * near).masked_fill(own_image, -torch.inf)
    mean = weight.logsumexp(1) - math.log(count)
    weight = weight - (mean if hard.across else mean[:, None])
    hardest = (weight + near).logsumexp(1)
    own = (positive - top).masked_fill(itself, -torch.inf).logsumexp(1) - math.log(m - 1)
    least = torch.full_like(own, math.log(count) - (top if hard.unshifted else 2 * top))
    shift = torch.stack([hardest, own, least]).amax(0).detach()
    negatives = ((hardest - shift).exp() - hard.tau * count * (own - shift).exp()) / (1 - hard.tau)
    return ((own - shift).exp() + torch.maximum(negatives, (least - shift).exp())).log() + shift + top


def kl(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """TRADES' divergence (Zhang et al., ICML 2019): `1/n sum KL(softmax(clean) || softmax(adversarial))`; a scalar.

    Both are (n, classes), and both get a gradient, as in the released code.
    Errors: `UserError` for shapes that differ or are not (n, classes).
    """
    _rows("kl", [clean_logits, adversarial_logits], fewest=2)
    with torch.autocast(clean_logits.device.type, enabled=False):
        clean, adversarial = (F.log_softmax(precise(x), dim=1) for x in (clean_logits, adversarial_logits))
        return F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def _rows(where: str, given: Sequence[Tensor], fewest: int) -> int:
    """The n of tensors that are all of one shape (n, d)."""
    shapes = [tuple(x.shape) for x in given]
    if len(shapes) < fewest:
        raise UserError(f"{where}: {len(shapes)} views, expected at least {fewest}")
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise UserError(f"{where}: shapes {', '.join(map(str, shapes))}, expected one shape (n, d) for all")
    return shapes[0][0]
