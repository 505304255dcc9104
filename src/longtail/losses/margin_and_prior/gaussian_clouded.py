"""Gaussian clouded logits (Li et al., CVPR 2022, arXiv 2305.11733).

    z_c = s (cos_c - sigma |eps_c| delta_c - m onehot(y)_c),  eps ~ N(0, 1/3) cut to [-1, 1]
    delta_c = (log n_max - log n_c) / (log n_max - log n_min)

Features of a rare class lie on a few points and soon reach softmax's flat part. A cloud around each of its
logits, the wider, the rarer the class, keeps gradients alive and spreads its features. The draw is fresh for
every image and class, the image's own among them. Released code: 1/3 is the standard deviation.
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


def cloud_sizes(counts: ClassCounts) -> Tensor:
    """Return delta, float32 [C]: 0 for the most frequent class, 1 for the rarest.

    Where all classes are equally frequent, it is 0 for all.
    """
    log_n = counts.tensor(torch.float64).log()
    spread = log_n.max() - log_n.min()
    return ((log_n.max() - log_n) / spread if spread else torch.zeros_like(log_n)).float()


def gaussian_clouded(
    logits: Tensor, labels: Tensor, noise: Tensor, spread: Tensor, margin: float = 0.0
) -> Tensor:
    """Return the loss of each image, [B].

    Args:
        logits: s cos, [B, C].
        labels: int64 [B].
        noise: |eps|, [B, C], in [0, 1].
        spread: s sigma delta, [C].
        margin: s m.
    """
    check_fit(logits, labels, spread)
    z = at_least_float32(logits)
    z = z - noise.to(z) * spread.to(z)
    margins = torch.full_like(z[0], margin) if margin else None  # [C]
    return adjusted_cross_entropy(z, labels, margin=margins)


class GaussianClouded(LabelLoss):
    """The loss on the logits of a cosine head, which are s cos already.

    Args:
        counts: Training images per class.
        sigma: Size of the cloud of the rarest class, in units of a cosine; 0 with margin 0 is cross-entropy.
        margin: m, in units of a cosine.
        scale: s of the head.
    """

    spread: Tensor

    def __init__(
        self, counts: ClassCounts, sigma: float = 0.5, margin: float = 0.0, scale: float = 30.0
    ) -> None:
        super().__init__()
        self.margin = scale * margin
        self.register_buffer("spread", scale * sigma * cloud_sizes(counts))

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B], with noise from torch's global generator."""
        noise = (torch.randn(logits.shape, device=logits.device) / 3).abs().clamp_max(1)
        return gaussian_clouded(logits, labels, noise, self.spread, self.margin)
