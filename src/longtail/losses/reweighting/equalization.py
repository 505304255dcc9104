"""Softmax equalization loss (Tan et al., CVPR 2020, arXiv 2003.05176).

    L = -log( e^{z_y} / sum_c w_c e^{z_c} ),  w_c in {0, 1}
    w_c = 0 with probability `spared` where pi_c < lam and c is not y

Every image pushes down the logits of all other classes, and a rare class is pushed by nearly all of them:
so let it be spared most pushes. The released code of that paper is the sigmoid form for detection; the values
for CIFAR are those of the BagofTricks repository.
"""

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.core.precision import at_least_float32
from longtail.losses.softmax.adjusted_softmax import (
    LabelLoss,
    adjusted_cross_entropy,
    check_fit,
)


def softmax_equalization(logits: Tensor, labels: Tensor, spared: Tensor) -> Tensor:
    """Return the loss of each image, [B]; at most cross-entropy.

    e^-L does not add up to 1 over all classes, so it is no probability.

    Args:
        logits: [B, C].
        labels: int64 [B].
        spared: Where w is 0, bool [B, C]; an image's own class always counts.
    """
    check_fit(logits, labels, spared)
    own = torch.zeros_like(spared).scatter(1, labels[:, None], True)
    z = at_least_float32(logits).masked_fill(spared & ~own, -torch.inf)
    return adjusted_cross_entropy(z, labels)


class SoftmaxEqualization(LabelLoss):
    """The loss with a fresh draw for every image and class, from torch's global generator.

    Args:
        counts: Training images per class.
        spared: Probability that a rare class is spared, in [0, 1]; 0 is cross-entropy.
        threshold: lam: classes with a smaller share of all images are rare, in [0, 1].
    """

    rare: Tensor

    def __init__(self, counts: ClassCounts, spared: float = 0.9, threshold: float = 0.005) -> None:
        super().__init__()
        self.spared = spared
        self.register_buffer("rare", counts.prior(torch.float64) < threshold)

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        drawn = torch.rand(logits.shape, device=logits.device) < self.spared
        return softmax_equalization(logits, labels, drawn & self.rare)
