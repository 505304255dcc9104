"""Parametric contrastive loss (PaCo; Cui et al., ICCV 2021, arXiv 2107.12028, eq. 8).

    t_ic = z_ic + log pi_c                     centres: logits of a linear layer, no temperature
    p_i  = softmax over the C centres t_i and all s_ij, j in A(i)
    w_i  = 1 on the centre of y_i, alpha on every positive sample, 0 elsewhere
    L_i  = - sum_m w_im log p_im / sum_m w_im

The centres are learnable positives that every anchor has, so an anchor of a rare class, which finds few
positives in the queue, learns from its centre, and one of a frequent class from its samples too.
Contrast set and s: `longtail.losses.contrastive.contrast_set`.

The paper writes one temperature for everything; the released code divides the similarities only, and so
do we by default (`centre_temperature`). log pi is that of normalised frequencies: the constant matters,
because centres compete with samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32
from longtail.losses.contrastive.contrast_set import Contrast


@dataclass(frozen=True)
class PaCoTerms:
    """The loss, and what it says about every anchor.

    Attributes:
        loss: [B].
        centre_probability: p of the anchor's own centre, [B], without gradient.
        positives: |P(i)|, [B].
    """

    loss: Tensor
    centre_probability: Tensor
    positives: Tensor


def paco(
    centre_logits: Tensor,
    pairs: Contrast,
    labels: Tensor,
    *,
    log_prior: Tensor | None = None,
    alpha: float = 0.05,
    centre_weight: float = 1.0,
    centre_temperature: float = 1.0,
    sample_share: float = 1.0,
) -> PaCoTerms:
    """Return the loss of each anchor, in at least float32.

    Args:
        centre_logits: z, [B, C].
        pairs: Similarities of the anchors, see `contrast`.
        labels: int64 [B].
        log_prior: log pi, [C]; None without rebalancing of the centres, as for balanced data.
        alpha: Weight of a positive sample, at least 0; .01 on CIFAR-100-LT, .05 on ImageNet-LT.
        centre_weight: Weight of the own centre (beta of the released code).
        centre_temperature: Divides z + log pi, above 0: 1 in the released scripts; that of the similarities
            is equation 8 as printed.
        sample_share: Factor of the samples in the denominator (gamma of the released code); 0 leaves
            balanced softmax if alpha is 0 too.
    """
    t = at_least_float32(centre_logits)
    if log_prior is not None:
        t = t + log_prior.to(t.dtype)
    t = t / centre_temperature
    s = pairs.similarity.to(t.dtype)
    share = math.log(sample_share) if sample_share > 0 else -math.inf
    log_sum = torch.logaddexp(t.logsumexp(dim=1), s.logsumexp(dim=1) + share)
    log_p_centre = t.gather(1, labels[:, None])[:, 0] - log_sum
    # an anchor is not its own positive: its -inf must not meet the weight 0
    log_p_samples = s.masked_fill(~pairs.usable, 0.0) - log_sum[:, None]
    positives = pairs.positive.sum(dim=1)
    weighted = centre_weight * log_p_centre + alpha * (pairs.positive * log_p_samples).sum(dim=1)
    loss = -weighted / (centre_weight + alpha * positives)
    return PaCoTerms(loss, log_p_centre.detach().exp(), positives)
