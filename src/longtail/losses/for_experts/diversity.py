"""What keeps experts apart in RIDE (Wang et al., ICLR 2021, arXiv 2010.01809).

    D = mean(T)^2 sum_e KL( softmax(zbar / T) || softmax(z_e / T) ),  zbar = mean of z_e, without gradient

The loss is lowered by lam D. The text of the paper has the divergence of every pair of experts; the released
code, which we follow, that of each from the mean, which costs E terms and not E^2. T is lower for rare
classes, so that experts may differ more in them:

    T_c = (g C pi_c + 1 - g) / max over the classes
"""

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32


def diversity(logits: Tensor, temperature: Tensor) -> Tensor:
    """Return D, averaged over the images; 0 where all experts agree.

    Args:
        logits: Of the experts, [B, E, C].
        temperature: T, [C], above 0.
    """
    temperature = temperature.to(logits.device)
    z = at_least_float32(logits)
    log_q = (z / temperature).log_softmax(dim=2)  # [B, E, C]
    log_p = (z.detach().mean(dim=1, keepdim=True) / temperature).log_softmax(dim=2)  # [B, 1, C]
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=2)  # [B, E]
    return temperature.mean() ** 2 * divergence.sum(dim=1).mean()


def diversity_temperature(counts: ClassCounts, tilt: float) -> Tensor:
    """Return T, float32 [C], in (0, 1]: 1 for the most frequent class, lower for rarer ones.

    Args:
        counts: Training images per class.
        tilt: g, from 0 (all 1) to below 1.
    """
    prior = counts.prior(torch.float64)
    temperature = tilt * len(counts) * prior + 1 - tilt
    return (temperature / temperature.max()).float()
