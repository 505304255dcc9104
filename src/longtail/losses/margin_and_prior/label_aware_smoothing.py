"""Label-aware smoothing of MiSLAS (Zhong et al., CVPR 2021, arXiv 2104.00466).

L = (1 - eps_y) (-log p_y) + eps_y mean_c(-log p_c): frequent classes, of which a network is too sure, are
smoothed more than rare ones. The smoothed share is spread over all C classes, the label's own among them.
"""

import math

import torch
from torch import Tensor

from longtail.core.counts import ClassCounts
from longtail.losses.softmax.adjusted_softmax import LabelLoss, adjusted_cross_entropy


def smoothing_by_class(counts: ClassCounts, frequent: float, rare: float) -> Tensor:
    """Return eps_c = rare + (frequent - rare) sin(pi (n_c - n_min) / (2 (n_max - n_min))), float32 [C].

    Where all classes are equally frequent, eps is `frequent` for all.

    Args:
        counts: Training images per class.
        frequent: eps of the most frequent class, in [0, 1).
        rare: eps of the rarest class, in [0, 1).
    """
    n = counts.tensor(torch.float64)
    spread = n.max() - n.min()
    place = (n - n.min()) / spread if spread else torch.ones_like(n)
    return (rare + (frequent - rare) * torch.sin(place * math.pi / 2)).float()


class LabelAwareSmoothing(LabelLoss):
    """Cross-entropy with a smoothing for each class; arguments as for `smoothing_by_class`."""

    smoothing: Tensor

    def __init__(self, counts: ClassCounts, frequent: float = 0.4, rare: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("smoothing", smoothing_by_class(counts, frequent, rare))

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return adjusted_cross_entropy(logits, labels, label_smoothing=self.smoothing)
