"""Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362), with a queue.

    L_i = - 1 / |P(i)| * sum_{j in P(i)} log [ exp(s_ij) / sum_{k in A(i)} exp(s_ik) ]

Contrast set and symbols: `longtail.losses.contrastive.contrast_set`.
"""

from __future__ import annotations

from torch import Tensor

from longtail.losses.contrastive.contrast_set import Contrast


def supervised_contrastive(pairs: Contrast) -> Tensor:
    """Return the loss of each anchor, [B]."""
    log_p = pairs.similarity.log_softmax(dim=1).masked_fill(~pairs.usable, 0.0)
    return -(pairs.positive * log_p).sum(dim=1) / pairs.positive.sum(dim=1).clamp_min(1)
