"""Inverse softmax: what SADE's third expert is told (Zhang et al., NeurIPS 2022, arXiv 2107.09249).

CE(z + log pi - tau log R(pi), y), with R(pi) the frequencies given to the classes in reverse order: as if the
rarest class were the most frequent one when the model is used. tau = 0 is balanced softmax; where the counts
are exactly geometric it is logit adjustment of strength 1 + tau. As a function it is
`logit_adjusted(z, y, inverse_bias(counts, tau))`.
"""

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.losses.margin_and_prior.compensation import reversed_prior
from longtail.losses.softmax.adjusted_softmax import LabelLoss, adjusted_cross_entropy


def inverse_bias(counts: ClassCounts, tau: float) -> Tensor:
    """Return log pi - tau log R(pi), float64 [C].

    Args:
        counts: Training images per class.
        tau: How much rarer than alike frequent classes are to be; 2 on CIFAR and ImageNet-LT, 1 on
            iNaturalist and Places-LT.
    """
    return counts.prior(torch.float64).log() - tau * reversed_prior(counts).log()


class InverseSoftmax(LabelLoss):
    """CE(z + log pi - tau log R(pi), y); arguments as for `inverse_bias`."""

    bias: Tensor

    def __init__(self, counts: ClassCounts, tau: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("bias", inverse_bias(counts, tau).float())

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, bias=self.bias)
