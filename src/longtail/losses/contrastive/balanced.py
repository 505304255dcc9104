"""Balanced contrastive loss (BCL; Zhu et al., CVPR 2022, arXiv 2207.09052).

    s_ij = f_i . r_j / temperature     anchors f: two views of a batch; rows r: all anchors, a centre a class
    N_i(c)  rows of class c beside the anchor itself
    L_i  = - mean over positives j of log( e^{s_ij} / sum_c mean over N_i(c) of e^{s_ik} )       eq. 6

Class-averaging: in the denominator every class counts the same, however many of its images are in the batch.
Class-complement: with the centres every class is in every batch. Positives are the anchor's other view, other
images of its class, and its centre.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32


def balanced_contrastive(
    views: Tensor, labels: Tensor, centres: Tensor, temperature: float
) -> Tensor:
    """Return the loss of each anchor, [2 B], in at least float32.

    Args:
        views: Unit rows, first all images in one view, then all in the other, [2 B, d].
        labels: int64 [B].
        centres: Unit rows, one for each class, [C, d].
        temperature: Above 0.
    """
    with torch.autocast(views.device.type, enabled=False):
        anchors, centres = at_least_float32(views), at_least_float32(centres)
        s = anchors @ torch.cat([anchors, centres]).T / temperature  # [2B, 2B + C]
    own = torch.cat([labels, labels])
    classes = torch.cat([own, torch.arange(len(centres), device=labels.device)])  # of the rows
    count = torch.zeros(len(centres), dtype=s.dtype, device=s.device)
    count = count.index_add(0, classes, torch.ones_like(classes, dtype=s.dtype))
    itself = torch.eye(len(own), len(classes), dtype=torch.bool, device=s.device)
    positive = (own[:, None] == classes) & ~itself
    others = count[classes] - positive.to(s.dtype)  # the anchor is none of its class's
    log_sum = (s - others.log()).masked_fill(itself, -torch.inf).logsumexp(dim=1)
    log_p = s - log_sum[:, None]
    return -torch.where(positive, log_p, 0.0).sum(dim=1) / positive.sum(dim=1)
