"""Lifted structured loss (Song et al., CVPR 2016, arXiv 1511.06452, eq. 4).

    J_ij = log( sum_{k: y_k != y_i} e^{m - D_ik} + sum_{l: y_l != y_j} e^{m - D_jl} ) + D_ij
    L    = 1 / (2 |P|) sum over positive pairs ij of max(0, J_ij)^2

D are Euclidean distances of features, which are not normalised; P are the pairs of images of one class in the
batch. Every class needs two images in a batch or more, so draw several of a class (`draws_per_class` of
class-balanced sampling gives P classes of K images). As a baseline for long tails (Liu et al., CVPR 2019) it
is added to cross-entropy.
"""

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32


def lifted_structured(features: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Return the loss of a batch, a scalar; 0 without a positive pair, or without another class.

    Args:
        features: [B, D].
        labels: int64 [B].
        margin: m.
    """
    distance = distances(features)
    own = labels[:, None] == labels
    pushes = (margin - distance).masked_fill(own, -torch.inf).logsumexp(dim=1)  # [B]
    pairs = torch.triu(own, diagonal=1)  # each once
    # where a class has no other beside it, J is -inf: no loss, and no gradient through it
    usable = pairs & torch.isfinite(pushes)[:, None]
    pushes = torch.where(torch.isfinite(pushes), pushes, 0.0)
    j = torch.logaddexp(pushes[:, None], pushes[None]) + distance
    losses = torch.where(usable, j.clamp_min(0).square(), 0.0)
    return losses.sum() / (2 * pairs.sum()).clamp_min(1)


def distances(features: Tensor) -> Tensor:
    """Return the Euclidean distances of features [B, D] to each other, [B, B], in at least float32.

    Between equal features there is no gradient.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = at_least_float32(features)
        found: Tensor = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return found
