"""Range loss (Zhang et al., ICCV 2017, arXiv 1611.08976, eq. 4 to 7).

    L        alpha L_intra + beta L_inter
    L_intra  sum over classes of k / sum_{j = 1..k} 1 / D_j
    L_inter  max(M - min over pairs of classes |mu - mu'|^2, 0)
    D_j      the k largest distances within the class
    mu       the mean features of the classes in the batch

D are squared Euclidean distances. The harmonic mean of a class's largest distances is pulled together, and
the two nearest means apart. Every class needs several images in a batch. As a baseline for long tails (Liu et
al., CVPR 2019) it is added to cross-entropy.

Codes in circulation differ: one minimises k / sum D, which drives a class apart; another takes the largest
distances of the whole batch, each pair twice. This is written from the equations. A small constant keeps
equal features from dividing by zero.
"""

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32
from longtail.losses.contrastive.lifted_structured import distances

SMALLEST = 1e-6  # squared distance


def range_loss(
    features: Tensor,
    labels: Tensor,
    *,
    largest: int = 2,
    margin: float = 10.0,
    intra: float = 1.0,
    inter: float = 1.0,
) -> Tensor:
    """Return the loss of a batch, a scalar.

    Args:
        features: [B, D].
        labels: int64 [B].
        largest: k; a class with fewer pairs in the batch counts those it has.
        margin: M, a squared distance.
        intra: alpha.
        inter: beta.
    """
    x = at_least_float32(features)
    square = distances(features).square()
    own = labels[:, None] == labels  # [B, B]
    first = (
        torch.tril(own, diagonal=-1).sum(dim=1) == 0
    )  # the first image of its class in the batch
    place = own.to(torch.uint8).argmax(dim=1)  # that image, for each

    # one row of pairs for each class: pairs (i, j), i < j, in the row of the first image of their class
    pairs = torch.triu(own, diagonal=1)
    i, j = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    kept = pairs[i, j] & (place[i] == torch.arange(len(labels), device=labels.device)[:, None])
    within = torch.where(kept, square[i, j], -1.0)  # [B, pairs]
    k = min(largest, within.shape[1])
    top = within.topk(k, dim=1).values if k else within.new_zeros(len(labels), 0)
    there = top >= 0
    inverse = torch.where(there, 1 / (top.clamp_min(0) + SMALLEST), 0.0).sum(dim=1)
    count = there.sum(dim=1)
    pulled = (count / torch.where(count > 0, inverse, 1.0)).sum()

    mean = own.to(x.dtype) @ x / own.sum(dim=1, keepdim=True)  # of the class of each image
    between = (mean[:, None] - mean[None]).square().sum(dim=2)
    other = first[:, None] & first[None] & ~own
    nearest = between.masked_fill(~other, torch.inf).min()
    pushed = (margin - nearest).clamp_min(0)  # 0 where there is one class only
    return intra * pulled + inter * pushed
