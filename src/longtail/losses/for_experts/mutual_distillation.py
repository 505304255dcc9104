"""What experts learn from each other in NCL (Li et al., CVPR 2022, arXiv 2203.15359).

    D = 1 / (E - 1) sum over i != j of KL( softmax(z_j) || softmax(z_i) )

Every expert is pulled to every other one, and none is held fast: the gradient reaches both sides. The same is
done on the hard categories of each image, its own class and those that are mistaken for it most:

    M = the K classes of largest z, the image's own among them;  masked z = z where M, 0 elsewhere

The released code sets the other logits to 0, so they keep a share of the probability; `removed` takes them
out.
"""

from typing import Literal

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32

Others = Literal["zero", "removed"]
LOWEST = -1e4  # finite, so that 0 times its difference is 0 in a divergence


def mutual_divergence(logits: Tensor) -> Tensor:
    """Return D, averaged over the images; 0 where all experts agree, or there is one only.

    Args:
        logits: Of the experts, [B, E, C].
    """
    experts = logits.shape[1]
    if experts == 1:
        return logits.new_zeros((), dtype=torch.float32)
    log_p = at_least_float32(logits).log_softmax(dim=2)
    of, to = log_p[:, :, None], log_p[:, None]  # j: [B, E, 1, C], i: [B, 1, E, C]
    divergences = (of.exp() * (of - to)).sum(dim=3)  # [B, E, E], 0 for i = j
    return divergences.sum(dim=(1, 2)).mean() / (experts - 1)


def hard_categories(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return M, bool [B, C] with `count` true in each row.

    Args:
        logits: [B, C].
        labels: int64 [B].
        count: K, from 1 (the label alone) to C.
    """
    first = logits.detach().scatter(1, labels[:, None], torch.inf)
    hardest = first.topk(count, dim=1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, hardest, True)


def masked_logits(logits: Tensor, mask: Tensor, others: Others = "zero") -> Tensor:
    """Return the logits of the hard categories, the others at 0 or next to impossible, [..., C].

    Args:
        logits: [..., C].
        mask: bool, broadcast to the logits.
        others: What becomes of the others.
    """
    return at_least_float32(logits).masked_fill(~mask, 0.0 if others == "zero" else LOWEST)
