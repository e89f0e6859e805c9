"""The only owner of the losses between views and between answers: NT-Xent, SupCon over views, TRADES' divergence."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustcl.models.errors import UserError


def nt_xent(views: Sequence[Tensor], temperature: float) -> Tensor:
    """NT-Xent (SimCLR, Chen et al., ICML 2020) of two (n, d) tensors, whose rows are partners; a scalar.

    `-1/2n sum_i log(exp(z_i.z_p(i)/T) / sum_{k != i} exp(z_i.z_k/T))` over the 2n normalised rows.
    Errors: `UserError` for other than two views, shapes that differ or are not (n, d), a temperature not above 0.
    """
    if len(views) != 2:
        raise UserError(f"nt_xent: {len(views)} views, expected 2; sup_con takes more")
    return sup_con(views, temperature)


def sup_con(views: Sequence[Tensor], temperature: float, scale: float = 1.0) -> Tensor:
    """The contrastive loss of AdvCL (Fan et al., NeurIPS 2021) over m views (n, d) each; a scalar.

    `scale` times the mean, over the m n normalised rows and the m - 1 other views of each, of
    `-log(exp(z_i.z_j/T) / sum_{k != i} exp(z_i.z_k/T))`. At `scale` 1 it is NT-Xent for two views. The released code
    has T / 0.07; the paper sums over all ordered positive pairs, which per image is m (m - 1).
    Errors: `UserError` for fewer than two views, shapes that differ or are not (n, d), a temperature not above 0.
    """
    m, n = len(views), _rows("contrast", views, fewest=2)
    if not temperature > 0:
        raise UserError(f"contrast: temperature {temperature}, expected a number above 0")
    with torch.autocast(views[0].device.type, enabled=False):  # a sum of exponentials at T = 0.5 needs float32
        z = F.normalize(torch.cat([_precise(view) for view in views]), dim=1)
        similar = z @ z.T / temperature  # (m n, m n)
        row = torch.arange(m * n, device=z.device)
        partners = (row[:, None] + n * torch.arange(1, m, device=z.device)) % (m * n)
        positive = similar.gather(1, partners).mean(1)
        itself = torch.eye(m * n, dtype=torch.bool, device=z.device)
        return scale * (similar.masked_fill(itself, -torch.inf).logsumexp(1) - positive).mean()


def kl(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """TRADES' divergence (Zhang et al., ICML 2019): `1/n sum KL(softmax(clean) || softmax(adversarial))`; a scalar.

    Both are (n, classes), and both get a gradient, as in the released code.
    Errors: `UserError` for shapes that differ or are not (n, classes).
    """
    _rows("kl", [clean_logits, adversarial_logits], fewest=2)
    with torch.autocast(clean_logits.device.type, enabled=False):
        clean, adversarial = (F.log_softmax(_precise(x), dim=1) for x in (clean_logits, adversarial_logits))
        return F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _rows(where: str, given: Sequence[Tensor], fewest: int) -> int:
    """The n of tensors that are all of one shape (n, d)."""
    shapes = [tuple(x.shape) for x in given]
    if len(shapes) < fewest:
        raise UserError(f"{where}: {len(shapes)} views, expected at least {fewest}")
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise UserError(f"{where}: shapes {', '.join(map(str, shapes))}, expected one shape (n, d) for all")
    return shapes[0][0]
