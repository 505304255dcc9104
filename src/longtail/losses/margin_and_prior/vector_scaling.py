"""Vector-scaling loss (Kini et al., NeurIPS 2021, arXiv 2103.01550), and class-dependent temperatures in it.

    L = CE(z / T + tau log pi, y),   T_c = (n_max / n_c)^gamma

A temperature above 1 makes a rare class's logit count for less in training, so it must grow larger; the
offset is that of logit adjustment. tau = 0 is the class-dependent temperature of Ye et al. (arXiv
2001.01385), gamma = 0 logit adjustment. The raw z is used for prediction. The paper writes Delta_c = (n_c /
n_max)^gamma as a factor.
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


def class_temperatures(counts: ClassCounts, gamma: float) -> Tensor:
    """Return T, float32 [C]: 1 for the most frequent class, ratio^gamma for the rarest."""
    n = counts.tensor(torch.float64)
    return ((n.max() / n) ** gamma).float()


def vector_scaling(
    logits: Tensor, labels: Tensor, temperatures: Tensor, log_prior: Tensor, tau: float = 1.0
) -> Tensor:
    """Return the loss of each image, [B].

    Args:
        logits: [B, C].
        labels: int64 [B].
        temperatures: T, [C], above 0.
        log_prior: `ClassCounts.log_prior()`, [C].
        tau: Strength of the offset.
    """
    check_fit(logits, labels, temperatures)
    z = at_least_float32(logits)
    return adjusted_cross_entropy(z / temperatures.to(z), labels, bias=tau * log_prior)


class VectorScaling(LabelLoss):
    """Module form of `vector_scaling`.

    Args:
        counts: Training images per class.
        gamma: Exponent of the temperatures, at least 0.
        tau: Strength of the offset.
    """

    temperatures: Tensor
    log_prior: Tensor

    def __init__(self, counts: ClassCounts, gamma: float = 0.05, tau: float = 0.75) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("temperatures", class_temperatures(counts, gamma))
        self.register_buffer("log_prior", counts.log_prior())

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, [B]."""
        return vector_scaling(logits, labels, self.temperatures, self.log_prior, self.tau)
